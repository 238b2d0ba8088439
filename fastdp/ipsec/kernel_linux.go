package ipsec

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

const (
	requestTimeout = 5 * time.Second
	watchTick      = 200 * time.Millisecond // until Watch notices the end of its context
	eventBuffer    = 1 << 20                // bytes; when it is full, changes are missed
	replayWindow   = 256                    // packets
	algorithm      = "rfc4106(gcm(aes))"
	icvBits        = 128
)

// XFRM is the IPsec of the kernel, in the network namespace of the thread that opened it. It is safe for concurrent use.
type XFRM struct {
	requests *netlink.Handle
	events   *nl.NetlinkSocket
}

// OpenKernel opens the IPsec of the calling thread's network namespace. It takes CAP_NET_ADMIN there. The error wraps
// [errors.ErrUnsupported] if the kernel has none.
func OpenKernel() (*XFRM, error) {
	requests, err := netlink.NewHandle(unix.NETLINK_XFRM)
	if errors.Is(err, unix.EPROTONOSUPPORT) {
		return nil, fmt.Errorf("ipsec: %w: no XFRM in this kernel", errors.ErrUnsupported)
	}
	if err != nil {
		return nil, fmt.Errorf("ipsec: open: %w", err)
	}
	events, err := nl.Subscribe(unix.NETLINK_XFRM, nl.XFRMNLGRP_SA, nl.XFRMNLGRP_POLICY)
	if err != nil {
		requests.Close()
		return nil, fmt.Errorf("ipsec: subscribe: %w", err)
	}
	k := &XFRM{requests: requests, events: events}
	_ = events.SetReceiveBufferSize(eventBuffer, true) // what is missed is found by looking
	if err := requests.SetSocketTimeout(requestTimeout); err != nil {
		return nil, errors.Join(fmt.Errorf("ipsec: open: %w", err), k.Close())
	}
	return k, nil
}

// Close ends Watch. What is in the kernel stays. It is to be called once, when nobody makes requests any more.
func (k *XFRM) Close() error {
	k.requests.Close()
	k.events.Close()
	return nil
}

// PutPolicy implements [Kernel].
func (k *XFRM) PutPolicy(p Policy) error {
	x := xfrmPolicy(p)
	return opError("put policy", k.requests.XfrmPolicyUpdate(x))
}

// DeletePolicy implements [Kernel].
func (k *XFRM) DeletePolicy(p Policy) error {
	return opError("delete policy", k.requests.XfrmPolicyDel(xfrmPolicy(p)))
}

// AddAssociation implements [Kernel].
func (k *XFRM) AddAssociation(a Association) error {
	x := xfrmState(a)
	x.Selector = xfrmSelector(a.Selector)
	x.Reqid, x.ESN, x.ReplayWindow = int(a.ReqID), true, replayWindow
	x.Aead = &netlink.XfrmStateAlgo{Name: algorithm, Key: a.Key[:], ICVLen: icvBits}
	return opError("add association", k.requests.XfrmStateAdd(x))
}

// DeleteAssociation implements [Kernel].
func (k *XFRM) DeleteAssociation(a Association) error {
	return opError("delete association", k.requests.XfrmStateDel(xfrmState(a)))
}

// List implements [Kernel].
func (k *XFRM) List() (policies []Policy, associations []Association, err error) {
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		xp, err := k.requests.XfrmPolicyList(family)
		if err != nil {
			return nil, nil, opError("list policies", err)
		}
		for _, x := range xp {
			if p, ok := ourPolicy(x); ok {
				policies = append(policies, p)
			}
		}
		xa, err := k.requests.XfrmStateList(family)
		if err != nil {
			return nil, nil, opError("list associations", err)
		}
		for _, x := range xa {
			if a, ok := ourAssociation(x); ok {
				associations = append(associations, a)
			}
		}
	}
	return policies, associations, nil
}

// Watch implements [Kernel].
func (k *XFRM) Watch(ctx context.Context, changed func(Event)) error {
	tick := unix.NsecToTimeval(watchTick.Nanoseconds())
	if err := k.events.SetReceiveTimeout(&tick); err != nil {
		return opError("watch", err)
	}
	for ctx.Err() == nil {
		messages, from, err := k.events.Receive()
		if errors.Is(err, unix.EAGAIN) {
			continue
		}
		if err != nil {
			return opError("watch", err)
		}
		if from.Pid != 0 {
			continue // not from the kernel
		}
		for _, m := range messages {
			if e, ok := parseEvent(m.Header.Type, m.Data); ok {
				changed(e)
			}
		}
	}
	return nil
}

