// Package fastdp carries Ethernet frames between peers in the kernel: an Open vSwitch datapath is the switch of the host, and
// VXLAN tunnels lead to other peers. It makes the decisions of package mesh/overlay, and the kernel carries them out.
//
//	d, err := fastdp.New(fastdp.Config{Self: name, Forwarder: forwarder, UserPort: "tap0"})
//	sw, err := overlay.NewSwitch(overlay.SwitchConfig{
//		Self: name, Forwarder: forwarder, Port: tap0, Overlays: []overlay.Overlay{d.Overlay2(), d.Overlay(), sleeve},
//	})
//	go d.Run(ctx)
//	err = d.AddPort(ctx, "vethwepl1")
//
// A [Datapath] is all there is to know. Its two overlays share the tunnels: [Datapath.Overlay] is "fastdp" of Weave Net 2.8,
// [Datapath.Overlay2] is "fastdp2" for new peers, described in fastdp2.md. Encryption is behind the seam [Protector], which
// package fastdp/ipsec implements.
//
// # Flows
//
// A frame takes two steps in the kernel. The first flow goes by its source, and learns; the second by its destination. So there
// are as many flows as there are stations, not as there are pairs of them. What a flow does follows from what it matches and
// from what the mesh knows: one pure function decides, for a frame that no flow matches as for a flow that may not be right any
// more.
//
// After each change those flows that it may concern are decided about anew, in user space; only what is different then is
// replaced in the kernel, where its statistics go on. There is never a flush. A counter of changes is compared around each
// miss, so that a decision which was overtaken is made again.
//
// What does not work any more, because its peer is out of reach, is left as it is for the hold: the kernel of a peer that
// restarts still forwards. And a datapath that starts adopts the flows and ports of the one before.
//
// # What is put right
//
// Ports, tunnel devices that are set down, flows and features that others change, and a datapath that is deleted are put
// right within a sweep. A packet that is too long for the way of a tunnel is answered to its sender, also through a relay. A
// frame from a tunnel is dropped unless it has the outer addresses of a link, and unless its source peer may be behind that
// link: not this peer, and none whose frames come to the link's peer only through us. Frames to unknown stations are flooded
// by flows of one second, and so many of them in a second; more are dropped and counted. A machine that stood still does not
// blame its peers for that. A link whose tunnel cannot be protected is on hold, and that is tried again, unless it takes a
// new connection.
//
// # Shares
//
// No container and no neighbour can use up what is there for all. A local port has up to 4,096 stations; a local port and a
// neighbour have a part of the flows, and of the frames that user space sends on. Whoever has used most of it loses what was idle
// longest, and what is new has to wait for that. Tunnels have readers of their own, so that heartbeats do not wait behind
// what a container sends.
//
// # Offloads
//
// Stations leave checksums and segmentation to the interfaces of the host. Some interfaces do that wrong for what is in a
// tunnel, which no heartbeat notices. So links of fastdp2 send each minute what stations send, by the datapath's own device,
// which is set up for that; frames of the host that reach it are dropped unless Config.HostPort says otherwise. If it arrives
// spoiled, or not at all while probes do, tx-checksumming of the device vxlan-PORT is turned off, and with it segmentation:
// packets are finished before they enter the tunnel. It stays off until the device is removed, also if the program restarts;
// [overlay.LinkStatus] and [Status] say so. To have it back once the cause is gone, end the program and turn it on with
// ethtool.
//
// The device is for all tunnels with its port. So it is set like this only if most of their links fail the test, and it is
// set back if the link for whose sake it was fails all the same. A link that fails without being helped so is on hold, with
// that reason, and tested each minute.
//
// # Limits
//
// Links of old peers cannot be tested. Where there are only such, and an interface does it wrong, turn tx-checksumming of the
// devices vxlan-PORT off with ethtool. Kernels before 4.16 do not say which device a port has; with these the setting is not
// looked after once it is made. Outer UDP checksums are zero, as Weave Net has them; a path that drops such packets shows as
// missing heartbeats, and the link is not used. A link does not follow a peer to another address. Frames for peers that only
// other overlays reach leave through the user port if they are of local stations, and are given to user space one by one if
// they came from a tunnel. With an old peer a loss is noticed after 25 s, since it sends a heartbeat every 10 s. An inner
// packet that is too long is answered by kernels from 5.9 on; before, full heartbeats fail. Frames that go to more than 600
// ports and neighbours are sent on by user space one by one.
package fastdp
