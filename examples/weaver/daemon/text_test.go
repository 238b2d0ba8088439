package daemon

import (
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/mesh"
	"github.com/overweave/overweave/mesh/overlay"
)

// TestBetterLinks says of a connection why it does not use what it would rather use, and when it tries again.
func TestBetterLinks(t *testing.T) {
	next := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	c := mesh.ConnStatus{
		Link: overlay.LinkStatus{Overlay: "sleeve2"},
		Links: []overlay.LinkStatus{
			{Overlay: "fastdp2", Reason: "no answer from 10.0.0.2:6784 (UDP) for 2.5s", Next: next},
			{Overlay: "fastdp"},
			{Overlay: "sleeve2"},
			{Overlay: "sleeve", Reason: "not shown: it is no better"},
		},
	}
	require.Equal(t, "   fastdp2: no answer from 10.0.0.2:6784 (UDP) for 2.5s, next try: 2026-01-02T03:04:05Z\n   fastdp: not established yet\n", betterLinks(c))
	c.Link = c.Links[0]
	require.Empty(t, betterLinks(c))
}

// TestFieldIsALine: errors that are several have a line each, and tables have one for all.
func TestFieldIsALine(t *testing.T) {
	err := errors.Join(errors.New("no route"), errors.New("no address"))
	require.Equal(t, "        Trouble: no route; no address\n", trouble(err.Error()))
}
