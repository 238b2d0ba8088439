// Package odp drives the Open vSwitch datapath of the Linux kernel, in pure Go: datapaths and their ports, flows with every key and
// action of the kernel's interface, the packets that no flow matches, meters, limits of tracked connections, and notifications.
//
//	c, err := odp.Open(ctx, odp.Config{})
//	dp, err := c.CreateDatapath(ctx, odp.DatapathSpec{Name: "dp0"})
//	up, err := c.OpenUpcalls(odp.UpcallConfig{})
//	port, err := c.CreateVport(ctx, dp.Index, odp.VportSpec{Name: "eth1", Type: odp.Netdev, UpcallPIDs: []uint32{up.PID()}})
//	err = c.PutFlow(ctx, dp.Index, odp.Flow{
//		Match:   odp.Match{odp.Exact(odp.InPort(port.Number)), odp.Exact(odp.TypeARP)},
//		Actions: []odp.Action{odp.Output(2)},
//	})
//
// # The types to know
//
// A [Conn] asks the kernel; it is a handle, safe for concurrent use, and starts no goroutines. A [Flow] is a [Match] and a list of
// [Action]. A Match is a list of fields made by [Exact], [Masked] and [Any] from keys such as [InPort], [Ethernet] and [IPv4]: value and
// mask have one type, headers that the kernel wants to be mentioned are added, and what it would refuse with a bare EINVAL
// is refused here with the reason. A [Batch] sends many requests at once. An [UpcallReader] receives packets into memory that it
// uses again. [Notation] prints and reads all of it as ovs-dpctl does.
//
// # What it does not do
//
// It makes no decisions: there is no learning, no pipeline, no OpenFlow. It knows nothing of hardware offload (tc flower). It does
// not restore the features of a datapath that another program changed; ovs-dpctl, for one, replaces them whenever it opens a
// datapath, which has no effect on datapaths with feature [PerCPU] and sockets: prefer that where the kernel has it, and [Conn.Subscribe]
// to notice.
//
// # Errors
//
// What the kernel refuses is an [OpError], to be told with errors.Is: os.ErrNotExist, os.ErrExist, os.ErrPermission, syscall.EBUSY. What
// the kernel cannot do is an [UnsupportedError], found out by probing after the failure; but a [Batch] tells what the kernel said, which
// is EINVAL mostly: [Conn.Probe] before, or send the request on its own. Every request has a deadline; after one the Conn can be used
// on, and the late answer is dropped.
//
// What newer kernels send and this package does not know is carried as it is and printed, in flows, keys, actions and objects.
//
// # Kernels
//
// It is made for Linux 4.20 and later; what came since is found out by probing ([Conn.Probe]). On older kernels most of it works, but
// these differ: up to 4.19, changes of datapaths and vports are told as [Created]. Linux 4.3 lists actions that set a tunnel in a form of
// its own, and those flows with a [DecodeError]. Linux 4.5 may make a vport of type [VXLAN] whose UDP port is taken, and leave its device
// down, which [Conn.RaiseDevice] shows. Before 4.0 there are no identifiers of flows, and a flow that is to be removed by nothing but its
// UFID takes all others along: try [FeatureUFID] first.
//
// Facts are from <linux/openvswitch.h> and from trials on Linux 6.1. Packages below: odptest, a kernel in memory for tests.
package odp
