package overweave

import (
	"errors"
	"fmt"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// policy says which packages may import which. It is a statement of how the house is built: change it with a reason or not
// at all. Each line has four columns:
//
//	package; "x/..." stands for every package below x that has no line of its own
//	packages of this module that it may import; "all" for any, "-" for none
//	modules of others; "all" for any, "-" for none. The standard library is open to everyone
//	why
//
// Where a package is to come, its line is here already. Files of all systems and build tags count.
const policy = `
.                        | -                                              | -                                   | it is documentation

mesh/peer                | -                                              | -                                   | everyone names peers, so this is the ground floor
crypto                   | -                                              | golang.org/x/crypto                 | of use in any network project, without the rest
odp                      | odp/internal/...                               | github.com/mdlayher/genetlink github.com/mdlayher/netlink golang.org/x/sys | of use in any network project, without the rest
odp/...                  | odp odp/...                                    | github.com/mdlayher/genetlink github.com/mdlayher/netlink golang.org/x/sys | parts and fakes of odp

mesh/gossip              | mesh/peer                                      | -                                   | a contract: whoever keeps it must not inherit an engine
mesh/gossip/gossiptest   | mesh/gossip mesh/peer                          | -                                   | the contract's fake
mesh/overlay             | mesh/peer                                      | -                                   | a contract: whoever keeps it must not inherit an engine
mesh/overlay/overlaytest | mesh/overlay mesh/peer                         | github.com/stretchr/testify         | the contract's fakes and its suite of tests

mesh                     | mesh/gossip mesh/overlay mesh/peer mesh/internal/... crypto | golang.org/x/sync      | runs on any system, so no system calls
mesh/internal/...        | mesh/internal/... mesh/peer                    | -                                   | parts of mesh that know nothing of its engine
mesh/meshtest            | mesh                                           | -                                   | a network in memory for the engine

ipam                     | mesh/gossip mesh/peer ipam/internal/...        | go.etcd.io/bbolt golang.org/x/sync  | runs over any bus of gossip, so not mesh; on any system, so no system calls
ipam/internal/...        | ipam/internal/... mesh/peer                    | -                                   | pure parts
ipam/ipamtest            | ipam mesh/gossip mesh/peer                     | -                                   | fakes of ipam's seams
dns                      | mesh/gossip mesh/peer                          | golang.org/x/sync                   | runs over any bus of gossip, so not mesh; knows nothing of DNS messages
dns/dnsserver            | -                                              | github.com/miekg/dns golang.org/x/net golang.org/x/sync | serves any look-up, so not dns; alone knows DNS messages

sleeve                   | mesh/overlay mesh/peer crypto                  | golang.org/x/net golang.org/x/sys   | a carrier: the mesh finds it by the contract
sleeve/sleevetest        | sleeve                                         | -                                   | a network in memory for sleeve
sleeve/port              | mesh/overlay                                   | github.com/vishvananda/netlink golang.org/x/sys | devices of the host, for any carrier
fastdp                   | mesh/overlay mesh/peer odp internal/ethtool    | github.com/vishvananda/netlink golang.org/x/sys | a carrier: the mesh finds it by the contract
fastdp/ipsec             | fastdp mesh/overlay mesh/peer crypto           | github.com/vishvananda/netlink github.com/google/nftables golang.org/x/sys | ESP behind a seam of fastdp, which does not need it
fastdp/ipsec/ipsectest   | fastdp/ipsec                                   | -                                   | the databases of the kernel in memory
fastdp/fastdptest        | fastdp fastdp/ipsec mesh/overlay mesh/peer odp | -                                   | fakes of fastdp's seams

internal/ethtool         | -                                              | golang.org/x/sys                    | one request to the kernel that two packages need
internal/device          | internal/ethtool                               | github.com/vishvananda/netlink github.com/vishvananda/netns github.com/google/nftables github.com/mdlayher/netlink golang.org/x/sys | wiring of the host; mdlayher/netlink for deadlines of nftables
internal/lab             | internal/device                                | github.com/vishvananda/netlink github.com/vishvananda/netns golang.org/x/sys | hosts made of namespaces
internal/lab/...         | internal/lab internal/device                   | golang.org/x/sys                    | parts of the lab
internal/bench           | all                                            | all                                 | a command that measures everything
examples/...             | all                                            | all                                 | programs: the only place that knows everything
`

// programs may import mesh; no library may, since components meet it at the contracts.
var programs = []string{"mesh", "mesh/meshtest", "internal/bench", "examples/..."}

// reserved modules are for some packages only, tests included, whatever the policy says of a package.
var reserved = map[string][]string{
	"github.com/spf13/cobra":              {"examples/..."},
	"github.com/prometheus/client_golang": {"examples/..."},
	"github.com/containernetworking/cni":  {"examples/..."},
	"github.com/miekg/dns":                {"dns/dnsserver", "examples/..."},
	"github.com/google/gopacket":          {"internal/...", "examples/...", testsOnly},
	"go.uber.org/goleak":                  {testsOnly},
	"github.com/stretchr/testify":         {"mesh/overlay/overlaytest", testsOnly},
	"github.com/vishvananda/netns":        {"internal/...", "examples/...", testsOnly},
}

// testsOnly stands for the tests of all packages.
const testsOnly = "tests"

// forTests are the modules that tests may use besides those of their package.
var forTests = []string{
	"github.com/stretchr/testify", "go.uber.org/goleak", "github.com/google/gopacket",
	"github.com/vishvananda/netlink", "github.com/vishvananda/netns",
	"golang.org/x/sys", "golang.org/x/net", "golang.org/x/sync", "golang.org/x/crypto",
}

const (
	module = "github.com/overweave/overweave"
)

// rule is a line of the policy.
type rule struct {
	pkg          string
	ours, others []string
	why          string
}

func parsePolicy() (rules []rule, err error) {
	for line := range strings.Lines(policy) {
		if strings.TrimSpace(line) == "" {
			continue
		}
		column := strings.Split(line, "|")
		if len(column) != 4 || strings.TrimSpace(column[3]) == "" {
			return nil, fmt.Errorf("policy line without four columns: %s", line)
		}
		rules = append(rules, rule{
			pkg: strings.TrimSpace(column[0]), ours: strings.Fields(column[1]), others: strings.Fields(column[2]),
			why: strings.TrimSpace(column[3]),
		})
	}
	return rules, nil
}

// find returns the rule of a package: its own line, or else that of the nearest folder above it.
func find(rules []rule, pkg string) (rule, bool) {
	for _, name := range append([]string{pkg}, wildcards(pkg)...) {
		if i := slices.IndexFunc(rules, func(r rule) bool { return r.pkg == name }); i >= 0 {
			return rules[i], true
		}
	}
	return rule{}, false
}

// wildcards returns the patterns that cover a package, nearest first.
func wildcards(pkg string) (out []string) {
	for dir := path.Dir(pkg); dir != "."; dir = path.Dir(dir) {
		out = append(out, dir+"/...")
	}
	return out
}

// covers reports whether a list has a package, or a folder that it is in; "mesh/..." has mesh itself too.
func covers(list []string, pkg string) bool {
	return slices.ContainsFunc(list, func(p string) bool {
		dir, wild := strings.CutSuffix(p, "/...")
		return p == pkg || p == "all" || wild && (pkg == dir || strings.HasPrefix(pkg, dir+"/"))
	})
}

// inModule reports whether a list has the module of an import.
func inModule(list []string, imported string) bool {
	return slices.ContainsFunc(list, func(m string) bool {
		return m == "all" || imported == m || strings.HasPrefix(imported, m+"/")
	})
}

// judge returns why a file of pkg may not have an import, nil if it may.
func judge(rules []rule, pkg, imported string, test bool) error {
	r, ok := find(rules, pkg)
	if !ok {
		return fmt.Errorf("package %s is not in the policy of deps_test.go: add a line that says what it may import, and why", pkg)
	}
	switch ours, isOurs := strings.CutPrefix(imported, module+"/"); {
	case isOurs:
		return judgeOurs(r, pkg, ours, test)
	case imported == "C":
		return fmt.Errorf("%s imports C, but everything builds without cgo", pkg)
	case !strings.Contains(strings.Split(imported, "/")[0], "."):
		return nil // the standard library
	default:
		return judgeOthers(r, pkg, imported, test)
	}
}

func judgeOurs(r rule, pkg, imported string, test bool) error {
	if imported == "mesh" && !covers(programs, pkg) {
		return fmt.Errorf("%s imports mesh, but only programs do: components meet it at mesh/gossip and mesh/overlay", pkg)
	}
	if covers(r.ours, imported) || imported == pkg {
		return nil
	}
	if test && forTestsOf(pkg, imported) {
		return nil
	}
	return fmt.Errorf("%s imports %s, but may import of ours %v, because: %s", pkg, imported, r.ours, r.why)
}

// forTestsOf reports whether the tests of a package may import another of ours: its relatives, contracts, fakes, and the lab.
func forTestsOf(pkg, imported string) bool {
	root := strings.Split(pkg, "/")[0]
	relative := strings.HasPrefix(imported, root+"/") && root != "internal" || imported == root
	return relative || strings.HasSuffix(imported, "test") || covers([]string{"mesh/peer", "mesh/gossip", "mesh/overlay", "internal/lab/...", "internal/device"}, imported)
}

func judgeOthers(r rule, pkg, imported string, test bool) error {
	for m, users := range reserved {
		if inModule([]string{m}, imported) && !covers(users, pkg) && !(test && slices.Contains(users, testsOnly)) {
			return fmt.Errorf("%s imports %s, which is reserved for %v", pkg, imported, users)
		}
	}
	if inModule(r.others, imported) || test && inModule(forTests, imported) {
		return nil
	}
	return fmt.Errorf("%s imports %s, but may import of others %v, because: %s", pkg, imported, r.others, r.why)
}

// TestImports holds every import of every file of the module against the policy.
func TestImports(t *testing.T) {
	rules, err := parsePolicy()
	require.NoError(t, err)
	packages := map[string]bool{}
	err = filepath.WalkDir(".", func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if name := d.Name(); d.IsDir() {
			if name == "testdata" || name != "." && strings.ContainsAny(name[:1], "._") {
				return fs.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(file, ".go") {
			return nil
		}
		imports, err := importsOf(file)
		pkg := filepath.ToSlash(filepath.Dir(file))
		if _, listed := find(rules, pkg); !listed && packages[pkg] {
			return err // said once
		}
		packages[pkg] = true
		for _, imported := range append(imports, "std") { // "std" so that a package without imports is looked up, too
			if reason := judge(rules, pkg, imported, strings.HasSuffix(file, "_test.go")); reason != nil {
				t.Errorf("%s: %v", file, reason)
			}
		}
		return err
	})
	require.NoError(t, err)
	require.Greater(t, len(packages), 5, "the walk found hardly anything")
}

func importsOf(file string) (out []string, err error) {
	f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil // deleted while we walk
	}
	if err != nil {
		return nil, err
	}
	for _, spec := range f.Imports {
		imported, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			return nil, err
		}
		out = append(out, imported)
	}
	return out, nil
}

