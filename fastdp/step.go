package fastdp

import (
	"net/netip"
	"slices"

	"github.com/overweave/overweave/mesh/peer"
	"github.com/overweave/overweave/odp"
)

// step is one thing that a flow does with a frame. A list of steps can be compared, and stands for one list of actions.
type step struct {
	kind  stepKind
	port  uint32    // stepOutput, stepTunnel: of the datapath; stepUser: the socket; stepRecirc: the number of the stage
	vni   vni       // stepTunnel
	outer outer     // stepTunnel
	hop   peer.Name // stepTunnel: the neighbour at the other end. It is not in the kernel.
}

type stepKind uint8

const (
	stepOutput stepKind = iota + 1 // to a local port
	stepTunnel                     // to a neighbour
	stepUser                       // a copy to user space, for neighbours that the datapath does not reach
	stepRecirc                     // on to another stage
)

// outer holds the outer addresses of a tunnel frame.
type outer struct{ src, dst netip.Addr }

func (o outer) reversed() outer { return outer{src: o.dst, dst: o.src} }

const (
	// foreignMark is kept by the kernel with an action, and given back: neighbours that the datapath does not reach are to have
	// the frame as well.
	foreignMark = 1

	// maxSteps bounds the steps of a flow, and of one request to handle a packet: what they stand for has to fit into an attribute of
	// 64 KiB, with addresses of IPv6 too. Frames that go to more are sent on one by one.
	maxSteps = 600

	tunnelTTL = 64
	maxVNI    = 1<<24 - 1
)

// actions returns what the kernel is told.
func actions(steps []step) []odp.Action {
	list := make([]odp.Action, 0, len(steps)+1)
	for _, s := range steps {
		switch s.kind {
		case stepOutput:
			list = append(list, odp.Output(s.port))
		case stepTunnel:
			list = append(list, setTunnel(s.vni, s.outer), odp.Output(s.port))
		case stepUser:
			list = append(list, odp.Userspace{PID: s.port, Data: []byte{foreignMark}})
		case stepRecirc:
			list = append(list, odp.Recirc(s.port))
		}
	}
	return list
}

func setTunnel(id vni, o outer) odp.Action {
	return odp.Set{Key: odp.Tunnel{ID: uint64(id), Src: o.src, Dst: o.dst, TTL: tunnelTTL, Flags: odp.TunnelKey | odp.TunnelDF}}
}

// parseActions returns the steps that a list of actions stands for; ok is false if we would not make such a list.
func parseActions(list []odp.Action) (steps []step, ok bool) {
	for i := 0; i < len(list); i++ {
		switch a := list[i].(type) {
		case odp.Output:
			steps = append(steps, step{kind: stepOutput, port: uint32(a)})
		case odp.Recirc:
			steps = append(steps, step{kind: stepRecirc, port: uint32(a)})
		case odp.Userspace:
			if len(a.Data) != 1 || a.Data[0] != foreignMark {
				return nil, false
			}
			steps = append(steps, step{kind: stepUser, port: a.PID})
		case odp.Set:
			t, isTunnel := a.Key.(odp.Tunnel)
			if !isTunnel || i+1 == len(list) || t.ID > maxVNI {
				return nil, false
			}
			out, isOutput := list[i+1].(odp.Output)
			s := step{kind: stepTunnel, port: uint32(out), vni: vni(t.ID), outer: outer{t.Src, t.Dst}}
			if !isOutput || t.Flags != odp.TunnelKey|odp.TunnelDF || t.TTL != tunnelTTL || t.TOS != 0 {
				return nil, false
			}
			steps = append(steps, s)
			i++
		default:
			return nil, false
		}
	}
	return steps, true
}

// sameSteps reports whether two lists have the kernel do the same.
func sameSteps(a, b []step) bool {
	return slices.EqualFunc(a, b, step.same)
}

func (s step) same(o step) bool {
	s.hop, o.hop = 0, 0
	return s == o
}
