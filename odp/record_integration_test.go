//go:build linux

package odp_test

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/google/gopacket/layers"
	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/odp"
)

var record = flag.Bool("record", false, "have TestIntegrationRecord write testdata/kernel.json")

// recorder keeps what the kernel sends, each message once, by what it is about.
type recorder struct {
	about    string
	messages map[string][]string
}

func (r *recorder) dial(o odp.SocketOptions) (odp.Socket, error) {
	s, err := odp.DialKernel(o)
	return recordedSocket{s, r}, err
}

type recordedSocket struct {
	odp.Socket
	to *recorder
}

func (s recordedSocket) Receive(bufs [][]byte, lengths []int) (int, error) {
	n, err := s.Socket.Receive(bufs, lengths)
	for i := range n {
		for b := bufs[i][:lengths[i]]; len(b) >= 16; {
			size := int(binary.NativeEndian.Uint32(b))
			s.to.keep(b[:size])
			b = b[min((size+3)&^3, len(b)):]
		}
	}
	return n, err
}

func (r *recorder) keep(b []byte) {
	about := r.about
	switch typ := binary.NativeEndian.Uint16(b[4:]); {
	case typ == 2 && len(b) >= 20 && binary.NativeEndian.Uint32(b[16:]) != 0:
		about = "refusal"
	case typ < 16 || about == "":
		return
	}
	if text := hex.EncodeToString(b); !slices.Contains(r.messages[about], text) {
		r.messages[about] = append(r.messages[about], text)
	}
}

// TestIntegrationRecord goes through everything that a kernel answers. To renew the record that other tests and fuzzing begin with:
//
//	go test ./odp -run TestIntegrationRecord -record
func TestIntegrationRecord(t *testing.T) {
	if !inKernel(t) {
		return
	}
	r := &recorder{about: "family", messages: map[string][]string{}}
	c, err := odp.Open(t.Context(), odp.Config{Dial: r.dial})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	r.about = "datapath"
	dp := newDatapath(t, c, odp.DatapathSpec{Name: "odptest17", Features: odp.Unaligned | odp.VportPIDs}).Index
	for _, err := range c.Datapaths(t.Context()) {
		require.NoError(t, err)
	}
	r.recordVports(t, c, dp)
	r.recordFlows(t, c, dp)
	r.recordUpcalls(t, c, dp)
	r.about = "meter"
	_, err = c.MeterLimits(t.Context(), dp)
	require.NoError(t, err)
	require.NoError(t, c.SetMeter(t.Context(), dp, odp.MeterInfo{ID: 3, Rate: 5, Kbps: true}))
	_, err = c.Meter(t.Context(), dp, 3)
	require.NoError(t, err)
	_, err = c.DeleteMeter(t.Context(), dp, 3)
	require.NoError(t, err)
	r.about = "limit"
	_, err = c.ZoneLimits(t.Context())
	require.NoError(t, err)
	r.about = ""
	for about, list := range r.messages {
		require.NotEmpty(t, list, about)
	}
	if *record {
		data, err := json.MarshalIndent(r.messages, "", "\t")
		require.NoError(t, err)
		require.NoError(t, os.WriteFile("testdata/kernel.json", append(data, '\n'), 0o644))
	}
}

func (r *recorder) recordVports(t *testing.T, c *odp.Conn, dp odp.Index) {
	r.about = "vport"
	for _, s := range []odp.VportSpec{
		{Name: "odprvx", Type: odp.VXLAN, DstPort: 6784, GBP: true}, {Name: "odprgn", Type: odp.Geneve}, {Name: "odprgre", Type: odp.GRE},
		{Name: "odprin", Type: odp.Internal, Number: 9, UpcallPIDs: []uint32{1}},
	} {
		_, err := c.CreateVport(t.Context(), dp, s)
		require.NoError(t, err)
	}
	_, err := c.CreateVport(t.Context(), dp, odp.VportSpec{Name: "odprin", Type: odp.Internal})
	require.ErrorIs(t, err, os.ErrExist)
	for _, err := range c.Vports(t.Context(), dp) {
		require.NoError(t, err)
	}
}

func (r *recorder) recordFlows(t *testing.T, c *odp.Conn, dp odp.Index) {
	r.about = "flow"
	for i, text := range corpus() {
		f := parseFlow(t, text)
		if i%2 == 0 {
			id, err := f.Match.UFID()
			require.NoError(t, err)
			f.UFID = id
		}
		if err := c.CreateFlow(t.Context(), dp, f); !errors.Is(err, odp.ErrNotSupported) {
			require.NoError(t, err)
		}
	}
	for _, err := range c.Flows(t.Context(), dp, odp.DumpOptions{}) {
		require.NoError(t, err)
	}
	require.NoError(t, c.FlushFlows(t.Context(), dp))
}

func (r *recorder) recordUpcalls(t *testing.T, c *odp.Conn, dp odp.Index) {
	r.about = "upcall"
	up, err := c.OpenUpcalls(odp.UpcallConfig{})
	require.NoError(t, err)
	defer up.Close()
	_, err = c.SetUpcallPIDs(t.Context(), dp, odp.LocalPort, up.PID())
	require.NoError(t, err)
	r.messages["vport"] = append(r.messages["vport"], r.messages["upcall"]...) // the answer to that
	r.messages["upcall"] = nil
	ask := odp.Userspace{PID: up.PID(), Data: []byte("12345678"), Actions: true}
	for _, h := range []headers{
		udp4(), tcp4(), sctp4(), udp6(), tcp6(), icmp4(), fragment4(), arp(), solicitation(), tagged(udp4(), layers.EthernetTypeDot1Q),
		tagged(udp4(), layers.EthernetTypeQinQ, layers.EthernetTypeDot1Q), labelled(udp4(), 7),
	} {
		runs := [][]odp.Action{{odp.Recirc(1)}, {odp.Trunc(30), ask}}
		whole := h.ip4 == nil || h.ip4.Flags&layers.IPv4MoreFragments == 0
		if typ := h.eth.EthernetType; whole && (typ == layers.EthernetTypeIPv4 || typ == layers.EthernetTypeIPv6) {
			runs = append(runs, []odp.Action{odp.CT{}, odp.Recirc(1)})
		}
		for _, actions := range runs {
			require.NoError(t, c.Execute(t.Context(), dp, odp.Execute{Packet: h.build(t, nil), HasInPort: true, Actions: actions}))
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	ups := make([]odp.Upcall, 64)
	n, err := up.Read(ctx, ups)
	require.NoError(t, err)
	require.Greater(t, n, 20)
}
