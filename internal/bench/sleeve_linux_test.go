package main

import (
	"bytes"
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/internal/lab/labtest"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == "sleeve" && os.Args[2] == childWord {
		main()
		return
	}
	labtest.Main(m)
}

// TestSleeveBench runs the measurement once, much too short to mean anything, over all modes that there are here.
func TestSleeveBench(t *testing.T) {
	labtest.Require(t)
	var out bytes.Buffer
	require.NoError(t, run(t.Context(), []string{"sleeve", "--rounds", "1", "--seconds", "0.3", "--json"}, &out))
	var res sleeveResult
	require.NoError(t, json.Unmarshal(out.Bytes(), &res), out.String())
	require.Equal(t, len(sleeveModes()), len(res.Modes)+len(res.LeftOut))

	measured := map[string]bool{}
	for _, m := range res.Modes {
		measured[m.Mode] = true
		require.Positive(t, m.MTU, m.Mode)
		for _, f := range m.Figures {
			if len(f.Rounds) == 0 && f.Name == "memory" && m.Mode == "vxlan" {
				continue // the kernel has no daemon
			}
			require.Empty(t, f.Failed, "%s, %s", m.Mode, f.Name)
			require.Positive(t, f.Median, "%s, %s", m.Mode, f.Name)
			if m.Mode == reference {
				require.Equal(t, 1.0, f.Ratio)
			}
		}
	}
	require.True(t, measured["sleeve"] && measured["sleeve-plain"], "the modes that need nothing special: %v", res.LeftOut)

	var text strings.Builder
	require.NoError(t, res.print(&text))
	for name := range measured {
		require.Contains(t, text.String(), "| "+name+" ")
	}
}

func TestSleeveBenchRefusesWhatItDoesNotKnow(t *testing.T) {
	for _, args := range []string{"--only nothing", "--figures nothing", "--rounds 0", "--seconds 0", "child nothing {}", "child sink {"} {
		err := runSleeve(t.Context(), strings.Fields(args), &bytes.Buffer{})
		require.Error(t, err, args)
	}
}

func TestMedian(t *testing.T) {
	require.Zero(t, median(nil))
	require.Equal(t, 2.0, median([]float64{3, 1, 2}))
	require.Equal(t, 2.5, median([]float64{4, 1, 2, 3}))
}
