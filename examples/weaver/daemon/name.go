package daemon

import (
	"cmp"
	"os"

	"github.com/overweave/overweave/internal/device"
	"github.com/overweave/overweave/mesh/peer"
)

// Where Linux keeps what identifies a host. Either of a group will do.
var (
	machineIDFiles  = []string{"/etc/machine-id", "/var/lib/dbus/machine-id"}
	systemUUIDFiles = []string{"/sys/class/dmi/id/product_uuid", "/sys/hypervisor/uuid"}
)

// chooseName returns the name of this peer: what the operator says; else what was used last time; else what the bridge has been
// given, which a host has that changes over from Weave Net; else what the host's hardware says; else a random one, which is
// remembered.
func chooseName(c Config, last peer.Name) peer.Name {
	if name := cmp.Or(c.Name, last); name != 0 {
		return name
	}
	if name, err := peer.FromBytes(device.BridgeAddr(c.Bridge)); err == nil {
		return name
	}
	machine, system := firstFile(machineIDFiles), firstFile(systemUUIDFiles)
	if machine == nil && system == nil {
		return peer.Random()
	}
	return peer.FromHardware(machine, system)
}

// firstFile returns the contents of the first of the files that can be read, nil if none can.
func firstFile(paths []string) []byte {
	for _, path := range paths {
		if b, err := os.ReadFile(path); err == nil {
			return b
		}
	}
	return nil
}
