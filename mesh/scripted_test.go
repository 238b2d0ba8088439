package mesh

import (
	"context"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/mesh/meshtest"
	"github.com/overweave/overweave/mesh/peer"
)

// Vectors that tell how a peer reacts to what a scripted other end does.

// client is a scripted end of a connection to a router at host(1).
type client struct {
	net.Conn
	s *session
}

func dial(t *testing.T, n *meshtest.Network, from int) net.Conn {
	c, err := n.Host(host(from)).Dial(t.Context(), netip.Addr{}, netip.AddrPortFrom(host(1), 6783))
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// join introduces a peer of the old wire.
func join(t *testing.T, n *meshtest.Network, who peer.Name, connID uint64) *client {
	return joinAs(t, n, features{name: who, connID: connID})
}

// joinAs introduces a peer with these features; its UID follows from its name.
func joinAs(t *testing.T, n *meshtest.Network, f features) *client {
	c := dial(t, n, 1000+int(f.name&0xff))
	f.uid, f.nickname = peer.UID(f.name)+77, "scripted"
	i := introduction{self: f, minimum: 1, outbound: true}
	s, err := i.run(c, c)
	require.NoError(t, err)
	return &client{c, s}
}

// joinDelta introduces a peer that speaks topology deltas, and then takes whatever comes and shows signs of life.
func joinDelta(t *testing.T, n *meshtest.Network, who peer.Name) *client {
	c := joinAs(t, n, features{name: who, connID: 1, delta: true, port: 1})
	go func() { _, _ = io.Copy(io.Discard, c) }()
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	go func() {
		for sleep(ctx, heartbeatInterval) {
			frame, _ := c.s.out.append(nil, []byte{tagHeartbeat})
			if _, err := c.Write(frame); err != nil {
				return
			}
		}
	}()
	return c
}

// tell sends entries as a topology delta.
func (c *client) tell(t *testing.T, entries ...*entry) {
	c.send(t, append([]byte{tagDelta, deltaEntries}, appendEntries(entries)...))
}

func (c *client) send(t *testing.T, msg []byte) {
	frame, err := c.s.out.append(nil, msg)
	require.NoError(t, err)
	_, err = c.Write(frame)
	require.NoError(t, err)
}

// sendTopology tells of peers and their connections, all established.
func (c *client) sendTopology(t *testing.T, lists map[peer.Name][]peer.Name) {
	var entries []*entry
	for n, list := range lists {
		var conns []byte
		for _, q := range list {
			conns = appendConn(conns, conn{remote: q, established: true})
		}
		entries = append(entries, &entry{name: n, uid: peer.UID(n) + 77, version: 10, conns: connList(conns)})
	}
	c.send(t, encodeMessage(tagGossip, topologyChannel, c.s.remote.name, 0, encodeUpdate(entries)))
}

// received reads what has come until now, other than topology and heartbeats.
func (c *client) received(t *testing.T) (list [][]byte) {
	require.NoError(t, c.SetReadDeadline(time.Now().Add(time.Millisecond)))
	for {
		msg, err := c.s.in.next()
		if err != nil {
			return list
		}
		m, err := parseMessage(msg[0], msg[1:])
		if err != nil || string(m.channel) != topologyChannel {
			list = append(list, msg)
		}
	}
}

// closed reports whether the other end has closed within a moment.
func closed(t *testing.T, c net.Conn) bool {
	require.NoError(t, c.SetReadDeadline(time.Now().Add(700*time.Millisecond)))
	buf := make([]byte, 1<<16)
	for {
		if _, err := c.Read(buf); err != nil {
			return !strings.Contains(err.Error(), "timeout")
		}
	}
}

func old(c Config) Config {
	c.NoDeltas = true
	return c
}

func TestVectorRefusals(t *testing.T) {
	var in struct {
		Password string    `json:"password_utf8"`
		Name     peer.Name `json:"reference_name"`
	}
	var want struct {
		Results []struct {
			Case     string
			Sends    hexBytes `json:"client_sends_hex"`
			Closed   bool     `json:"closed_by_reference"`
			Password bool     `json:"password_set_at_reference"`
		}
	}
	load(t, "refusals", &in, &want)
	// Where we are stricter, as section 11 of the mesh specification advises.
	stricter := map[string]bool{"max-features-length": true, "low-order-public-key": true, "zero-name": true}
	for _, w := range want.Results {
		if len(w.Sends) == 0 || w.Case == "good-encrypted" || w.Case == "replay" || w.Case == "plain-after-encrypted" {
			continue // these depend on the reference's random key
		}
		synctest.Test(t, func(t *testing.T) {
			n := meshtest.NewNetwork(0)
			c := old(inMemory(n, 1))
			c.Name = in.Name
			if w.Case == "self" {
				c.UID = 1
			}
			if w.Case == "connection-limit" {
				return // ours shapes, see TestLimit
			}
			if w.Password {
				c.Password = []byte(in.Password)
			}
			r := start(t, c)
			synctest.Wait()
			conn := dial(t, n, 2)
			_, err := conn.Write(w.Sends)
			require.NoError(t, err)
			require.Equal(t, w.Closed || stricter[w.Case], closed(t, conn), "%s: %v", w.Case, r.Status().Ended)
			_ = conn.Close()
			r.stop()
		})
	}
}

func TestVectorMalformedGossip(t *testing.T) {
	var in struct{ Receiver peer.Name }
	var want struct {
		Results []struct {
			Case    string
			StaysUp bool     `json:"connection_stays_up"`
			Message hexBytes `json:"message_hex"`
		}
	}
	load(t, "gossip-malformed", &in, &want)
	for _, w := range want.Results {
		synctest.Test(t, func(t *testing.T) {
			n := meshtest.NewNetwork(0)
			c := old(inMemory(n, 1))
			c.Name = in.Receiver
			r := start(t, c)
			synctest.Wait()
			cl := join(t, n, name(1), 5)
			cl.send(t, w.Message)
			require.Equal(t, !w.StaysUp, closed(t, cl), "%s: %v", w.Case, r.Status().Ended)
			_ = cl.Close()
			r.stop()
		})
	}
}

func TestVectorDuplicates(t *testing.T) {
	var want struct {
		Results []struct {
			Case         string
			FirstClosed  bool   `json:"first_closed"`
			FirstUID     uint64 `json:"first_uid"`
			SecondClosed bool   `json:"second_closed"`
			SecondUID    uint64 `json:"second_uid"`
		}
	}
	load(t, "duplicate-connections", nil, &want)
	for _, w := range want.Results {
		synctest.Test(t, func(t *testing.T) {
			n := meshtest.NewNetwork(0)
			r := start(t, old(inMemory(n, 1)))
			synctest.Wait()
			first, second := joinUID(t, n, w.FirstUID), joinUID(t, n, w.SecondUID)
			require.Equal(t, w.FirstClosed, closed(t, first), w.Case)
			require.Equal(t, w.SecondClosed, closed(t, second), w.Case)
			r.stop()
		})
	}
}

// joinUID joins with the connection uid that is asked for: it reads the other end's part of it before it sends its own.
func joinUID(t *testing.T, n *meshtest.Network, uid uint64) net.Conn {
	c := dial(t, n, 9)
	_, err := c.Write([]byte("weave\x01\x02\x00"))
	require.NoError(t, err)
	in := newFrameReader(c)
	in.version = 2
	_, err = in.r.Discard(8)
	require.NoError(t, err)
	m, err := in.features()
	require.NoError(t, err)
	theirs, err := parseFeatures(m, 2)
	require.NoError(t, err)
	ours := features{name: name(9), uid: 9, connID: theirs.connID ^ uid}
	frame, err := (&frameWriter{version: 2}).append(nil, encodeFeatures(ours.encode(2)))
	require.NoError(t, err)
	_, err = c.Write(frame)
	require.NoError(t, err)
	synctest.Wait()
	return c
}

func TestVectorTieBreak(t *testing.T) {
	var want struct {
		Results []struct {
			Existing string `json:"existing_connection_uid"`
			New      string `json:"new_connection_uid"`
			Result   string
		}
	}
	load(t, "duplicate-tie-break", nil, &want)
	for _, w := range want.Results {
		r, err := New(Config{Name: 1})
		require.NoError(t, err)
		e := newEngine(r, t.Context())
		one, two := &link{router: r}, &link{router: r}
		for l, uid := range map[*link]string{one: w.Existing, two: w.New} {
			var u peer.UID
			u, err = peer.ParseUID(uid)
			require.NoError(t, err)
			l.ctx, l.cancel = context.WithCancelCause(t.Context())
			l.sess = &session{connUID: uint64(u), remote: features{name: 2, uid: 5}}
		}
		e.links[2] = one
		err = e.settleDuplicate(two)
		kept := map[bool]string{true: "keep-new-close-existing", false: "keep-existing-close-new"}[err == nil]
		if err != nil && one.ctx.Err() != nil {
			kept = "close-both"
		}
		require.Equal(t, w.Result, kept)
	}
}

func TestVectorTimeouts(t *testing.T) {
	var want struct {
		Results []struct {
			Case    string
			Seconds int `json:"nominal_s"`
		}
	}
	load(t, "timeouts", nil, &want)
	half := []byte{0, 0, 0, 9, 1}
	for _, w := range want.Results {
		synctest.Test(t, func(t *testing.T) {
			n := meshtest.NewNetwork(0)
			r := start(t, old(inMemory(n, 1)))
			synctest.Wait()
			var c net.Conn
			switch w.Case {
			case "silence after the introduction", "half a message after the introduction":
				c = join(t, n, name(9), 1)
				if strings.HasPrefix(w.Case, "half") {
					_, _ = c.Write(half)
				}
			default:
				c = dial(t, n, 9)
				_, _ = c.Write(map[string][]byte{
					"header and flag, no features": []byte("weave\x01\x02\x00"), "header only": []byte("weave\x01\x02"),
					"incomplete header": []byte("wea"), "nothing sent at all": nil,
				}[w.Case])
			}
			start := time.Now()
			buf := make([]byte, 1<<16)
			for err := error(nil); err == nil; _, err = c.Read(buf) {
			}
			require.Equal(t, time.Duration(w.Seconds)*time.Second, time.Since(start), w.Case)
			_ = c.Close()
			r.stop()
		})
	}
}
