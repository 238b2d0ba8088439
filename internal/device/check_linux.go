package device

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
)

// maxName is how long the name of a network device may be, in bytes.
const maxName = 15

func checkNames(names ...string) error {
	for _, name := range names {
		if name == "" || len(name) > maxName || strings.ContainsAny(name, " /") {
			return fmt.Errorf("%q is no name for a network device: it has 1 to %d bytes, no space and no slash", name, maxName)
		}
	}
	return nil
}

func checkAddresses(addrs ...netip.Prefix) error {
	for _, addr := range addrs {
		if !addr.IsValid() || !addr.Addr().Is4() {
			return fmt.Errorf("%s is no IPv4 address with the length of a prefix", addr)
		}
	}
	return nil
}

func checkGateway(addr netip.Addr) error {
	if addr.IsValid() && !addr.Is4() {
		return fmt.Errorf("%s is no IPv4 address for a gateway", addr)
	}
	return nil
}

// hint completes the text of an error that more privileges would have avoided.
func hint(err error) string {
	if errors.Is(err, os.ErrPermission) {
		return " (this takes root, or the capabilities CAP_NET_ADMIN and CAP_SYS_ADMIN)"
	}
	return ""
}

// failed says what could not be done, for err that is not nil.
func failed(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w%s", fmt.Sprintf(format, args...), err, hint(err))
}
