package crypto_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/crypto"
)

func session(t testing.TB) crypto.Key {
	t.Helper()
	a, err := crypto.GenerateKeyPair()
	require.NoError(t, err)
	b, err := crypto.GenerateKeyPair()
	require.NoError(t, err)
	pubA, pubB := a.Public(), b.Public()
	ka, err := a.Session(pubB[:], []byte("secret"))
	require.NoError(t, err)
	kb, err := b.Session(pubA[:], []byte("secret"))
	require.NoError(t, err)
	require.Equal(t, ka, kb)
	other, err := b.Session(pubA[:], []byte("Secret"))
	require.NoError(t, err)
	require.NotEqual(t, ka, other, "another password")
	return ka
}

// TestBadPublicKeys tries the points of low order, with which the key would not depend on ours.
func TestBadPublicKeys(t *testing.T) {
	own, err := crypto.GenerateKeyPair()
	require.NoError(t, err)
	one := make([]byte, crypto.KeySize)
	one[0] = 1
	for name, public := range map[string][]byte{
		"none": nil, "short": one[:31], "long": append(one, 0), "zero": make([]byte, 32), "one": one,
		"p-1": append(append([]byte{0xec}, bytes.Repeat([]byte{0xff}, 30)...), 0x7f),
	} {
		_, err := own.Session(public, nil)
		require.ErrorIs(t, err, crypto.ErrBadPublicKey, name)
	}
	_, err = crypto.NewKeyPair(make([]byte, 31))
	require.Error(t, err)
}

func TestKeyIsNotPrinted(t *testing.T) {
	k := session(t)
	holder := struct{ K crypto.Key }{k}
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "key", k, "in", holder)
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "key", k, "in", holder)
	asJSON, err := json.Marshal(holder)
	require.NoError(t, err)
	for _, v := range holdersOf(k) {
		slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "v", v)
		slog.New(slog.NewTextHandler(&log, nil)).Info("x", "v", v)
		for _, verb := range strings.Fields("%v %+v %#v %s %x %X %q %d %o %08b") {
			fmt.Fprintf(&log, verb, v)
		}
	}
	shown := log.String() + string(asJSON) + fmt.Sprintf("%v %+v %#v %s %x %X %q %d %o %08b", k, k, k, k, k, k, k, k, k, k) + fmt.Sprintf("%v %+v %#v %d", holder, holder, holder, &holder)
	for _, leak := range []string{fmt.Sprintf("%x", k[:4]), fmt.Sprintf("%X", k[:4]), fmt.Sprintf("%d %d %d", k[0], k[1], k[2]), fmt.Sprintf("%d,%d,%d", k[0], k[1], k[2]), fmt.Sprintf("%#x, %#x", k[0], k[1])} {
		require.NotContains(t, shown, leak)
	}
	require.Contains(t, shown, "hidden")
}

// holdersOf returns what holds a key, as it is and within other things.
func holdersOf(k crypto.Key) []any {
	streams := struct {
		sealer *crypto.StreamSealer
		opener crypto.StreamOpener
	}{crypto.NewStreamSealer(k, true), *crypto.NewStreamOpener(k, true)}
	datagrams := struct {
		sealer *crypto.DatagramSealer
		opener *crypto.DatagramOpener
	}{crypto.NewDatagramSealer(k, true), crypto.NewDatagramOpener(k, true)}
	return []any{
		streams, &streams, streams.sealer, *streams.sealer, &streams.opener,
		datagrams, &datagrams, datagrams.sealer, datagrams.opener,
	}
}

func TestZeroKeyPair(t *testing.T) {
	var zero crypto.KeyPair
	public := zero.Public()
	require.Zero(t, public)
	_, err := zero.Session(make([]byte, crypto.KeySize), nil)
	require.Error(t, err)
	pair, err := crypto.GenerateKeyPair()
	require.NoError(t, err)
	_, err = pair.Session(public[:], nil)
	require.ErrorIs(t, err, crypto.ErrBadPublicKey)
}

