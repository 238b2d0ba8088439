package odp_test

import (
	"context"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/odp"
	"github.com/overweave/overweave/odp/odptest"
)

// A probe whose answer is lost, or whose context ends meanwhile, leaves nothing behind, and can be repeated.
func TestProbeLeavesNothing(t *testing.T) {
	for _, feature := range []odp.Feature{odp.FeaturePerCPU, odp.FeatureVportPIDs, odp.FeatureExtHdrs, odp.FeatureUFID} {
		for _, patience := range []time.Duration{time.Second, time.Hour} {
			synctest.Test(t, func(t *testing.T) {
				k := odptest.New()
				c, dp, _ := openHooked(t, k, odp.Config{})
				k.LoseReplies(1)
				ctx, cancel := context.WithTimeout(context.Background(), patience)
				defer cancel()
				require.ErrorIs(t, c.Probe(ctx, dp, feature), odp.ErrUnknownOutcome)
				require.Zero(t, count(t, c, dp))
				for d, err := range c.Datapaths(context.Background()) {
					require.NoError(t, err)
					require.Equal(t, "dp0", d.Name)
				}
				require.NoError(t, c.Probe(context.Background(), dp, feature))
			})
		}
	}
}

// A kernel that does not know identifiers finds no key in the question. Nothing but questions is sent: such a kernel would take the
// removal of a flow by its identifier for the removal of all flows.
func TestProbeUFID(t *testing.T) {
	k := odptest.New()
	c, dp, h := openHooked(t, k, odp.Config{})
	asks := func(message []byte) {
		const get = 3
		require.EqualValues(t, get, message[16])
	}
	h.send = asks
	err := c.Probe(t.Context(), dp+100, odp.FeatureUFID)
	require.ErrorIs(t, err, os.ErrNotExist, "that there is no such datapath says nothing")
	k.Refuse(syscall.EINVAL)
	require.ErrorIs(t, c.Probe(t.Context(), dp, odp.FeatureUFID), odp.ErrNotSupported)
	other, dp, h := openHooked(t, odptest.New(), odp.Config{})
	h.send = asks
	require.NoError(t, other.Probe(t.Context(), dp, odp.FeatureUFID))
}

// Which feature a kernel lacks is found out, not guessed.
func TestMissingFeatureIsProbed(t *testing.T) {
	const wanted = odp.Unaligned | odp.TCRecircSharing | odp.PerCPU
	for lacking, refusals := range map[odp.Feature][]syscall.Errno{
		0:                   {syscall.EOPNOTSUPP},
		odp.FeatureTCRecirc: {syscall.EOPNOTSUPP, 0, 0, syscall.EOPNOTSUPP},       // made and removed, then refused
		odp.FeaturePerCPU:   {syscall.EOPNOTSUPP, 0, 0, 0, 0, syscall.EOPNOTSUPP}, // twice that
	} {
		k := odptest.New()
		c, _ := open(t, k)
		k.Refuse(refusals...)
		_, err := c.CreateDatapath(t.Context(), odp.DatapathSpec{Name: "d", Features: wanted})
		require.ErrorIs(t, err, syscall.EOPNOTSUPP)
		if lacking == 0 {
			require.NotErrorIs(t, err, odp.ErrNotSupported)
		} else {
			require.ErrorContains(t, err, lacking.String()+" is not supported")
		}
	}
}

// The kernel's ENOTSUPP, of which there is no name outside, is what kernels without connection tracking answer.
func TestKernelsOwnErrno(t *testing.T) {
	const enotsupp = syscall.Errno(524)
	k := odptest.New()
	c, dp := open(t, k)
	f := flowOn(1)
	f.Actions = []odp.Action{odp.CT{}, odp.Recirc(1)}
	k.Refuse(enotsupp, enotsupp)
	err := c.PutFlow(t.Context(), dp.Index, f)
	require.ErrorIs(t, err, odp.ErrNotSupported)
	require.ErrorContains(t, err, "action ct is not supported")
	require.ErrorIs(t, c.Probe(t.Context(), dp.Index, odp.FeatureCT), odp.ErrNotSupported, "which is remembered")
	k.Refuse(syscall.EINVAL)
	err = c.Execute(t.Context(), dp.Index, odp.Execute{Packet: make([]byte, 60), Actions: f.Actions})
	require.ErrorIs(t, err, odp.ErrNotSupported)
}
