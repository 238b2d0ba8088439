package odp_test

import (
	"context"
	"fmt"

	"github.com/overweave/overweave/odp"
	"github.com/overweave/overweave/odp/odptest"
)

// A flow is put and listed. Without Dial in the Config this needs root and the kernel's Open vSwitch.
func Example() {
	ctx := context.Background()
	c, err := odp.Open(ctx, odp.Config{Dial: odptest.New().Dial})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()
	dp, err := c.CreateDatapath(ctx, odp.DatapathSpec{Name: "dp0"})
	if err != nil {
		fmt.Println(err)
		return
	}
	err = c.PutFlow(ctx, dp.Index, odp.Flow{
		Match: odp.Match{
			odp.Exact(odp.InPort(1)),
			odp.Exact(odp.TypeIPv4),
			odp.Masked(odp.IPv4{Proto: odp.ProtoUDP}, odp.IPv4{Proto: 0xff}),
		},
		Actions: []odp.Action{odp.PushVLAN{Type: odp.TypeVLAN, TCI: odp.Tag(5, 0)}, odp.Output(2)},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	for f, err := range c.Flows(ctx, dp.Index, odp.DumpOptions{}) {
		fmt.Println(f, err)
	}
	// Output: in_port(1),eth(),eth_type(0x0800),ipv4(proto=17), packets:0, bytes:0, actions:push_vlan(vid=5,pcp=0),2 <nil>
}
