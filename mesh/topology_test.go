package mesh

import (
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/mesh/peer"
)

// Vectors of topology, routes, short ids and targets.

type gobPeerJSON struct {
	NameByte               hexBytes `json:"NameByte_hex"`
	NickName, UID, Version string
	ShortID                int
	HasShortID             bool
	Connections            []struct {
		NameByte              hexBytes `json:"NameByte_hex"`
		RemoteTCPAddr         string
		Outbound, Established bool
	}
}

// requireEntry compares an entry with what the reference has decoded.
func requireEntry(t *testing.T, w gobPeerJSON, e *entry) {
	require.Equal(t, []byte(w.NameByte), e.name.AppendBytes(nil))
	require.Equal(t, []any{w.NickName, w.UID, w.Version, w.HasShortID, w.ShortID},
		[]any{e.nickname, e.uid.String(), strconv.FormatUint(e.version, 10), e.hasShortID, int(e.shortID)})
	require.Equal(t, len(w.Connections), e.conns.len())
	var got, want []string
	for c := range e.conns.all() {
		got = append(got, fmt.Sprintf("%x %s %t %t", c.remote.AppendBytes(nil), c.address, c.outbound, c.established))
	}
	for _, c := range w.Connections {
		want = append(want, fmt.Sprintf("%x %s %t %t", []byte(c.NameByte), c.RemoteTCPAddr, c.Outbound, c.Established))
	}
	require.ElementsMatch(t, want, got)
}

func TestVectorTopologyUpdates(t *testing.T) {
	for _, v := range vectors(t, "topology-update-") {
		var in struct {
			Update hexBytes `json:"update_hex"`
		}
		var want struct {
			Error   bool
			Applied *int `json:"peers_applied"`
			Peers   []gobPeerJSON
		}
		require.NoError(t, json.Unmarshal(v.Inputs, &in))
		require.NoError(t, json.Unmarshal(v.Expected, &want))
		entries, _, err := decodeUpdate(in.Update, nothingKnown)
		require.Equal(t, want.Error, err != nil, "%s: %v", v.ID, err)
		if want.Error {
			require.Empty(t, entries)
			continue
		}
		require.Len(t, entries, len(want.Peers), v.ID)
		for i, w := range want.Peers {
			requireEntry(t, w, entries[i])
		}
		requireSame(t, entries, encodeUpdate(entries), decodeUpdateAny)
		requireSame(t, entries, encodeUpdate(entries), decodeOddUpdate)
		requireSame(t, entries, appendEntries(entries), decodeEntries)
	}
}

func decodeUpdateAny(b []byte) ([]*entry, error) {
	e, _, err := decodeUpdate(b, nothingKnown)
	return e, err
}

func decodeEntries(b []byte) ([]*entry, error) {
	e, _, err := parseEntries(b, nothingKnown)
	return e, err
}

func appendEntries(entries []*entry) (b []byte) {
	for _, e := range entries {
		b = appendEntry(b, e)
	}
	return b
}

// requireSame requires that what was encoded decodes to the same entries.
func requireSame(t testing.TB, want []*entry, encoded []byte, decode func([]byte) ([]*entry, error)) {
	got, err := decode(encoded)
	require.NoError(t, err)
	require.Len(t, got, len(want))
	for i, e := range want {
		g := got[i]
		require.Equal(t, []any{e.name, e.uid, e.version, e.nickname, e.shortID, e.hasShortID, e.conns},
			[]any{g.name, g.uid, g.version, g.nickname, g.shortID, g.hasShortID, g.conns})
	}
}

func TestVectorTopologyMessage(t *testing.T) {
	var want struct {
		Channel string
		Peers   []gobPeerJSON
		Source  peer.Name
	}
	var in struct {
		Message hexBytes `json:"message_hex"`
	}
	load(t, "gossip-message-topology", &in, &want)
	m, err := parseMessage(in.Message[0], in.Message[1:])
	require.NoError(t, err)
	require.Equal(t, want.Channel, string(m.channel))
	entries, _, err := decodeUpdate(m.payload, nothingKnown)
	require.NoError(t, err)
	for i, w := range want.Peers {
		requireEntry(t, w, entries[i])
	}
}

