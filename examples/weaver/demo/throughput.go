package demo

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net"
	"time"
)

const streamBuffer = 256 << 10

// receive accepts one connection and counts what arrives until it ends.
func receive(l net.Listener) (bytes int64, d time.Duration, err error) {
	conn, err := l.Accept()
	if err != nil {
		return 0, 0, err
	}
	defer conn.Close()
	start := time.Now()
	// The plain loop keeps the bytes in user space, as an application would see them.
	n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{conn}, make([]byte, streamBuffer))
	return n, time.Since(start), err
}

// send writes to conn for as long as d, or until ctx ends, and closes it, which ends receive as well.
func send(ctx context.Context, conn net.Conn, d time.Duration) error {
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	buf := make([]byte, streamBuffer)
	for end := time.Now().Add(d); time.Now().Before(end); {
		if _, err := conn.Write(buf); err != nil {
			return cmp.Or(ctx.Err(), fmt.Errorf("sending: %w", err))
		}
	}
	return nil
}
