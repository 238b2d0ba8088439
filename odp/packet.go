package odp

import (
	"context"

	"github.com/overweave/overweave/odp/internal/nla"
)

// Execute is a packet that the datapath is to handle, often one that was missed. That it was executed does not mean that it was
// sent: a port that is down or does not exist drops it silently.
type Execute struct {
	// Packet is the frame, at least 14 bytes.
	Packet []byte
	// Key is the metadata of the packet. Give the key of the upcall if actions depend on it; headers in it are not looked at.
	Key KeyData
	// InPort is the port that it counts as received by, if Key is nil and HasInPort.
	InPort    uint32
	HasInPort bool
	Actions   []Action
	// Hash is the hash of the upcall, for the same source port of a tunnel; 0 if there was none.
	Hash uint64
	// MRU is the MRU of the upcall, the largest fragment that Packet was put together from; 0 if it was not.
	MRU uint16
	// UpcallPID is the socket for upcalls that this causes, 0 for the usual. Since Linux 6.17; older kernels ignore it.
	UpcallPID uint32

	probe bool
}

// Execute has the datapath handle a packet. For many, put them into a [Batch].
func (c *Conn) Execute(ctx context.Context, dp Index, x Execute) error {
	err := c.do(ctx, "execute a packet", c.executeRequest(dp, x), nil)
	if refused(err) {
		err = c.explain(ctx, dp, appendFeaturesOf(nil, x.Actions), err)
	}
	return err
}

func (c *Conn) executeRequest(dp Index, x Execute) request {
	return request{family: c.families.packet, cmd: cmdExecute, dp: dp, body: x.appendTo}
}

func (x *Execute) appendTo(e *nla.Encoder) {
	if len(x.Packet) < 14 {
		e.Fail(&FlowError{Field: "packet", Reason: "shorter than an Ethernet header"})
	}
	e.Bytes(pktPacket, x.Packet)
	m := e.Begin(pktKey)
	switch {
	case x.Key != nil:
		e.B = append(e.B, x.Key...)
	case x.HasInPort:
		appendKey(e, InPort(x.InPort))
	}
	e.End(m)
	appendChecked(e, pktActions, x.Actions)
	if x.Hash != 0 {
		e.U64(pktHash, x.Hash)
	}
	if x.MRU != 0 {
		e.U16(pktMRU, x.MRU)
	}
	if x.UpcallPID != 0 {
		e.U32(pktUpcallPID, x.UpcallPID)
	}
	if x.probe {
		e.Flag(pktProbe)
	}
}
