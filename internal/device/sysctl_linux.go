package device

import (
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/overweave/overweave/internal/ethtool"
)

// The settings here make a network better and are not what it stands on. Some kernels lack some of the files, and
// containers often may not write them; both is passed over.

// ignoreRouterAdvertisements keeps the host from taking routers inside the overlay for its own.
func ignoreRouterAdvertisements(device string) { sysctl("ipv6/conf", device, "accept_ra", "0") }

// hastenNeighbours lets the host or a container notice soon that a neighbour has another MAC address.
func hastenNeighbours(device string) {
	sysctl("ipv4/neigh", device, "base_reachable_time", "5")
	sysctl("ipv4/neigh", device, "delay_first_probe_time", "2")
	sysctl("ipv4/neigh", device, "ucast_solicit", "1")
}

// stayOut keeps the host from speaking IPv6 on a device that is only captured from.
func stayOut(device string) {
	sysctl("ipv6/conf", device, "accept_ra", "0")
	sysctl("ipv6/conf", device, "disable_ipv6", "1")
}

func sysctl(group, device, key, value string) {
	_ = os.WriteFile(filepath.Join("/proc/sys/net", group, device, key), []byte(value), 0)
}

// noChecksumOffload has the kernel compute the checksums of packets before it gives them to a device, and, since that goes
// with it, cut long ones to the MTU.
func noChecksumOffload(device string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return failed(err, "setting offloads of %s", device)
	}
	defer unix.Close(fd)
	return failed(ethtool.SetChecksums(fd, device, false), "turning checksum offload of %s off", device)
}
