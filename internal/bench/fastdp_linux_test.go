package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/internal/lab"
	"github.com/overweave/overweave/internal/lab/labtest"
)

// TestFastDPBench runs the measurement once, much too short for its times to mean anything.
func TestFastDPBench(t *testing.T) {
	if !labtest.RequireKernel(t, lab.OpenVSwitch, lab.ESP) {
		return
	}
	var out bytes.Buffer
	args := []string{"fastdp", "--only", "vxlan,fastdp-bridged,fastdp-esp", "--rounds", "1", "--seconds", "0.1", "--pairs", "500", "--macs", "200", "--json"}
	require.NoError(t, run(t.Context(), args, &out))
	var res fastdpResult
	require.NoError(t, json.Unmarshal(out.Bytes(), &res), out.String())

	require.Len(t, res.Modes, 3)
	for _, m := range res.Modes {
		require.Positive(t, m.MTU, m.Mode)
		for _, f := range m.Figures {
			require.Positive(t, f.Median, "%s, %s", m.Mode, f.Name)
			require.Equal(t, m.Mode == "fastdp-bridged", f.Ratio > 0, "%s: the others have nothing to be compared with", m.Mode)
		}
	}
	require.Equal(t, 500, res.Pairs.FastDP.Frames)
	require.Zero(t, res.Pairs.FastDP.Lost)
	require.True(t, res.Pairs.Vswitch != nil || res.Pairs.Missing != "")
	require.True(t, res.Scale.Met, "%+v", res.Scale)

	var text strings.Builder
	require.NoError(t, res.print(&text))
	require.Contains(t, text.String(), "| fastdp-esp ")
}

func TestFastDPBenchRefusesWhatItDoesNotKnow(t *testing.T) {
	for _, args := range []string{"--only nothing", "--rounds 0", "--seconds 0", "--pairs -1", "--macs 70000"} {
		require.Error(t, runFastDP(t.Context(), strings.Fields(args), &bytes.Buffer{}), args)
	}
}
