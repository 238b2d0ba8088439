// Package ipsec encrypts the tunnels of fastdp in the kernel: ESP in transport mode around the UDP packets of VXLAN, as Weave
// Net 2.8 does it (its ipsec specification, quoted by section).
//
//	kernel, err := ipsec.OpenKernel()              // the network namespace of the calling thread
//	defer kernel.Close()
//	p, err := ipsec.New(ipsec.Config{Kernel: kernel})
//	err = p.Guard(6784)                            // first of all, before the tunnel device is there
//	go p.Run(ctx)
//	dp, err := fastdp.New(fastdp.Config{Protector: p, ...})
//
// # How nothing leaves in the clear
//
// The policy database alone does it (section 5.4), no packet filter takes part:
//
//   - [Protector.Guard] blocks a tunnel port in both directions for all addresses, before anything else, and that stays: over
//     tear-down, re-addressing, a crash, and the end of the process. [Protector.Release] and [Reset] alone take it away.
//   - A tunnel in force has two policies that outrank the block, for its two addresses and its port. Encrypted, they demand
//     ESP: a clear packet is dropped on the way in, and on the way out one for which there is no association. The one for the
//     way out names its association, so that changing over is one request, in which no packet is lost or clear.
//   - Associations are bound to addresses and port by their selectors: decrypted packets with another outer source are dropped.
//
// So what is left when a piece is missing is silence, never clear text. The exception is somebody who flushes the policy
// database of the namespace: then packets pass until the policies are back, some milliseconds later. [Protector.Run] hears of
// such changes, and looks by itself too, since it may have missed some.
//
// Where fastdp and others share a namespace: the block is for every user of that UDP port. Policies of priority lower than
// 783100 outrank ours.
//
// # Lives
//
// For two addresses and a port the youngest tunnel counts. What is closed is kept for a hold, or until a younger tunnel has
// taken its place: traffic goes on while the daemon of the other end restarts, and while connections flap. What a former run
// left is found by its range of request ids, by its priorities and its port; it is adopted for a hold, then removed. So
// nothing is left for good, and a restart does not stop traffic. This includes policies for tunnels in the clear: for the
// first hold after a restart whatever was allowed before is allowed still.
//
// The same key is never given to an outbound association twice, since that would repeat nonces of GCM: one that was deleted
// by others is not put back. The other end is asked for a new key if it is a new peer. With 2.8 the tunnel fails for the rest
// of its connection, since 2.8 announces its key but once. Other failures, such as a request that the kernel refuses, end a
// Protection; package fastdp holds the link meanwhile, and makes another one after a while.
//
// # The end
//
// A daemon that ends leaves everything as it is. One that is told to clean up ends its engines, removes the tunnel device,
// and calls [Protector.Release]; a command that cleans up after a daemon calls [Reset] instead. So does a daemon that is
// started without encryption, before it makes the tunnel device: an earlier run with encryption may have left the port
// blocked. If that run left its tunnels and flows too, which send in the clear without the block, [fastdp.RemoveTunnels]
// comes before.
//
// # New keys
//
// Each direction has its key, which the receiver announces. It does so again after [Config.RekeyAfter] or
// [Config.RekeyPackets]: the new association is there before the message leaves, and the old one is deleted when the new one
// has carried packets, after a grace. Towards Weave Net 2.8, which accepts this but never deletes its own half (section 4.8),
// at most once an hour; the direction to 2.8 changes with the connection only. Between new peers, where [fastdp.Tunnel] says
// Rekeys, the first of the 28 unused bytes of the message is a set of flags; bit 0 asks the other end for a new key at once.
// The others are 0.
//
// # Weak points of 2.8
//
// Section 7 of the specification lists them. Closed by the policies above: packets of unknown or rewritten outer sources,
// windows in the clear at start, stop and tear-down, firewalls that are emptied or that accept first, policies and marks shared
// by two routers or two connections. Closed by bookkeeping: leftovers, an error or a lost key that ends fastdp for good, keys
// announced where none are wanted, changes that nobody notices, a status that is only believed. Half closed: keys change, but
// for what is sent to 2.8 with the connection only. Open, since the wire has it so: relays see frames in the clear, a member
// can claim any source id, sizes and times of packets can be seen, there is no UDP encapsulation for NAT, and one association
// carries all traffic of a direction. With two new peers IPv6 works too.
//
// # Kernels
//
// VXLAN has to pass ports to the look-up of routes, for policies to see them, which old kernels do not; [Probe] finds out.
// There is no second way, by packet filter, for those: tunnels stay without encryption in the kernel there, so that they fail
// and links use sleeve.
//
// The package builds everywhere. Without Linux, or without privileges, [Config.Kernel] can be that of package ipsectest.
package ipsec
