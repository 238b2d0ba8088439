package lab

import (
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/overweave/overweave/internal/device"
)

// thread is a goroutine that has an operating system thread for itself, all its life: what must be done on a thread that
// outlasts it, or spoils it, is done there. Its methods are safe for concurrent use until stop.
type thread struct {
	work  chan func()
	ended chan struct{}
}

func startThread() *thread {
	t := &thread{work: make(chan func()), ended: make(chan struct{})}
	started := make(chan struct{})
	go t.run(started)
	<-started
	return t
}

// run serves calls of do. It ends with its thread still locked, so the thread ends too. The main thread would not end, and
// stands for the process in /proc; so if it happens to be ours we take another, which is sure to differ while we hold it.
func (t *thread) run(started chan struct{}) {
	runtime.LockOSThread()
	if unix.Gettid() == unix.Getpid() {
		defer runtime.UnlockOSThread()
		next := make(chan struct{})
		go t.run(next)
		<-next
		close(started)
		return
	}
	defer close(t.ended)
	close(started)
	for fn := range t.work {
		fn()
	}
}

// do runs fn on the thread.
func (t *thread) do(fn func() error) error {
	result := make(chan error, 1)
	t.work <- func() { result <- fn() }
	return <-result
}

// stop ends the thread; do must not be called any more. It is to be called once.
func (t *thread) stop() {
	close(t.work)
	<-t.ended
}

// newNetNS makes a network namespace, in which the thread is afterwards.
func (t *thread) newNetNS() (ns *device.NetNS, err error) {
	err = t.do(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("unshare: %w", err)
		}
		ns, err = device.CurrentNetNS()
		return err
	})
	return ns, err
}
