package main

import (
	"context"
	"crypto/sha256"
	"encoding/base32"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"

	"github.com/overweave/overweave/examples/weaver/api"
	"github.com/overweave/overweave/internal/device"
	"github.com/overweave/overweave/internal/lab"
	"github.com/overweave/overweave/internal/lab/labtest"
	"github.com/overweave/overweave/mesh/peer"
)

// newServer is newHost for daemons that answer questions for names and need no other peer to give addresses.
func newServer(t *testing.T) *host {
	h := newHost(t)
	h.args = slices.DeleteFunc(h.args, func(arg string) bool { return arg == "--no-dns" })
	h.args = append(h.args, "--dns-listen-address", "127.0.0.1:5353", "--ipalloc-init", "consensus=1")
	return h
}

func (h *host) client() *api.Client { return api.NewClient(h.socket()) }

// attach attaches a container that must not fail.
func (h *host) attach(r api.AttachRequest) api.Attachment {
	h.t.Helper()
	a, err := h.client().Attach(h.t.Context(), r)
	require.NoError(h.t, err)
	return a
}

func (h *host) report() api.Report {
	h.t.Helper()
	r, err := h.client().Report(h.t.Context())
	require.NoError(h.t, err)
	return r
}

// names lists the names that hold, each with its owner.
func (h *host) names() (out []string) {
	for _, e := range h.report().DNS.Entries {
		if e.Live() {
			out = append(out, e.Hostname+" "+e.Owner)
		}
	}
	return out
}

// container makes a namespace of the lab.
func (h *host) container(name string) *lab.Namespace {
	h.t.Helper()
	c, err := h.Container(name)
	require.NoError(h.t, err)
	return c
}

// process starts a process in a namespace of its own, which goes with it. It returns its number.
func (h *host) process() (pid string, kill func()) {
	h.t.Helper()
	cmd := h.Command(context.Background(), "sleep", "1000")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	require.NoError(h.t, cmd.Start())
	kill = func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
	h.t.Cleanup(kill)
	return fmt.Sprint(cmd.Process.Pid), kill
}

func addresses(t *testing.T, where interface{ Do(func() error) error }, name string) (list []netip.Prefix) {
	t.Helper()
	require.NoError(t, where.Do(func() (err error) { list, err = device.Addresses(name); return err }))
	return list
}

func end(t *testing.T, daemon *lab.Cmd, signal syscall.Signal) {
	t.Helper()
	require.NoError(t, daemon.Process.Signal(signal))
	err := daemon.Wait()
	if signal != syscall.SIGKILL {
		require.NoError(t, err)
	}
}

// TestOneAttachmentForEachNamespace asks twice for one namespace, by other names: there is one attachment, found by all.
func TestOneAttachmentForEachNamespace(t *testing.T) {
	h := newServer(t)
	h.start()
	c, d := h.container("c1"), h.container("c2")
	first := h.attach(api.AttachRequest{NetNS: c.Path(), ID: "byname"})
	require.Equal(t, first, h.attach(api.AttachRequest{NetNS: c.Path()}))
	_, err := h.client().Attach(t.Context(), api.AttachRequest{NetNS: c.Path(), ID: "other"})
	require.ErrorContains(t, err, "is attached already, as byname")
	require.Equal(t, first.Addresses, addresses(t, c, "ethwe"))
	_, err = h.client().Attach(t.Context(), api.AttachRequest{NetNS: d.Path(), ID: "byname"})
	require.ErrorContains(t, err, "byname is attached already, as ethwe in "+c.Path())
	require.NotEqual(t, first.Addresses, h.attach(api.AttachRequest{NetNS: d.Path()}).Addresses)

	require.NoError(t, h.client().Detach(t.Context(), api.DetachRequest{NetNS: c.Path()}))
	require.ErrorContains(t, h.client().Detach(t.Context(), api.DetachRequest{NetNS: c.Path()}), "not attached")
	require.EqualValues(t, 1, h.report().IPAM.ActiveIPs)
}

// TestDeadContainer: a container that dies has no name from then on, and the next one inherits nothing, also not its address,
// which is free some time later; that holds as well if it dies while no daemon runs.
func TestDeadContainer(t *testing.T) {
	h := newServer(t)
	h.args = append(h.args, "--ipalloc-grace", "2s")
	daemon := h.start()
	db, kill := h.process()
	first := h.attach(api.AttachRequest{NetNS: db, Names: []string{"db"}})
	require.Len(t, h.names(), 1)
	kill()
	waitFor(t, func() bool { return len(h.names()) == 0 })

	web, kill := h.process()
	second := h.attach(api.AttachRequest{NetNS: web, Names: []string{"web"}})
	require.NotEqual(t, first.Addresses, second.Addresses, "others still know that as another")
	require.Equal(t, []string{"web.weave.local. " + second.ID}, h.names())
	waitFor(t, func() bool { return len(h.report().Attachments) == 1 })
	waitFor(t, func() bool { return h.report().IPAM.ActiveIPs == 1 })

	end(t, daemon, syscall.SIGKILL)
	kill()
	waitFor(t, func() bool { return !slices.Contains(h.devices(), second.Port) })
	h.start()
	waitFor(t, func() bool { r := h.report(); return len(r.Attachments) == 0 && r.IPAM.ActiveIPs == 0 })
	require.Empty(t, h.names())
}

