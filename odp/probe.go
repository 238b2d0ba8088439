package odp

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"syscall"

	"github.com/overweave/overweave/odp/internal/nla"
)

// answers keeps what probes found out for certain.
type answers struct {
	mu    sync.Mutex
	known map[Feature]bool
}

func (a *answers) get(f Feature) (has, known bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	has, known = a.known[f]
	return has, known
}

func (a *answers) set(f Feature, has bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.known == nil {
		a.known = make(map[Feature]bool)
	}
	a.known[f] = has
}

// Probe tries whether the kernel has a feature: nil if it has, an [UnsupportedError] if it has not, another error if that could
// not be found out. Conclusive answers are remembered by the Conn. Probing an action or a key takes a datapath to try it in;
// no packet is touched, and nothing left behind, unless the Conn is closed meanwhile.
func (c *Conn) Probe(ctx context.Context, dp Index, f Feature) error {
	has, known := c.probed.get(f)
	if !known {
		err := c.try(ctx, dp, f)
		if has = err == nil; !has && !refused(err) && !errors.Is(err, ErrNotSupported) {
			return err
		}
		c.probed.set(f, has)
	}
	if has {
		return nil
	}
	return unsupported(f, nil)
}

// refused reports whether an error is of those by which kernels refuse what they do not know.
func refused(err error) bool {
	return errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.EOPNOTSUPP)
}

func unsupported(f Feature, cause error) error {
	name, since := f.about()
	return &UnsupportedError{Feature: name, Since: since, Kernel: kernelRelease(), Err: cause}
}

func (c *Conn) try(ctx context.Context, dp Index, f Feature) error {
	switch f {
	case FeatureMeters:
		return present(c.families.meter, f)
	case FeatureCTLimit:
		return present(c.families.limit, f)
	case FeatureUFID:
		return c.tryIdentifier(ctx, dp)
	case FeatureHashSymL4:
		return c.tryAction(ctx, dp, Hash{Algorithm: HashSymL4})
	case FeatureNAT:
		return c.tryAction(ctx, dp, CT{NAT: &NAT{}})
	case FeaturePerCPU:
		return c.tryUserFeature(ctx, PerCPU)
	}
	switch n := uint16(f & 0xff); f &^ 0xff {
	case featureAction:
		if a := exampleAction(n); a != nil {
			return c.tryAction(ctx, dp, a)
		}
	case featureKey:
		if k := exampleKey(n); k != nil {
			return c.tryFlow(ctx, dp, probeMatch(k))
		}
	case featureUserBits:
		return c.tryUserFeature(ctx, Features(f-featureUserBits))
	}
	return fmt.Errorf("odp: %s cannot be probed", f)
}

func present(f family, feature Feature) error {
	if f.id == 0 {
		return unsupported(feature, nil)
	}
	return nil
}

// tryAction has the kernel look at an action that it does not run: in a sample of probability 0.
func (c *Conn) tryAction(ctx context.Context, dp Index, a Action) error {
	frame := make([]byte, 60)
	copy(frame[12:], []byte{0x08, 0x00, 0x45, 0, 0, 46, 0, 0, 0, 0, 64, ProtoUDP})
	return c.do(ctx, "probe", c.executeRequest(dp, Execute{Packet: frame, Actions: []Action{Sample{Actions: []Action{a}}}, probe: true}), nil)
}

// tryIdentifier asks for a flow by nothing but an identifier. Kernels that do not know those find that there is no key.
func (c *Conn) tryIdentifier(ctx context.Context, dp Index) error {
	_, err := c.GetFlow(ctx, dp, Flow{UFID: "\x00overweave-probe"})
	if errors.Is(err, syscall.ENOENT) {
		return nil
	}
	return err
}

// tryFlow makes a flow that no packet can match, and removes it.
func (c *Conn) tryFlow(ctx context.Context, dp Index, m Match) error {
	f := Flow{Match: m}
	r := request{family: c.families.flow, cmd: cmdNew, flags: flagCreate, dp: dp, body: func(e *nla.Encoder) {
		f.appendTo(e)
		e.Flag(flowProbe)
	}}
	err := c.do(ctx, "probe", r, nil)
	if errors.Is(err, syscall.EEXIST) {
		err = nil // a probe at the same time
	}
	if err == nil || errors.Is(err, ErrUnknownOutcome) {
		_, _ = c.DeleteFlow(context.WithoutCancel(ctx), dp, f)
	}
	return err
}

// probeMatch matches a recirculation id that nobody gives out.
func probeMatch(k Key) Match {
	m := Match{Exact(RecircID(0xfffffffe)), Exact(InPort(65534))}
	switch k := k.(type) {
	case IPv6ExtHdrs:
		return append(m, Exact(TypeIPv6), Exact(k))
	case CTTupleIPv4:
		return append(m, Exact(TypeIPv4), Exact(CTState(0)), Exact(k))
	case CTTupleIPv6:
		return append(m, Exact(TypeIPv6), Exact(CTState(0)), Exact(k))
	case NSH:
		return append(m, Exact(TypeNSH), Exact(k))
	case MPLS:
		return append(m, Exact(TypeMPLS), Exact(k))
	case CTState:
		return append(m, Exact(k))
	case CTZone:
		return append(m, Exact(k))
	case CTMark:
		return append(m, Exact(k))
	case CTLabels:
		return append(m, Exact(k))
	}
	return m
}

