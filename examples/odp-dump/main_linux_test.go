package main

import (
	"bytes"
	"context"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/internal/lab/labtest"
	"github.com/overweave/overweave/odp"
)

func TestMain(m *testing.M) { labtest.Main(m) }

// What is printed is what ovs-dpctl show and ovs-dpctl dump-flows print.
func TestLikeTheTool(t *testing.T) {
	if !labtest.RequireOpenVSwitch(t) {
		return
	}
	tool := labtest.RequireTool(t, "ovs-dpctl", "openvswitch-switch")
	ctx := t.Context()
	c, err := odp.Open(ctx, odp.Config{})
	require.NoError(t, err)
	defer c.Close()
	dp, err := c.CreateDatapath(ctx, odp.DatapathSpec{Name: "odpdump", Features: odp.Unaligned | odp.PerCPU, UpcallPIDs: []uint32{1}})
	require.NoError(t, err)
	defer func() { require.NoError(t, c.DeleteDatapath(context.Background(), dp.Index)) }()
	_, err = c.CreateVport(ctx, dp.Index, odp.VportSpec{Name: "odpdump1", Type: odp.Internal, Number: 7})
	require.NoError(t, err)
	fill(t, c, dp.Index)

	for _, verbose := range []bool{false, true} {
		var out bytes.Buffer
		require.NoError(t, run(ctx, &out, verbose))
		args := []string{"--no-names", "dump-flows", "odpdump"}
		if verbose {
			args = []string{"-m", "dump-flows", "odpdump"}
		}
		theirs := command(t, tool, "show") + command(t, tool, args...)
		require.Equal(t, lines(theirs), lines(out.String()))
	}
}

// fill makes flows, one of them with an identifier, and has packets hit and miss them.
func fill(t *testing.T, c *odp.Conn, dp odp.Index) {
	syn := append(make([]byte, 12), 8, 0, 0x45, 0, 0, 40, 0, 0, 0, 0, 64, odp.ProtoTCP, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2)
	syn = append(syn, 0, 1, 0, 2, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x1a, 0, 9, 0, 0, 0, 0)
	m, err := odp.ParseMatch("in_port(7),eth(),eth_type(0x0800),ipv4(src=10.0.0.1,proto=6,frag=no),tcp_flags(+syn)")
	require.NoError(t, err)
	id := odp.UFID("0123456789abcdef")
	require.NoError(t, c.PutFlow(t.Context(), dp, odp.Flow{Match: m, UFID: id, Actions: []odp.Action{odp.Output(7), odp.Trunc(20), odp.Output(0)}}))
	require.NoError(t, c.PutFlow(t.Context(), dp, odp.Flow{Match: odp.Match{odp.Exact(odp.InPort(7)), odp.Exact(odp.TypeARP)}}))
	big := odp.Flow{Match: odp.Match{odp.Exact(odp.InPort(7)), odp.Exact(odp.TypeRARP)}, Actions: slices.Repeat([]odp.Action{odp.Output(7)}, 4050)}
	require.NoError(t, c.PutFlow(t.Context(), dp, big), "its actions do not fit a listing")
	for range 3 {
		again := []odp.Action{odp.Recirc(0)}
		require.NoError(t, c.Execute(t.Context(), dp, odp.Execute{Packet: syn, InPort: 7, HasInPort: true, Actions: again}))
	}
}

func command(t *testing.T, tool string, args ...string) string {
	out, err := exec.CommandContext(t.Context(), tool, args...).Output()
	require.NoError(t, err)
	return string(out)
}

// lines leaves out what need not be equal: the order of flows, the times, and what either side knows alone.
func lines(text string) []string {
	for old, with := range map[string]string{
		`used:[0-9.]+s`: "used:a moment ago", `, dp:ovs`: "", `,key32\(00 00/00 00\)`: "", `,ipv6_exthdrs\(0/0\)`: "",
	} {
		text = regexp.MustCompile(old).ReplaceAllString(text, with)
	}
	list := strings.Split(text, "\n")
	slices.Sort(list)
	return list
}