func TestVectorTopologyMerge(t *testing.T) {
	type peerState struct {
		Name        peer.Name
		ConnectedTo []peer.Name `json:"connected_to"`
		HasShortID  bool        `json:"has_short_id"`
		ShortID     int         `json:"short_id"`
		Nick        string
		Self        bool
		UID         string
		Version     string
	}
	var in struct {
		Initial []peerState `json:"initial_state"`
	}
	var want struct {
		Steps []struct {
			Names  []peer.Name `json:"names_in_update"`
			News   []peer.Name `json:"new_or_newer_names"`
			After  []peerState `json:"state_after"`
			Update hexBytes    `json:"update_hex"`
			What   string
		}
	}
	load(t, "topology-merge-sequence", &in, &want)
	make1 := func(s peerState) *entry {
		uid, err := peer.ParseUID(s.UID)
		require.NoError(t, err)
		version, err := strconv.ParseUint(s.Version, 10, 64)
		require.NoError(t, err)
		var list []byte
		for _, n := range s.ConnectedTo {
			list = appendConn(list, conn{remote: n})
		}
		return &entry{name: s.Name, uid: uid, version: version, nickname: s.Nick, shortID: peer.ShortID(s.ShortID),
			hasShortID: s.HasShortID, conns: connList(list)}
	}
	topo := newTopology(make1(in.Initial[0]), randomInt)
	for _, s := range in.Initial[1:] {
		topo.put(make1(s))
	}
	topo.hold(in.Initial[1].Name)
	for _, w := range want.Steps {
		if len(w.Update) == 0 {
			topo.collect(newGraph(topo, nil))
		} else {
			update, _, err := decodeUpdate(w.Update, nothingKnown)
			require.NoError(t, err)
			m := topo.merge(update, in.Initial[1].Name)
			require.ElementsMatch(t, w.News, namesOf(m.news), w.What)
			require.ElementsMatch(t, w.Names, namesOf(update), w.What)
		}
		require.Len(t, topo.entries, len(w.After), w.What)
		for _, s := range w.After {
			e := topo.entry(s.Name)
			require.NotNil(t, e, w.What)
			var connected []peer.Name
			for c := range e.conns.all() {
				connected = append(connected, c.remote)
			}
			require.ElementsMatch(t, s.ConnectedTo, connected, w.What)
			require.Equal(t, []any{s.UID, s.Version, s.Nick, s.HasShortID, s.ShortID},
				[]any{e.uid.String(), strconv.FormatUint(e.version, 10), e.nickname, e.hasShortID, int(e.shortID)}, w.What)
		}
		requireDigest(t, topo)
	}
}

func namesOf(entries []*entry) (names []peer.Name) {
	for _, e := range entries {
		names = append(names, e.name)
	}
	return names
}

// requireDigest requires that the digest is that of the entries.
func requireDigest(t *testing.T, topo *topology) {
	var digest uint64
	for _, e := range topo.entries {
		digest ^= e.hash()
	}
	require.Equal(t, digest, topo.digest)
}

// TestVersionOverflow: the reference's version becomes 0 here; we ignore the report.
func TestVersionOverflow(t *testing.T) {
	var in struct {
		Before   string `json:"our_version_before"`
		Reported string `json:"reported_version"`
	}
	var want struct{}
	load(t, "topology-version-overflow", &in, &want)
	require.Equal(t, strconv.FormatUint(math.MaxUint64, 10), in.Reported)
	topo := newTopology(&entry{name: 1, uid: 1, version: 3}, randomInt)
	topo.merge([]*entry{{name: 1, uid: 2, version: math.MaxUint64}}, 2)
	require.EqualValues(t, 3, topo.own().version)
}

func TestVectorShortIDs(t *testing.T) {
	var want struct {
		Steps []struct {
			Invalidations int `json:"invalidations_so_far"`
			Others        []peer.Name
			Owner         *peer.Name
			ShortID       peer.ShortID `json:"short_id"`
			What          string
		}
	}
	load(t, "short-id-collisions", nil, &want)
	with := func(n int, id peer.ShortID) *entry { return &entry{name: name(n), shortID: id, hasShortID: true} }
	s := newShortTable(randomInt)
	s.add(with(5, 0xaa))
	steps := []func(){
		func() { s.add(with(9, 0xaa)) },
		func() { s.add(with(2, 0xaa)); s.remove(with(5, 0xaa)); s.add(with(5, 0xdd)) },
		func() { s.remove(with(9, 0xaa)) },
		func() { s.add(with(9, 0xbb)) },
		func() { s.remove(with(2, 0xaa)); s.remove(with(9, 0xbb)) },
		func() { s.add(with(7, 0xaa)) },
		func() { s.add(with(8, 0xcc)) },
	}
	require.Len(t, want.Steps, len(steps))
	for i, w := range want.Steps {
		steps[i]()
		owner, ok := s.owner(w.ShortID)
		require.Equal(t, w.Owner != nil, ok, w.What)
		if ok {
			require.Equal(t, *w.Owner, owner, w.What)
		}
		require.ElementsMatch(t, w.Others, s.others[w.ShortID], w.What)
		require.Equal(t, w.Invalidations, s.invalidations, w.What)
	}
}

func TestShortIDChoice(t *testing.T) {
	s := newShortTable(func(int) int { return 0 })
	for id := range peer.MaxShortID {
		s.add(&entry{name: peer.Name(id + 1), shortID: id, hasShortID: true})
	}
	id, ok := s.choose()
	require.True(t, ok)
	require.Equal(t, peer.MaxShortID, id)
	s.add(&entry{name: 1 << 40, shortID: id, hasShortID: true})
	_, ok = s.choose()
	require.False(t, ok)
}

func TestAddressForms(t *testing.T) {
	for _, text := range []string{"1.2.3.4:5", "0.0.0.0:0", "255.255.255.255:65535", "[::1]:6783", "[fe80::1%eth0]:1", "", "nonsense", "01.2.3.4:5", "1.2.3.4:05", "256.1.1.1:1"} {
		a, err := parseAddress([]byte(text))
		require.NoError(t, err)
		require.Equal(t, text, a.String())
		list := connList(appendConn(nil, conn{remote: 7, outbound: true, address: a}))
		c, rest, ok := nextConn(list)
		require.True(t, ok)
		require.Empty(t, rest)
		require.Equal(t, a, c.address)
	}
	_, err := parseAddress(make([]byte, maxAddrText+1))
	require.Error(t, err)
	err = connList("\x00").check()
	require.Error(t, err)
}
