package overlay

import "net/netip"

// LinuxFrame is one of linuxFrames, for tests from outside.
var LinuxFrame = linuxFrame

// JoinFrame is the report of a station that has joined a group of IPv4.
func JoinFrame(group netip.Addr) []byte {
	return report(false, record(toExclude, group.String(), 0, 0))
}

// RouterFrame is the question of a router.
var RouterFrame = routerQuery
