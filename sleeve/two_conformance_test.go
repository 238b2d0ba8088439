package sleeve_test

import (
	"testing"

	"github.com/overweave/overweave/mesh/overlay/overlaytest"
	"github.com/overweave/overweave/sleeve"
	"github.com/overweave/overweave/sleeve/sleevetest"
)

func TestConformance2(t *testing.T) {
	overlaytest.TestOverlay(t, overlaytest.Carrier{Open: func(t *testing.T) (a, b overlaytest.End) {
		network := sleevetest.New(1)
		return second(memoryEnd(t, network, nameA, addrA)), second(memoryEnd(t, network, nameB, addrB))
	}})
}

// second makes an end that brings sleeve2 instead of sleeve.
func second(e overlaytest.End) overlaytest.End {
	e.Overlay = e.Overlay.(*sleeve.Overlay).Sleeve2()
	return e
}