// TestContainerComesBack: a container that is started again under its ID has its address again, and just the names it asks for.
func TestContainerComesBack(t *testing.T) {
	h := newServer(t)
	h.start()
	pid, kill := h.process()
	first := h.attach(api.AttachRequest{NetNS: pid, ID: "web", Names: []string{"blue"}})
	kill()
	pid, kill = h.process()
	again := h.attach(api.AttachRequest{NetNS: pid, ID: "web", Names: []string{"green"}})
	require.Equal(t, first.Addresses, again.Addresses)
	require.Equal(t, []string{"green.weave.local. web"}, h.names())
	kill()
	pid, _ = h.process()
	want := netip.MustParsePrefix("10.32.0.77/12")
	moved := h.attach(api.AttachRequest{NetNS: pid, ID: "web", Addresses: []netip.Prefix{want}})
	require.Equal(t, []netip.Prefix{want}, moved.Addresses)
	require.EqualValues(t, 1, h.report().IPAM.ActiveIPs)
}

// TestFailedAttach: what fails takes back what it did, and nothing else.
func TestFailedAttach(t *testing.T) {
	h := newServer(t)
	daemon := h.start()
	x, y := colliding()
	c, d := h.container("c1"), h.container("c2")
	taken := h.attach(api.AttachRequest{NetNS: c.Path(), ID: x, Names: []string{"web"}})
	before := h.report().Attachments
	unharmed := func() {
		t.Helper()
		require.Equal(t, before, h.report().Attachments)
		require.Equal(t, taken.Addresses, addresses(t, c, "ethwe"))
		require.Equal(t, []string{"web.weave.local. " + x}, h.names())
		require.EqualValues(t, 1, h.report().IPAM.ActiveIPs)
	}
	free := netip.MustParsePrefix("10.32.0.77/12")
	for says, r := range map[string]api.AttachRequest{
		"choose another name": {NetNS: d.Path(), ID: y},
		"address conflict":    {NetNS: d.Path(), ID: "c2", Addresses: append([]netip.Prefix{free}, taken.Addresses...)},
		"outside the domain":  {NetNS: c.Path(), ID: x, Names: []string{"good", "api.example.com"}, Addresses: []netip.Prefix{free}},
		"an address of the":   {NetNS: c.Path(), ID: x, Addresses: []netip.Prefix{netip.MustParsePrefix("fd00::1/64")}},
		"is attached already": {NetNS: c.Path(), ID: "c1"},
		"reserved":            {NetNS: d.Path(), ID: "weave:expose"},
		`"_"`:                 {NetNS: d.Path(), ID: "_"},
		"network namespace":   {NetNS: "none", ID: "c2"},
	} {
		_, err := h.client().Attach(t.Context(), r)
		require.ErrorContains(t, err, says)
		unharmed()
	}
	require.ErrorContains(t, h.client().Detach(t.Context(), api.DetachRequest{ID: "weave:expose"}), "reserved")
	end(t, daemon, syscall.SIGKILL)
	h.start()
	waitFor(t, func() bool { return len(h.names()) == 1 })
	unharmed()
}

// colliding returns two IDs whose interfaces on the host would have one name.
func colliding() (x, y string) {
	seen := map[string]string{}
	for i := 0; ; i++ {
		id := fmt.Sprintf("pod%d", i)
		sum := sha256.Sum256([]byte(id))
		name := device.HostName(strings.ToLower(base32.StdEncoding.EncodeToString(sum[:])))
		if other, ok := seen[name]; ok {
			return other, id
		}
		seen[name] = id
	}
}

// TestKilledWhileAttaching kills a daemon at which somebody waits for an address: nothing of that is left.
func TestKilledWhileAttaching(t *testing.T) {
	h := newServer(t)
	h.args = append(h.args, "--ipalloc-grace", "1s")
	daemon := h.start("--ipalloc-init", "consensus=3")
	c := h.container("c1")
	failed := make(chan error, 1)
	go func() {
		_, err := h.client().Attach(context.Background(), api.AttachRequest{NetNS: c.Path(), ID: "c1"})
		failed <- err
	}()
	waitFor(t, func() bool { return len(h.report().IPAM.PendingAllocates) == 1 })
	require.Len(t, h.report().Attachments, 1, "it is on record before anything is done for it")
	_, err := h.client().Attach(t.Context(), api.AttachRequest{NetNS: h.container("c2").Path(), ID: "c2", Wait: time.Millisecond})
	require.ErrorContains(t, err, "waiting for the peers to agree on a ring")
	end(t, daemon, syscall.SIGKILL)
	require.Error(t, <-failed)
	h.start()
	waitFor(t, func() bool { return len(h.report().Attachments) == 0 })
	require.Zero(t, h.report().IPAM.ActiveIPs)
}

