package device_test

import (
	"context"
	"fmt"
	"log"
	"net/netip"

	"github.com/overweave/overweave/internal/device"
	"github.com/overweave/overweave/internal/lab"
)

// A host gets a bridge, and a container an address on it.
func Example() {
	l, err := lab.New()
	if err != nil {
		log.Fatal(err)
	}
	defer l.Close()
	host, _ := l.Host("host")
	container, _ := host.Container("container")

	err = host.Do(func() error {
		if _, err := device.EnsureBridge(device.Bridge{Name: "weave", MTU: 1376}); err != nil {
			return err
		}
		netns, err := device.ResolveNetNS(container.Path())
		if err != nil {
			return err
		}
		done, err := device.Attach(context.Background(), device.Attachment{
			Bridge:    "weave",
			NetNS:     netns,
			HostName:  device.HostName("1234"),
			Addresses: []netip.Prefix{netip.MustParsePrefix("10.32.0.1/12")},
		})
		fmt.Println(done.Created, done.Added)
		return err
	})
	if err != nil {
		log.Fatal(err)
	}
	// Output: true [10.32.0.1/12]
}

func ExampleHostName() {
	fmt.Println(device.HostName("4711"))
	fmt.Println(device.HostName("0123456789abcdef"))
	// Output:
	// vethwepl4711
	// vethwepl0123456
}