func TestStream(t *testing.T) {
	k := session(t)
	sealer, opener := crypto.NewStreamSealer(k, true), crypto.NewStreamOpener(k, true)
	prefix := []byte("head")
	for size := range 300 {
		message := bytes.Repeat([]byte{byte(size)}, size)
		sealed := sealer.Seal(bytes.Clone(prefix), message)
		require.Len(t, sealed, len(prefix)+size+crypto.Overhead)
		got, err := opener.Open(bytes.Clone(prefix), sealed[len(prefix):])
		require.NoError(t, err)
		require.Equal(t, append(bytes.Clone(prefix), message...), got)
	}
}

func TestStreamRefuses(t *testing.T) {
	k := session(t)
	sealer := crypto.NewStreamSealer(k, true)
	first, second := sealer.Seal(nil, []byte("first")), sealer.Seal(nil, []byte("second"))
	for name, try := range map[string]struct {
		opener *crypto.StreamOpener
		sealed []byte
	}{
		"out of order":    {crypto.NewStreamOpener(k, true), second},
		"wrong direction": {crypto.NewStreamOpener(k, false), first},
		"wrong key":       {crypto.NewStreamOpener(crypto.Key{}, true), first},
		"empty":           {crypto.NewStreamOpener(k, true), nil},
		"cut":             {crypto.NewStreamOpener(k, true), first[:len(first)-1]},
		"only a seal":     {crypto.NewStreamOpener(k, true), first[:crypto.Overhead]},
		"changed":         {crypto.NewStreamOpener(k, true), append(bytes.Clone(first[:len(first)-1]), first[len(first)-1]^1)},
	} {
		out, err := try.opener.Open([]byte("kept"), try.sealed)
		require.ErrorIs(t, err, crypto.ErrOpen, name)
		require.Equal(t, "kept", string(out), name)
	}
}

func TestDatagramsReorderedAndReplayed(t *testing.T) {
	k := session(t)
	sealer, opener := crypto.NewDatagramSealer(k, false), crypto.NewDatagramOpener(k, false)
	var sealed [][]byte
	for i := range 100 {
		d := sealer.Seal(nil, crypto.Channel(i%2), fmt.Appendf(nil, "datagram %d", i))
		require.Len(t, d, len(fmt.Sprint("datagram ", i))+crypto.DatagramOverhead)
		sealed = append(sealed, d)
	}
	for i := len(sealed) - 1; i >= 0; i-- {
		forged := bytes.Clone(sealed[i])
		forged[len(forged)-1] ^= 1
		_, _, err := opener.Open(nil, forged)
		require.ErrorIs(t, err, crypto.ErrOpen)
		out, ch, err := opener.Open([]byte(">"), sealed[i])
		require.NoError(t, err, "a forged one leaves no trace")
		require.Equal(t, fmt.Sprintf(">datagram %d", i), string(out))
		require.Equal(t, crypto.Channel(i%2), ch)
		out, _, err = opener.Open([]byte(">"), sealed[i])
		require.ErrorIs(t, err, crypto.ErrReplay)
		require.Equal(t, ">", string(out))
	}
	for _, short := range [][]byte{nil, make([]byte, 7), make([]byte, 8), make([]byte, crypto.DatagramOverhead-1)} {
		_, _, err := opener.Open(nil, short)
		require.ErrorIs(t, err, crypto.ErrOpen)
	}
}

