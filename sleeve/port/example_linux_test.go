package port_test

import (
	"errors"
	"fmt"
	"os"

	"github.com/overweave/overweave/mesh/overlay"
	"github.com/overweave/overweave/sleeve/port"
)

// Open a TAP device, or where that is not possible, a packet socket on an interface that is there.
func Example() {
	open := func(tap, other string) (overlay.Port, error) {
		p, err := port.OpenTAP(port.TAPConfig{Name: tap, MTU: 1400})
		if err == nil {
			return p, nil
		}
		if !errors.Is(err, os.ErrNotExist) && !errors.Is(err, os.ErrPermission) {
			return nil, err
		}
		return port.OpenPacket(port.PacketConfig{Interface: other})
	}
	_, err := open("a-name-that-is-too-long", "")
	fmt.Println(err)
	// Output:
	// port: TAP device a-name-that-is-too-long: bad interface name "a-name-that-is-too-long": want 1 to 15 bytes
}
