package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"
)

const (
	streamBuffer  = 256 << 10
	packetBatch   = 64
	packetPayload = 64      // bytes
	socketBuffer  = 4 << 20 // bytes, as far as the system allows
	pingWait      = time.Second
)

// runSink accepts TCP streams, counts what arrives on all of them in the window, says so, and goes on receiving until it is
// killed, so that the load on other sinks stays the same.
func runSink(ctx context.Context, c receiverConfig, say func(any) error) error {
	l, err := net.Listen("tcp", netip.AddrPortFrom(c.Addr, 0).String())
	if err != nil {
		return err
	}
	defer l.Close()
	if err := say(listening{netip.MustParseAddrPort(l.Addr().String())}); err != nil {
		return err
	}
	var bytes atomic.Uint64
	for range c.Streams {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		go drain(conn, &bytes)
	}
	return window(ctx, c, &bytes, say, func(n uint64, d time.Duration) received { return received{Bytes: n, Seconds: d.Seconds()} })
}

// drain reads a stream as an application would, into user space.
func drain(conn net.Conn, bytes *atomic.Uint64) {
	buf := make([]byte, streamBuffer)
	for {
		n, err := conn.Read(buf)
		bytes.Add(uint64(n))
		if err != nil {
			return
		}
	}
}

// window watches a counter for the time of the window, says the result, and waits to be killed.
func window(ctx context.Context, c receiverConfig, count *atomic.Uint64, say func(any) error, result func(uint64, time.Duration) received) error {
	for count.Load() == 0 { // on a busy machine the sender takes its time to begin
		if err := pause(ctx, pollInterval); err != nil {
			return err
		}
	}
	if err := pause(ctx, c.WarmUp); err != nil {
		return err
	}
	before, start := count.Load(), time.Now()
	if err := pause(ctx, c.Window); err != nil {
		return err
	}
	if err := say(result(count.Load()-before, time.Since(start))); err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}

// runSource sends on TCP streams as much as they take, until it is killed.
func runSource(ctx context.Context, c senderConfig, _ func(any) error) error {
	failed := make(chan error, c.Streams)
	for range c.Streams {
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", c.To.String())
		if err != nil {
			return err
		}
		go func() {
			buf := make([]byte, streamBuffer)
			for {
				if _, err := conn.Write(buf); err != nil {
					failed <- err
					return
				}
			}
		}()
	}
	return <-failed
}

// runCount counts datagrams.
func runCount(ctx context.Context, c receiverConfig, say func(any) error) error {
	udp, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(c.Addr, 0)))
	if err != nil {
		return err
	}
	defer udp.Close()
	_ = udp.SetReadBuffer(socketBuffer) // else the default does
	if err := say(listening{netip.MustParseAddrPort(udp.LocalAddr().String())}); err != nil {
		return err
	}
	var packets atomic.Uint64
	go func() {
		in, msgs := ipv4.NewPacketConn(udp), messages(2*packetPayload)
		for {
			n, err := in.ReadBatch(msgs, 0)
			if err != nil {
				return
			}
			packets.Add(uint64(n))
		}
	}()
	return window(ctx, c, &packets, say, func(n uint64, d time.Duration) received { return received{Packets: n, Seconds: d.Seconds()} })
}

// runBlast sends small datagrams without a limit, until it is killed. What the kernel does not take it loses.
func runBlast(ctx context.Context, c senderConfig, _ func(any) error) error {
	udp, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(c.To))
	if err != nil {
		return err
	}
	defer udp.Close()
	out, msgs := ipv4.NewPacketConn(udp), messages(packetPayload)
	for ctx.Err() == nil {
		_, err := out.WriteBatch(msgs, 0)
		if err != nil && !errors.Is(err, unix.ENOBUFS) && !errors.Is(err, unix.ECONNREFUSED) {
			return err
		}
	}
	return nil
}

func messages(size int) []ipv4.Message {
	msgs := make([]ipv4.Message, packetBatch)
	for i := range msgs {
		msgs[i].Buffers = [][]byte{make([]byte, size)}
	}
	return msgs
}

// runPing sends echo requests one after the other and says the round trips in microseconds. It waits in the kernel, so that
// the runtime has no part in the result.
func runPing(ctx context.Context, c pingConfig, say func(any) error) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMP)
	if err != nil {
		return fmt.Errorf("socket for ping: %w", err)
	}
	defer unix.Close(fd)
	wait := unix.NsecToTimeval(pingWait.Nanoseconds())
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait); err != nil {
		return err
	}
	to := &unix.SockaddrInet4{Addr: c.To.As4()}
	trips := make([]float64, 0, c.Count)
	for seq := range c.Count {
		trip, err := pingOnce(fd, to, uint16(seq))
		if err != nil {
			return fmt.Errorf("ping %d of %d to %s: %w", seq+1, c.Count, c.To, err)
		}
		trips = append(trips, float64(trip.Nanoseconds())/1000)
		if err := pause(ctx, c.Interval); err != nil {
			return err
		}
	}
	return say(trips)
}

func pingOnce(fd int, to unix.Sockaddr, seq uint16) (time.Duration, error) {
	const echoRequest, echoReply, id = 8, 0, 0x6f77
	packet := make([]byte, 64)
	packet[0] = echoRequest
	binary.BigEndian.PutUint16(packet[4:], id)
	binary.BigEndian.PutUint16(packet[6:], seq)
	binary.BigEndian.PutUint16(packet[2:], onesSum(packet))
	start := time.Now()
	if err := unix.Sendto(fd, packet, 0, to); err != nil {
		return 0, err
	}
	buf := make([]byte, underlayMTU)
	for {
		n, _, err := unix.Recvfrom(fd, buf, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if errors.Is(err, unix.EAGAIN) {
			return 0, errors.New("no answer")
		}
		if err != nil {
			return 0, err
		}
		const ipHeader = 20 // without options: nobody adds any here
		if n < ipHeader+8 || buf[ipHeader] != echoReply {
			continue
		}
		if icmp := buf[ipHeader:]; binary.BigEndian.Uint16(icmp[4:]) == id && binary.BigEndian.Uint16(icmp[6:]) == seq {
			return time.Since(start), nil
		}
	}
}

// onesSum is the Internet checksum of an even number of bytes.
func onesSum(b []byte) uint16 {
	var sum uint32
	for ; len(b) > 1; b = b[2:] {
		sum += uint32(binary.BigEndian.Uint16(b))
	}
	sum = sum>>16 + sum&0xffff
	return ^uint16(sum + sum>>16)
}
