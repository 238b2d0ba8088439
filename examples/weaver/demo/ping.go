package demo

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
)

const (
	pingTimeout = time.Second
	pingID      = 0x6f77
)

// pinger sends ICMP echo requests from the namespace in which it was made. Close it when done.
type pinger struct {
	conn *icmp.PacketConn
	seq  int
}

// newPinger has to be called in the namespace to ping from.
func newPinger() (*pinger, error) {
	conn, err := icmp.ListenPacket("ip4:icmp", "0.0.0.0")
	if err != nil {
		return nil, fmt.Errorf("socket for ping: %w", err)
	}
	return &pinger{conn: conn}, nil
}

func (p *pinger) Close() error { return p.conn.Close() }

// ping sends one request and returns how long the answer took.
func (p *pinger) ping(ctx context.Context, to netip.Addr) (time.Duration, error) {
	p.seq++
	payload := binary.BigEndian.AppendUint64([]byte("overweave"), uint64(time.Now().UnixNano()))
	request := icmp.Message{Type: ipv4.ICMPTypeEcho, Body: &icmp.Echo{ID: pingID, Seq: p.seq, Data: payload}}
	packet, err := request.Marshal(nil)
	if err != nil {
		return 0, err
	}
	start := time.Now()
	deadline := start.Add(pingTimeout)
	if d, ok := ctx.Deadline(); ok && d.Before(deadline) {
		deadline = d
	}
	if err := p.conn.SetReadDeadline(deadline); err != nil {
		return 0, err
	}
	if _, err := p.conn.WriteTo(packet, &net.IPAddr{IP: to.AsSlice()}); err != nil {
		return 0, fmt.Errorf("ping %s: %w", to, err)
	}
	buf := make([]byte, 1500)
	for {
		n, _, err := p.conn.ReadFrom(buf)
		if err != nil {
			return 0, fmt.Errorf("ping %s: no answer: %w", to, err)
		}
		if p.isAnswer(buf[:n], payload) {
			return time.Since(start), nil
		}
	}
}

// isAnswer reports whether packet answers the last request; a raw socket sees the answers to others too.
func (p *pinger) isAnswer(packet, payload []byte) bool {
	const protocolICMP = 1
	m, err := icmp.ParseMessage(protocolICMP, packet)
	if err != nil || m.Type != ipv4.ICMPTypeEchoReply {
		return false
	}
	echo, ok := m.Body.(*icmp.Echo)
	return ok && echo.ID == pingID && echo.Seq == p.seq && bytes.Equal(echo.Data, payload)
}