// TestUnknownOwner frees addresses of which the allocator knows, and nobody else any more.
func TestUnknownOwner(t *testing.T) {
	h := newServer(t)
	daemon := h.start()
	c := h.container("c1")
	att := h.attach(api.AttachRequest{NetNS: c.Path(), ID: "ghost"})
	end(t, daemon, syscall.SIGKILL)
	require.NoError(t, os.Remove(filepath.Join(h.dir, "db-weaver.db")))
	h.start()
	require.Empty(t, h.report().Attachments)
	require.EqualValues(t, 1, h.report().IPAM.ActiveIPs)
	require.NoError(t, h.client().Detach(t.Context(), api.DetachRequest{ID: "ghost"}))
	require.Zero(t, h.report().IPAM.ActiveIPs)
	require.ErrorContains(t, h.client().Detach(t.Context(), api.DetachRequest{ID: "ghost"}), "not attached")
	require.Equal(t, att.Addresses, addresses(t, c, "ethwe"), "which interface it was is not known either")
	again := h.attach(api.AttachRequest{NetNS: c.Path(), ID: "again"})
	require.Equal(t, att.Port, again.Port, "but a namespace that is attached again keeps it")
}

// TestHostAddress: while the host cannot have its address, the daemon runs on and says why; then it gets it.
func TestHostAddress(t *testing.T) {
	l := labtest.New(t)
	first, second := addHost(t, l, "10.0.0.1"), addHost(t, l, "10.0.0.2")
	_, err := l.Link(first.Host, second.Host, lab.LinkConfig{A: netip.MustParsePrefix("10.0.0.1/24"), B: netip.MustParsePrefix("10.0.0.2/24")})
	require.NoError(t, err)
	first.start("--name", "0a:00:00:00:00:01", "--expose", "--mode", "bridge", "--ipalloc-init", "consensus=2")
	waitFor(t, func() bool { return len(first.report().IPAM.PendingAllocates) == 1 })
	require.NoError(t, first.Do(func() error { return device.RemoveBridge("weave") }))
	second.start("--name", "0a:00:00:00:00:02", "--ipalloc-init", "consensus=2", "10.0.0.1")
	waitFor(t, func() bool {
		return strings.Contains(get(t, first.socket(), "/status"), "Trouble: device weave: no such network device")
	})
	require.NoError(t, first.Do(func() error {
		_, err := device.EnsureBridge(device.Bridge{Name: "weave", MTU: 1376})
		return err
	}))
	waitFor(t, func() bool { return len(first.report().Bridge.Addresses) == 1 })
	require.NotContains(t, get(t, first.socket(), "/status"), "Trouble")
}

// TestLeaveWhileWaiting: the host waits for its address when its part of the range is given away.
func TestLeaveWhileWaiting(t *testing.T) {
	h := newServer(t)
	daemon := h.start("--expose", "--ipalloc-init", "consensus=3")
	waitFor(t, func() bool { return len(h.report().IPAM.PendingAllocates) == 1 })
	require.NoError(t, h.client().Leave(t.Context()))
	waitFor(t, func() bool { return len(h.report().IPAM.PendingAllocates) == 0 })
	require.Empty(t, h.report().Bridge.Trouble)
	end(t, daemon, syscall.SIGTERM)
}

// TestNameStays starts daemons again that are not told their names.
func TestNameStays(t *testing.T) {
	h := newHost(t)
	requireNameStays(t, h, "bridge")

	t.Run("of Weave Net", func(t *testing.T) {
		h := newHost(t)
		require.NoError(t, h.Do(func() error {
			mac, err := net.ParseMAC("0a:00:00:00:00:42")
			require.NoError(t, err)
			_, err = device.EnsureBridge(device.Bridge{Name: "weave", MAC: mac})
			return err
		}))
		h.start("--mode", "bridge")
		require.Equal(t, peer.MustParse("0a:00:00:00:00:42"), h.report().Router.Name)
	})
}

func requireNameStays(t *testing.T, h *host, mode string) {
	t.Helper()
	start := func() *lab.Cmd { return h.start("--mode", mode, "--ipalloc-init", "consensus=1") }
	daemon := start()
	name := h.report().Router.Name
	h.attach(api.AttachRequest{NetNS: h.container("c-" + mode).Path(), ID: "c"})
	for _, signal := range []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM} {
		end(t, daemon, signal)
		require.NoError(t, h.Do(func() error {
			link, err := netlink.LinkByName("weave")
			require.NoError(t, err)
			require.Equal(t, name.String(), link.Attrs().HardwareAddr.String())
			return nil
		}))
		daemon = start()
		require.Equal(t, name, h.report().Router.Name)
	}
}
