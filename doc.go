// Package overweave is the root of an SDK of overlay-network building blocks: a mesh of equal peers without a central store,
// and one Ethernet across all their hosts. This package itself holds nothing. Take what you need:
//
//   - mesh: peers that find each other, keep up with the topology and gossip on named channels.
//   - mesh/peer, mesh/gossip, mesh/overlay: the small contracts that the other packages meet at. With mesh/gossip alone ipam
//     and dns run over a bus of your own; with mesh/overlay you write a carrier of frames.
//   - ipam: addresses for containers from a range that peers share out among themselves.
//   - dns and dns/dnsserver: names that peers gossip, and a DNS server that answers from them.
//   - sleeve: Ethernet frames between peers over UDP, in user space, sealed if there is a password; sleeve/port: TAP devices
//     and packet sockets.
//   - fastdp: the same in the kernel, over an Open vSwitch datapath; fastdp/ipsec: ESP for it.
//   - odp: the Open vSwitch datapath of the kernel over generic netlink; odp/odptest, its fake.
//   - crypto: sessions from a password, sealed streams and datagrams, replay windows.
//   - examples/weaver: a daemon made of all these, its command line and its CNI plugin.
//
// They speak the wire protocols of Weave Net 2.8. The test of this package holds the table of who may import whom.
package overweave
