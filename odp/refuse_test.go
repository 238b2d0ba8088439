package odp_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/odp"
	"github.com/overweave/overweave/odp/odptest"
)

// What is missing in a match or an action list is an error, whichever way it is sent, and the Conn works on.
func TestIncomplete(t *testing.T) {
	k := odptest.New()
	c, dp := open(t, k)
	ctx, good := t.Context(), odp.Match{odp.Exact(odp.InPort(1))}
	list := func(a ...odp.Action) []odp.Action { return a }
	noMask := odp.SetBits[odp.Key](odp.SkbMark(1), nil)
	for _, actions := range [][]odp.Action{
		list(nil), list(odp.Set{}), list(odp.SetMasked{}), list(noMask), list(odp.Clone{nil}), list(odp.Sample{Actions: list(odp.Set{})}),
	} {
		f := odp.Flow{Match: good, Actions: actions}
		require.ErrorIs(t, c.PutFlow(ctx, dp.Index, f), odp.ErrInvalidFlow, "%#v", actions)
		x := odp.Execute{Packet: make([]byte, 60), Actions: actions}
		require.ErrorIs(t, c.Execute(ctx, dp.Index, x), odp.ErrInvalidFlow)
		var b odp.Batch
		b.PutFlow(dp.Index, f)
		b.Execute(dp.Index, x)
		var failed *odp.BatchError
		require.ErrorAs(t, c.Run(ctx, &b), &failed)
		require.Len(t, failed.Failed, 2)
		require.NotPanics(t, func() { _ = odp.Notation{}.Actions(actions) })
	}
	for _, m := range []odp.Match{{{}}, {odp.Exact(odp.InPort(1)), {}}} {
		require.ErrorIs(t, c.PutFlow(ctx, dp.Index, odp.Flow{Match: m}), odp.ErrInvalidFlow)
		_, err := c.GetFlow(ctx, dp.Index, odp.Flow{Match: m})
		require.ErrorIs(t, err, odp.ErrInvalidFlow)
		require.NotPanics(t, func() { _ = m.String() })
	}
	require.NoError(t, c.PutFlow(ctx, dp.Index, odp.Flow{Match: good}))
}
