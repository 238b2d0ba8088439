//go:build !linux

package lab

import (
	"errors"
	"fmt"
	"net/netip"
	"os/exec"

	"github.com/overweave/overweave/internal/device"
)

// Other systems have no network namespaces: New fails, and nothing else here is reached.

func check() error { return fmt.Errorf("%w (%w)", ErrNotPermitted, errors.ErrUnsupported) }

func reexec() (int, bool, error) { return 0, false, check() }

func dieWithParent(*exec.Cmd) {}

type thread struct{}

func startThread() *thread                       { return &thread{} }
func (*thread) do(func() error) error            { return errors.ErrUnsupported }
func (*thread) newNetNS() (*device.NetNS, error) { return nil, errors.ErrUnsupported }
func (*thread) stop()                            {}
func addBridge(*Namespace) error                 { return errors.ErrUnsupported }
func loopbackUp() error                          { return errors.ErrUnsupported }
func addPort(end) error                          { return errors.ErrUnsupported }
func addVeth([2]end, int, int) error             { return errors.ErrUnsupported }
func removeDevice(end)                           {}
func addAddress(end, netip.Prefix) error         { return errors.ErrUnsupported }
func setMTU(end, int) error                      { return errors.ErrUnsupported }
func setQueue(end, bool, Shape) error            { return errors.ErrUnsupported }

func probe(f Feature) error    { return fmt.Errorf("%s: %w (%w)", f, ErrNoFeature, errors.ErrUnsupported) }
func findQemu() (Guest, error) { return Guest{}, errors.ErrUnsupported }

// Boot does nothing: only Linux guests are made.
func Boot() {}
