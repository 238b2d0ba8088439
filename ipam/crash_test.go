package ipam_test

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/overweave/overweave/ipam"
	"github.com/overweave/overweave/mesh/gossip"
	"github.com/overweave/overweave/mesh/gossip/gossiptest"
)

var (
	crashes    = flag.Int("crashes", 20, "how often TestCrash kills its process")
	crashSeed  = flag.Uint64("crashseed", 1, "start of the draws of TestCrash")
	crashStore = flag.String("crashstore", "", "set in the process that TestCrash kills: the store")
)

// TestCrash kills a process at any moment while it allocates, claims and frees, again and again. What it had answered is there
// the next time, and no address was given to two.
//
// The process tells of each answer by a line: "A owner address" after an allocation or a claim, "f owner" before it frees,
// "F owner" after.
func TestCrash(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ipam.db")
	r := rand.New(rand.NewPCG(*crashSeed, 0))
	m := ledger{held: make(map[string]string), maybe: make(map[string]bool)}
	for i := range *crashes {
		m.round(t, path, 1+r.IntN(400))
		require.NoError(t, m.audit(path), "after crash %d; replay: go test ./ipam -run TestCrash -args -crashes=%d -crashseed=%d", i, *crashes, *crashSeed)
	}
	kinds := make(map[string]int)
	for owner := range m.held {
		kinds[owner[:1]]++
	}
	for _, kind := range []string{allocating, claiming, foreign} {
		require.NotZero(t, kinds[kind], "%s of %v", kind, kinds)
	}
}

// How owners get their addresses, by the first letter of their names.
const (
	allocating = "w"
	claiming   = "c"
	foreign    = "x" // claims an address outside of the universe
)

// ledger is what the process has promised.
type ledger struct {
	held  map[string]string // owner to address
	maybe map[string]bool   // being freed
}

// round runs the process, and kills it after some lines.
func (m *ledger) round(t *testing.T, path string, lines int) {
	cmd := exec.Command(os.Args[0], "-crashstore="+path)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	s := bufio.NewScanner(out)
	for n := 0; s.Scan(); n++ {
		if n == lines {
			require.NoError(t, cmd.Process.Kill())
		}
		require.NoError(t, m.note(s.Text()))
	}
	require.Error(t, cmd.Wait(), "it was to be killed")
}

func (m *ledger) note(line string) error {
	f := strings.Fields(line)
	switch {
	case len(f) == 3 && f[0] == "A":
		if was := m.held[f[1]]; was != "" && was != f[2] {
			return fmt.Errorf("%s had %s and now has %s", f[1], was, f[2])
		}
		for owner, a := range m.held {
			if a == f[2] && owner != f[1] && !m.maybe[owner] {
				return fmt.Errorf("%s was given to %s and to %s", a, owner, f[1])
			}
		}
		m.held[f[1]] = f[2]
	case len(f) == 2 && f[0] == "f":
		m.maybe[f[1]] = true
	case len(f) == 2 && f[0] == "F":
		delete(m.held, f[1])
		delete(m.maybe, f[1])
	default:
		return fmt.Errorf("unexpected line %q", line)
	}
	return nil
}

// audit compares what is stored with what was promised, and takes over what was stored and not yet answered.
func (m *ledger) audit(path string) error {
	s, err := ipam.OpenStore(path)
	if err != nil {
		return err
	}
	defer s.Close()
	saved, err := s.Load()
	if err != nil {
		return err
	}
	stored, holder := make(map[string]string), make(map[string]string)
	for _, h := range saved.Holdings {
		if other := holder[h.Addr.String()]; other != "" {
			return fmt.Errorf("%v is stored for %s and for %s", h.Addr, other, h.Owner)
		}
		stored[h.Owner], holder[h.Addr.String()] = h.Addr.String(), h.Owner
	}
	for owner, a := range m.held {
		if got := stored[owner]; got != a && (got != "" || !m.maybe[owner]) {
			return fmt.Errorf("%s was given %s, and %q is stored", owner, a, got)
		}
	}
	m.held, m.maybe = stored, make(map[string]bool)
	return nil
}

func TestMain(m *testing.M) {
	flag.Parse()
	if *crashStore != "" {
		fmt.Println(crashProcess())
		os.Exit(1)
	}
	goleak.VerifyTestMain(m)
}

// crashProcess is the process that TestCrash kills. It returns if it cannot begin.
func crashProcess() error {
	store, err := ipam.OpenStore(*crashStore)
	if err != nil {
		return err
	}
	bus := gossiptest.New(gossiptest.Config{}).Node(gossip.Member{Name: name(1), UID: 1})
	a, err := ipam.New(ipam.Config{Bus: bus, Universe: netip.MustParsePrefix("10.32.0.0/22"), Store: store})
	if err != nil {
		return err
	}
	for worker := range 16 {
		go churn(a, worker)
	}
	return a.Run(context.Background()) // until killed
}

// acquire gets an address for the owner of a worker with this number. ok is false if a claim comes too late.
func acquire(a *ipam.Allocator, worker, number int) (owner string, p netip.Prefix, ok bool, err error) {
	ctx := context.Background()
	kind, net := allocating, byte(0)
	switch {
	case number%5 == 0:
		kind, net = foreign, 99
	case number%5 == 1:
		kind = claiming
	}
	owner = fmt.Sprintf("%s%d-%d", kind, worker, number)
	if kind == allocating {
		p, err = a.Allocate(ctx, owner, netip.Prefix{})
		return owner, p, true, err
	}
	p = netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 32, net + byte(worker/8), byte(worker%8*32 + number)}), 22)
	err = a.Claim(ctx, owner, p)
	if errors.Is(err, ipam.ErrConflict) {
		return owner, p, false, nil
	}
	return owner, p, true, err
}

// churn allocates, claims and frees for ever.
func churn(a *ipam.Allocator, worker int) {
	ctx := context.Background()
	say := func(format string, args ...any) { _, _ = fmt.Fprintf(os.Stdout, format+"\n", args...) }
	for {
		owner, p, ok, err := acquire(a, worker, rand.IntN(30))
		if err != nil {
			say("allocate: %v", err)
			return
		}
		if !ok {
			continue
		}
		say("A %s %v", owner, p)
		if rand.IntN(2) == 0 {
			say("f %s", owner)
			if err := a.FreeAll(ctx, owner); err != nil {
				say("free: %v", err)
				return
			}
			say("F %s", owner)
		}
	}
}
