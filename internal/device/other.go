//go:build !linux

package device

import (
	"context"
	"errors"
	"net"
	"net/netip"
)

// Other systems have neither network namespaces nor these devices: each function fails with errors.ErrUnsupported.

// OpenNetNS is for Linux.
func OpenNetNS(string) (*NetNS, error) { return nil, errors.ErrUnsupported }

// CurrentNetNS is for Linux.
func CurrentNetNS() (*NetNS, error) { return nil, errors.ErrUnsupported }

// ResolveNetNS is for Linux.
func ResolveNetNS(string) (string, error) { return "", errors.ErrUnsupported }

// Do is for Linux.
func (*NetNS) Do(func() error) error { return errors.ErrUnsupported }

// EnsureBridge is for Linux.
func EnsureBridge(Bridge) (bool, error) { return false, errors.ErrUnsupported }

// RemoveBridge is for Linux.
func RemoveBridge(string) error { return errors.ErrUnsupported }

// EnsurePair is for Linux.
func EnsurePair(Pair) (bool, error) { return false, errors.ErrUnsupported }

// RemovePair is for Linux.
func RemovePair(string) error { return errors.ErrUnsupported }

// SetUp is for Linux.
func SetUp(name string, mtu int, mac net.HardwareAddr) error { return errors.ErrUnsupported }

// BridgeAddr is for Linux.
func BridgeAddr(string) net.HardwareAddr { return nil }

// AddPort is for Linux.
func AddPort(bridge, name string) error { return errors.ErrUnsupported }

// AddAddress is for Linux.
func AddAddress(string, netip.Prefix) (bool, error) { return false, errors.ErrUnsupported }

// RemoveAddress is for Linux.
func RemoveAddress(string, netip.Prefix) error { return errors.ErrUnsupported }

// Addresses is for Linux.
func Addresses(string) ([]netip.Prefix, error) { return nil, errors.ErrUnsupported }

// Attach is for Linux.
func Attach(context.Context, Attachment) (Attached, error) { return Attached{}, errors.ErrUnsupported }

// PortOf is for Linux.
func PortOf(netns, iface, bridge string) (string, error) { return "", errors.ErrUnsupported }

// Ports is for Linux.
func Ports(netns string) ([]string, error) { return nil, errors.ErrUnsupported }

// Gateways is for Linux.
func Gateways(device string) ([]netip.Addr, error) { return nil, errors.ErrUnsupported }

// Veths is for Linux.
func Veths() (map[string]bool, error) { return nil, errors.ErrUnsupported }

// WatchRemovals is for Linux.
func WatchRemovals(context.Context, func()) error { return errors.ErrUnsupported }

// Overlap is for Linux.
func Overlap(netip.Prefix, string) (string, error) { return "", errors.ErrUnsupported }

// Exists is for Linux.
func Exists(string) (bool, error) { return false, errors.ErrUnsupported }

// EnsureFirewall is for Linux.
func EnsureFirewall(Firewall) (Firewalled, error) { return Firewalled{}, errors.ErrUnsupported }

// RemoveFirewall is for Linux.
func RemoveFirewall(string) error { return errors.ErrUnsupported }