func xfrmPolicy(p Policy) *netlink.XfrmPolicy {
	x := xfrmSelector(p.Selector)
	x.Priority = int(priorities[p.Action])
	x.Dir = netlink.XFRM_DIR_IN
	if p.Direction == Out {
		x.Dir = netlink.XFRM_DIR_OUT
	}
	switch p.Action {
	case Block:
		x.Action = netlink.XFRM_POLICY_BLOCK
	case ESP:
		x.Tmpls = []netlink.XfrmPolicyTmpl{{
			Src: ip(p.Src.Addr()), Dst: ip(p.Dst.Addr()),
			Proto: netlink.XFRM_PROTO_ESP, Mode: netlink.XFRM_MODE_TRANSPORT, Reqid: int(p.ReqID), Spi: int(p.SPI),
		}}
	case Clear:
	}
	return x
}

func xfrmSelector(s Selector) *netlink.XfrmPolicy {
	return &netlink.XfrmPolicy{Src: ipNet(s.Src), Dst: ipNet(s.Dst), Proto: unix.IPPROTO_UDP, DstPort: int(s.Port)}
}

func xfrmState(a Association) *netlink.XfrmState {
	return &netlink.XfrmState{
		Src: ip(a.Src.Addr()), Dst: ip(a.Dst.Addr()),
		Proto: netlink.XFRM_PROTO_ESP, Mode: netlink.XFRM_MODE_TRANSPORT, Spi: int(a.SPI),
	}
}

// ourPolicy reports whether a policy of the kernel is made as ours are.
func ourPolicy(x netlink.XfrmPolicy) (p Policy, ok bool) {
	p.Selector, ok = selectorOf(x)
	if !ok || x.Dir != netlink.XFRM_DIR_IN && x.Dir != netlink.XFRM_DIR_OUT {
		return p, false
	}
	if x.Dir == netlink.XFRM_DIR_OUT {
		p.Direction = Out
	}
	block := x.Action == netlink.XFRM_POLICY_BLOCK
	switch {
	case x.Priority == int(priorities[Block]) && block && len(x.Tmpls) == 0:
		p.Action = Block
	case x.Priority == int(priorities[Clear]) && !block && len(x.Tmpls) == 0:
		p.Action = Clear
	case x.Priority == int(priorities[ESP]) && !block && len(x.Tmpls) == 1 && ownReqID(uint32(x.Tmpls[0].Reqid)):
		p.Action, p.ReqID, p.SPI = ESP, uint32(x.Tmpls[0].Reqid), uint32(x.Tmpls[0].Spi)
	default:
		return p, false
	}
	return p, true
}

// ourAssociation reports whether an association of the kernel is made as ours are.
func ourAssociation(x netlink.XfrmState) (a Association, ok bool) {
	if x.Selector == nil || x.Proto != netlink.XFRM_PROTO_ESP || x.Spi == 0 || !ownReqID(uint32(x.Reqid)) {
		return a, false
	}
	a.Selector, ok = selectorOf(*x.Selector)
	if !ok || !a.Src.IsSingleIP() || !a.Dst.IsSingleIP() {
		return a, false
	}
	a.SPI, a.ReqID, a.Packets, a.Bytes = uint32(x.Spi), uint32(x.Reqid), x.Statistics.Packets, x.Statistics.Bytes
	return a, true
}

func selectorOf(x netlink.XfrmPolicy) (s Selector, ok bool) {
	if x.Proto != unix.IPPROTO_UDP || x.DstPort == 0 || x.SrcPort != 0 || x.Src == nil || x.Dst == nil {
		return s, false
	}
	s.Port = uint16(x.DstPort)
	var okSrc, okDst bool
	s.Src, okSrc = prefix(x.Src)
	s.Dst, okDst = prefix(x.Dst)
	return s, okSrc && okDst
}

func prefix(n *net.IPNet) (netip.Prefix, bool) {
	addr, ok := netip.AddrFromSlice(n.IP)
	ones, bits := n.Mask.Size()
	if bits == 32 {
		addr = addr.Unmap()
	}
	return netip.PrefixFrom(addr, ones), ok && addr.BitLen() == bits
}

func ip(a netip.Addr) net.IP { return a.AsSlice() }

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: ip(p.Addr()), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// opError names the request, and speaks of missing things as package os does.
func opError(op string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.ESRCH), errors.Is(err, unix.ENOENT):
		return fmt.Errorf("ipsec: %s: %w (%w)", op, os.ErrNotExist, err)
	case errors.Is(err, unix.EAFNOSUPPORT), errors.Is(err, unix.ENOSYS), errors.Is(err, unix.EPROTONOSUPPORT):
		return fmt.Errorf("ipsec: %s: %w (%w)", op, errors.ErrUnsupported, err)
	}
	return fmt.Errorf("ipsec: %s: %w", op, err)
}
