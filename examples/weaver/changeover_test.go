package main

import (
	"bytes"
	"encoding/gob"
	"net/netip"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	bolt "go.etcd.io/bbolt"

	"github.com/overweave/overweave/examples/weaver/api"
	"github.com/overweave/overweave/internal/device"
	"github.com/overweave/overweave/mesh/peer"
)

// What Weave Net 2.8 stores: section 5.1 of the IPAM specification, to which package ipam holds the recorded bytes.
type (
	weaveToken struct {
		Token, Peer   uint64
		Version, Free uint64
	}
	weaveRing struct {
		Start, End, Peer uint64
		Entries          []weaveToken
		Seeds            []uint64
	}
	weaveCIDR struct {
		Addr      uint64
		PrefixLen int
	}
	weaveOwned struct {
		IsContainer bool
		Cidrs       []weaveCIDR
	}
)

// leaveWeave leaves on a host what Weave Net would: a data file in the place of ours, and the bridge with a container.
func (h *host) leaveWeave(name peer.Name, owner, pid string, netns string, addr netip.Prefix) {
	number := func(a netip.Addr) (n uint64) {
		for _, b := range a.As4() {
			n = n<<8 | uint64(b)
		}
		return n
	}
	start := number(addr.Masked().Addr())
	size := uint64(1) << (32 - addr.Bits())
	db, err := bolt.Open(filepath.Join(h.dir, "db-ipam.db"), 0o600, nil)
	require.NoError(h.t, err)
	require.NoError(h.t, db.Update(func(tx *bolt.Tx) error {
		top, err := tx.CreateBucket([]byte("top"))
		require.NoError(h.t, err)
		for key, value := range map[string]any{
			"peername": uint64(name),
			"ring": weaveRing{
				Start: start, End: start + size, Peer: uint64(name), Seeds: []uint64{uint64(name)},
				Entries: []weaveToken{{Token: start, Peer: uint64(name), Version: 17, Free: size - 1}},
			},
			"ownedAddresses": map[string]weaveOwned{owner: {IsContainer: true, Cidrs: []weaveCIDR{{number(addr.Addr()), addr.Bits()}}}},
		} {
			var buf bytes.Buffer
			require.NoError(h.t, gob.NewEncoder(&buf).Encode(value))
			require.NoError(h.t, top.Put([]byte(key), buf.Bytes()))
		}
		return nil
	}))
	require.NoError(h.t, db.Close())
	require.NoError(h.t, h.Do(func() error {
		mac := name.Bytes()
		if _, err := device.EnsureBridge(device.Bridge{Name: "weave", MAC: mac[:]}); err != nil {
			return err
		}
		_, err := device.Attach(h.t.Context(), device.Attachment{
			Bridge: "weave", NetNS: netns, HostName: device.HostName(pid), Addresses: []netip.Prefix{addr},
		})
		return err
	}))
}

// TestChangeOver: a host of Weave Net keeps its name, its part of the range, and its containers with their addresses; new containers
// reach these, and are given other addresses. What has ended is let go by its ID.
func TestChangeOver(t *testing.T) {
	const name, owner = peer.Name(0x020000000200), "0123456789ab"
	h := newServer(t)
	old, fresh := h.container("old"), h.container("fresh")
	held := netip.MustParsePrefix("10.32.0.1/12")
	h.leaveWeave(name, owner, "1234", old.Path(), held)
	daemon := h.start("--mode", "bridge")
	report := h.report()
	require.Equal(t, name, report.Router.Name)
	require.Equal(t, 1, report.IPAM.ActiveIPs)
	require.EqualValues(t, 1<<20-1, report.IPAM.FreeIPs)
	got := h.attach(api.AttachRequest{NetNS: fresh.Path(), ID: "fresh"}).Addresses[0]
	require.Equal(t, netip.MustParsePrefix("10.32.0.2/12"), got)
	requireReach(t, fresh, old, held.Addr())
	requireReach(t, old, fresh, got.Addr())

	end(t, daemon, syscall.SIGTERM)
	requireReach(t, fresh, old, held.Addr())
	daemon = h.start("--mode", "bridge")
	require.Equal(t, 2, h.report().IPAM.ActiveIPs)
	_, stderr, code := h.weaver("detach", "--id", owner)
	require.Zero(t, code, stderr)
	require.Equal(t, 1, h.report().IPAM.ActiveIPs)
	requireReach(t, fresh, old, held.Addr()) // its interface is none of ours
	end(t, daemon, syscall.SIGTERM)
}
