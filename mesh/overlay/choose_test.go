package overlay

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func loadVectors(t *testing.T, file string, into any) {
	t.Helper()
	raw, err := os.ReadFile("testdata/" + file)
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(raw, into))
}

// TestVectorChooseBest runs the whole truth table of two overlays.
func TestVectorChooseBest(t *testing.T) {
	type flags struct {
		Established, Failed bool
		OnHold              bool `json:"on_hold"`
	}
	var v struct {
		Choose struct {
			Cases []struct {
				Best   any // index or text of an error
				Index0 flags
				Index1 flags
			}
		} `json:"choose_best"`
	}
	loadVectors(t, "sleeve.json", &v)
	require.Len(t, v.Choose.Cases, 64)
	for _, c := range v.Choose.Cases {
		b := &Bundle{}
		for _, f := range []flags{c.Index0, c.Index1} {
			b.members = append(b.members, &member{established: f.Established, failed: f.Failed, onHold: f.OnHold})
		}
		best := b.choose()
		index, ok := c.Best.(float64)
		if !ok {
			require.Nil(t, best, "%+v", c)
			continue
		}
		require.Same(t, b.members[int(index)], best, "%+v", c)
	}
}

func TestVectorCommonOverlays(t *testing.T) {
	var v struct {
		Features struct {
			Common []struct {
				Index  []string `json:"index_to_overlay"`
				Own    []string `json:"own_offer"`
				Theirs *string  `json:"their_offer"`
			} `json:"common_list_as_computed_by_weave_net_2_8"`
		} `json:"overlay_features"`
	}
	loadVectors(t, "sleeve.json", &v)
	require.NotEmpty(t, v.Features.Common)
	for _, c := range v.Features.Common {
		if c.Theirs == nil {
			continue // no key: TestVectorBundle
		}
		// 2.8 always goes by its own order, as we do when we have dialled.
		require.Equal(t, c.Index, commonOverlays(c.Own, strings.Fields(*c.Theirs), true), "%+v", c)
	}
}

func TestCommonOverlaysGoByTheOrderOfWhoDialled(t *testing.T) {
	ours, theirs := []string{"a", "b", "c"}, []string{"c", "x", "b", "a", "b"}
	require.Equal(t, []string{"a", "b", "c"}, commonOverlays(ours, theirs, true))
	require.Equal(t, []string{"c", "b", "a"}, commonOverlays(ours, theirs, false))
	require.Equal(t, commonOverlays(ours, theirs, true), commonOverlays(theirs, ours, false), "both ends agree")
	require.Empty(t, commonOverlays(ours, []string{"x"}, true))

	var many []string
	for i := range 1000 {
		many = append(many, fmt.Sprint(i))
	}
	require.Len(t, commonOverlays(many, many, true), 256, "the index has one byte")
}
