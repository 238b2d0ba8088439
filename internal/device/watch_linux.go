package device

import (
	"context"
	"errors"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// complete repeats a dump for as long as changes of what is listed interrupt it, within reason.
func complete[T any](dump func() (T, error)) (list T, err error) {
	for range 20 {
		if list, err = dump(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return list, err
}

// Exists reports whether there is a network device of a name, of whatever kind.
func Exists(name string) (bool, error) {
	_, err := linkByName(name)
	if errors.Is(err, ErrNoDevice) {
		return false, nil
	}
	return err == nil, failed(err, "device %s", name)
}

// Veths lists the names of all veth devices here.
func Veths() (map[string]bool, error) {
	links, err := complete(netlink.LinkList)
	if err != nil {
		return nil, failed(err, "listing network devices")
	}
	names := map[string]bool{}
	for _, l := range links {
		if l.Type() == "veth" {
			names[l.Attrs().Name] = true
		}
	}
	return names, nil
}

// WatchRemovals calls f as soon as it listens, and after each removal of a network device here, until ctx ends, when it returns
// nil. It fails if the kernel cannot be listened to, or has dropped notifications; call it again, then.
func WatchRemovals(ctx context.Context, f func()) error {
	done := make(chan struct{})
	updates := make(chan netlink.LinkUpdate)
	var lost error
	options := netlink.LinkSubscribeOptions{ErrorCallback: func(err error) { lost = err }} // of the goroutine that closes updates
	if err := netlink.LinkSubscribeWithOptions(updates, done, options); err != nil {
		return failed(err, "watching network devices")
	}
	stop := context.AfterFunc(ctx, func() { close(done) })
	f()
	for u := range updates {
		if u.Header.Type == unix.RTM_DELLINK && ctx.Err() == nil {
			f()
		}
	}
	if !stop() {
		return nil
	}
	close(done)
	return failed(errors.Join(lost), "watching network devices")
}