func exampleKey(n uint16) Key {
	for _, k := range []Key{
		IPv6ExtHdrs(0), CTTupleIPv4{}, CTTupleIPv6{}, NSH{MDType: 1}, MPLS{0x100}, CTState(0), CTZone(0), CTMark(0), CTLabels{},
	} {
		if k.keyType() == n {
			return k
		}
	}
	return nil
}

// exampleAction returns an action of a kind that every kernel which knows the kind accepts for an IPv4 packet.
func exampleAction(n uint16) Action {
	for _, a := range []Action{
		Output(1), Recirc(1), Hash{}, PushVLAN{Type: TypeVLAN}, PopVLAN{}, PushMPLS{Type: TypeMPLS, Entry: 0x100},
		AddMPLS{Type: TypeMPLS, Entry: 0x100}, CT{}, Trunc(64), PopEth{}, CTClear{}, PushNSH{MDType: 1, TTL: 63, NextProto: 3},
		Meter(1), Clone{Output(1)}, CheckPktLen{Len: 100}, DecTTL{}, Drop(0), PSample{Group: 1}, Sample{}, Userspace{PID: 1},
		SetBits(SkbMark(0), SkbMark(1)), Set{SkbMark(0)},
	} {
		if a.actionType() == n {
			return a
		}
	}
	return nil
}

// tryUserFeature asks for a feature with a datapath made for the purpose.
func (c *Conn) tryUserFeature(ctx context.Context, f Features) error {
	spec := DatapathSpec{Name: fmt.Sprintf("odp-%08x", rand.Uint32()), Features: f, UpcallPIDs: []uint32{c.sock.Port()}}
	d, err := c.datapath(ctx, "probe", spec.request())
	gone := c.do(context.WithoutCancel(ctx), "probe", request{family: c.families.datapath, cmd: cmdDel, body: func(e *nla.Encoder) {
		e.String(dpName, spec.Name) // it may be there whatever the answer was
	}}, nil)
	switch {
	case err != nil:
		return err
	case d.Features != f:
		return unsupported(featureUserBits+Feature(f), nil)
	}
	return gone
}

// explainFeatures makes the refusal of features of user space say which is missing.
func (c *Conn) explainFeatures(ctx context.Context, f Features, err error) error {
	if !errors.Is(err, syscall.EOPNOTSUPP) {
		return err
	}
	var wanted []Feature
	for bit := Unaligned; bit <= PerCPU; bit <<= 1 {
		switch {
		case f&bit == 0:
		case bit == PerCPU:
			wanted = append(wanted, FeaturePerCPU)
		default:
			wanted = append(wanted, featureUserBits+Feature(bit))
		}
	}
	return c.explain(ctx, 0, wanted, err)
}

// explain makes a refusal say what is missing, if that is the reason: it probes what not every kernel has.
func (c *Conn) explain(ctx context.Context, dp Index, wanted []Feature, err error) error {
	for _, feature := range wanted {
		if probe := c.Probe(ctx, dp, feature); errors.Is(probe, ErrNotSupported) {
			return unsupported(feature, err)
		}
	}
	return err
}

// features returns those features that a flow needs and that can be probed.
func (f Flow) features() (out []Feature) {
	for _, field := range f.Match {
		if k := field.value; k != nil && exampleKey(k.keyType()) != nil {
			out = append(out, FeatureOfKey(k))
		}
	}
	return appendFeaturesOf(out, f.Actions)
}

// features returns what a CT action needs beyond CT itself; all of it depends on the kernel's configuration.
func (a CT) features() (out []Feature) {
	if a.Zone != 0 {
		out = append(out, FeatureOfKey(CTZone(0)))
	}
	if a.MarkMask != 0 {
		out = append(out, FeatureOfKey(CTMark(0)))
	}
	if a.LabelsMask != (CTLabels{}) {
		out = append(out, FeatureOfKey(CTLabels{}))
	}
	if a.NAT != nil {
		out = append(out, FeatureNAT)
	}
	return out
}

func appendFeaturesOf(out []Feature, list []Action) []Feature {
	for _, a := range list {
		if ct, ok := a.(CT); ok {
			out = append(out, ct.features()...)
		}
		if _, since := actionAbout(a.actionType()); since != "" && exampleAction(a.actionType()) != nil {
			out = append(out, FeatureOfAction(a))
		}
		switch a := a.(type) {
		case Sample:
			out = appendFeaturesOf(out, a.Actions)
		case Clone:
			out = appendFeaturesOf(out, a)
		case DecTTL:
			out = appendFeaturesOf(out, a)
		case CheckPktLen:
			out = appendFeaturesOf(appendFeaturesOf(out, a.Greater), a.LessEqual)
		}
	}
	return out
}