// TestPolicyRefuses shows that the policy can fail.
func TestPolicyRefuses(t *testing.T) {
	rules, err := parsePolicy()
	require.NoError(t, err)
	for _, c := range []struct {
		pkg, imported string
		test          bool
		refused       string
	}{
		{"mesh/peer", "strings", false, ""},
		{"mesh/peer", module + "/mesh/gossip", false, "may import of ours [-]"},
		{"mesh/peer", module + "/mesh", true, "only programs do"},
		{"ipam", module + "/mesh", false, "only programs do"},
		{"ipam", module + "/mesh", true, "only programs do"},
		{"ipam", module + "/ipam/internal/ring", false, ""},
		{"ipam", module + "/dns", false, "may import of ours"},
		{"ipam", module + "/mesh/gossip/gossiptest", false, "may import of ours"},
		{"ipam", module + "/mesh/gossip/gossiptest", true, ""},
		{"ipam", "golang.org/x/sys/unix", false, "may import of others"},
		{"mesh", "golang.org/x/sys/unix", false, "may import of others"},
		{"dns", "github.com/miekg/dns", false, "reserved"},
		{"dns", "github.com/miekg/dns", true, "reserved"},
		{"dns/dnsserver", "github.com/miekg/dns", false, ""},
		{"sleeve", "github.com/google/gopacket/layers", false, "reserved"},
		{"sleeve", "github.com/google/gopacket/layers", true, ""},
		{"sleeve", "github.com/spf13/cobra", true, "reserved"},
		{"sleeve/port", module + "/internal/device", false, "may import of ours"},
		{"examples/weaver/daemon", module + "/mesh", false, ""},
		{"examples/weaver", "github.com/spf13/cobra", false, ""},
		{"crypto", "C", false, "without cgo"},
		{"crypto", "example.org/left/pad", false, "may import of others"},
		{"newcomer", "fmt", false, "add a line"},
		{"mesh/newcomer", "fmt", false, "add a line"},
	} {
		err := judge(rules, c.pkg, c.imported, c.test)
		if c.refused == "" {
			require.NoError(t, err)
			continue
		}
		require.ErrorContains(t, err, c.refused, "%s imports %s", c.pkg, c.imported)
	}
}