// TestDatagramConcurrency has many goroutines seal and open: no number is used twice, and each datagram opens once.
func TestDatagramConcurrency(t *testing.T) {
	const senders, each = 8, 500
	k := session(t)
	sealer, opener := crypto.NewDatagramSealer(k, true), crypto.NewDatagramOpener(k, true)
	sealed := make(chan []byte, senders*each)
	var wg sync.WaitGroup
	for range senders {
		wg.Go(func() {
			for i := range each {
				sealed <- sealer.Seal(nil, crypto.Channel(i%2), []byte("payload"))
			}
		})
	}
	wg.Wait()
	close(sealed)

	var mu sync.Mutex
	numbers, opened, replayed := map[string]bool{}, 0, 0
	for range senders {
		wg.Go(func() {
			for d := range sealed {
				_, _, err1 := opener.Open(nil, d)
				_, _, err2 := opener.Open(nil, d)
				mu.Lock()
				numbers[string(d[:8])] = true
				if err1 == nil {
					opened++
				}
				if err2 == crypto.ErrReplay {
					replayed++
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	require.Len(t, numbers, senders*each)
	require.Equal(t, senders*each, opened)
	require.Equal(t, senders*each, replayed)
}

func TestDerive(t *testing.T) {
	k := session(t)
	a, err := crypto.Derive(k, "a", 36)
	require.NoError(t, err)
	require.Len(t, a, 36)
	again, err := crypto.Derive(k, "a", 36)
	require.NoError(t, err)
	require.Equal(t, a, again)
	b, err := crypto.Derive(k, "b", 36)
	require.NoError(t, err)
	require.NotEqual(t, a, b)
	_, err = crypto.Derive(k, "a", 255*32+1)
	require.Error(t, err)
}

func TestNoAllocations(t *testing.T) {
	k := session(t)
	sealer, opener := crypto.NewDatagramSealer(k, true), crypto.NewDatagramOpener(k, true)
	streamIn, streamOut := crypto.NewStreamSealer(k, true), crypto.NewStreamOpener(k, true)
	payload, sealed, out := make([]byte, 1400), make([]byte, 0, 1500), make([]byte, 0, 1500)
	sealed = sealer.Seal(sealed, crypto.Fragmentable, payload) // the first one makes a page of the window
	_, _, _ = opener.Open(out, sealed)
	require.Zero(t, testing.AllocsPerRun(1000, func() {
		sealed = sealer.Seal(sealed[:0], crypto.Fragmentable, payload)
		if _, _, err := opener.Open(out, sealed); err != nil {
			t.Error(err)
		}
	}), "datagram")
	require.Zero(t, testing.AllocsPerRun(1000, func() {
		sealed = streamIn.Seal(sealed[:0], payload)
		if _, err := streamOut.Open(out, sealed); err != nil {
			t.Error(err)
		}
	}), "stream")
}

func FuzzStreamOpen(f *testing.F) {
	k := crypto.Key{1, 2, 3}
	f.Add(crypto.NewStreamSealer(k, true).Seal(nil, []byte("good")))
	f.Add([]byte{})
	f.Add(make([]byte, crypto.Overhead))
	f.Fuzz(func(t *testing.T, sealed []byte) {
		out, err := crypto.NewStreamOpener(k, true).Open(nil, sealed)
		if err == nil {
			require.Equal(t, sealed, crypto.NewStreamSealer(k, true).Seal(nil, out))
			return
		}
		require.Empty(t, out)
	})
}

func FuzzDatagramOpen(f *testing.F) {
	k := crypto.Key{1, 2, 3}
	s := crypto.NewDatagramSealer(k, true)
	f.Add(s.Seal(nil, crypto.Fragmentable, []byte("good")), s.Seal(nil, crypto.DontFragment, nil))
	f.Add([]byte{}, make([]byte, crypto.DatagramOverhead))
	f.Fuzz(func(t *testing.T, first, second []byte) {
		o := crypto.NewDatagramOpener(k, true)
		for _, d := range [][]byte{first, second} {
			out, _, err := o.Open(nil, d)
			if err != nil {
				require.Empty(t, out)
				continue
			}
			require.Len(t, out, len(d)-crypto.DatagramOverhead)
			_, _, err = o.Open(nil, d)
			require.ErrorIs(t, err, crypto.ErrReplay)
		}
	})
}

func BenchmarkDatagram(b *testing.B) {
	k := session(b)
	sealer, opener := crypto.NewDatagramSealer(k, true), crypto.NewDatagramOpener(k, true)
	payload, sealed, out := make([]byte, 1400), make([]byte, 0, 1500), make([]byte, 0, 1500)
	b.SetBytes(int64(len(payload)))
	b.ReportAllocs()
	for b.Loop() {
		sealed = sealer.Seal(sealed[:0], crypto.DontFragment, payload)
		if _, _, err := opener.Open(out, sealed); err != nil {
			b.Fatal(err)
		}
	}
}
