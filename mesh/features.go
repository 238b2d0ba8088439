package mesh

import (
	"bytes"
	"encoding/gob"
	"encoding/hex"
	"fmt"
	"strconv"

	"github.com/overweave/overweave/mesh/internal/gobwire"
	"github.com/overweave/overweave/mesh/overlay"
	"github.com/overweave/overweave/mesh/peer"
)

// Keys of the features map, section 2.4 of the mesh specification.
const (
	keyFlavour   = "PeerNameFlavour"
	keyName      = "Name"
	keyNickname  = "NickName"
	keyUID       = "UID"
	keyConnID    = "ConnID"
	keyShortID   = "ShortID"
	keyTrusted   = "Trusted"
	keyPublicKey = "PublicKey" // version 1 with a password
	flavour      = "mac"

	// keyDelta is ours: its value is the version of the topology deltas the sender speaks (delta.go).
	keyDelta     = "OverweaveDelta"
	deltaVersion = "1"
	// keyPort is ours: the TCP port the sender listens on.
	keyPort = "OverweavePort"

	// maxFeatures bounds the encoded features, in bytes. They arrive before the remote has shown that it knows the
	// password; Weave Net 2.8 sends less than 300.
	maxFeatures = 64 << 10
)

// features is what one end says of itself in the introduction.
type features struct {
	name       peer.Name
	nickname   string
	uid        peer.UID
	connID     uint64
	shortID    peer.ShortID
	hasShortID bool
	trusted    bool   // the sender trusts the receiver's address
	overlays   string // the sender's overlays; empty: says nothing of overlays
	delta      bool
	port       uint16
	raw        map[string]string // as received; nil in what we send
}

// encode returns the map for the wire; version 1 carries a part of it only.
func (f *features) encode(version int) map[string]string {
	m := map[string]string{
		keyFlavour: flavour, keyName: f.name.String(), keyNickname: f.nickname,
		keyUID: f.uid.String(), keyConnID: strconv.FormatUint(f.connID, 10),
	}
	if version == 1 {
		return m
	}
	m[keyTrusted] = strconv.FormatBool(f.trusted)
	if f.hasShortID {
		m[keyShortID] = f.shortID.String()
	}
	if f.overlays != "" {
		m[overlay.FeatureKey] = f.overlays
	}
	if f.delta {
		m[keyDelta] = deltaVersion
	}
	if f.port != 0 {
		m[keyPort] = strconv.Itoa(int(f.port))
	}
	return m
}

// parseFeatures checks a map that came from the network. In version 1 only the five keys count that it can carry.
func parseFeatures(m map[string]string, version int) (f features, err error) {
	required := []string{keyFlavour, keyName, keyNickname, keyUID, keyConnID}
	if version == 1 {
		m = onlyKeys(m, required)
	}
	for _, key := range required {
		if _, ok := m[key]; !ok {
			return f, fmt.Errorf("%w: introduction without %s", ErrIncompatible, key)
		}
	}
	if got := m[keyFlavour]; got != flavour {
		return f, fmt.Errorf("%w: peer names of kind %q, want %q", ErrIncompatible, got, flavour)
	}
	f.raw, f.nickname = m, m[keyNickname]
	if f.name, err = peer.Parse(m[keyName]); err != nil {
		return f, fmt.Errorf("introduction: %w", err)
	}
	if err := f.parseOptional(m); err != nil {
		return f, fmt.Errorf("introduction: %w", err)
	}
	if f.uid, err = peer.ParseUID(m[keyUID]); err != nil {
		return f, fmt.Errorf("introduction: %w", err)
	}
	if f.connID, err = strconv.ParseUint(m[keyConnID], 10, 64); err != nil {
		return f, fmt.Errorf("introduction: %w: connection id %q", errMalformed, m[keyConnID])
	}
	return f, nil
}

func (f *features) parseOptional(m map[string]string) (err error) {
	if s, ok := m[keyShortID]; ok {
		if f.shortID, err = peer.ParseShortID(s); err != nil {
			return err
		}
		f.hasShortID = true
	}
	if s, ok := m[keyTrusted]; ok {
		if f.trusted, err = strconv.ParseBool(s); err != nil {
			return fmt.Errorf("%w: trusted is %q", errMalformed, s)
		}
	}
	f.overlays = m[overlay.FeatureKey]
	f.delta = m[keyDelta] == deltaVersion
	if port, err := strconv.ParseUint(m[keyPort], 10, 16); err == nil {
		f.port = uint16(port)
	}
	return nil
}

func onlyKeys(m map[string]string, keys []string) map[string]string {
	out := make(map[string]string, len(keys))
	for _, k := range keys {
		if v, ok := m[k]; ok {
			out[k] = v
		}
	}
	return out
}

// mapDefinition is the gob type definition of map[string]string with the first free type number, and mapType that number.
const (
	mapDefinition = "\x0d\x7f\x04\x01\x02\xff\x80\x00\x01\x0c\x01\x0c\x00\x00"
	mapType       = 64
)

// encodeFeatures returns the gob stream that holds the map.
func encodeFeatures(m map[string]string) []byte {
	value := gobwire.AppendInt(nil, mapType)
	value = append(value, 0)
	value = gobwire.AppendUint(value, uint64(len(m)))
	for k, v := range m {
		value = append(gobwire.AppendUint(value, uint64(len(k))), k...)
		value = append(gobwire.AppendUint(value, uint64(len(v))), v...)
	}
	out := gobwire.AppendUint([]byte(mapDefinition), uint64(len(value)))
	return append(out, value...)
}

// decodeFeatures reads the gob stream that holds a map, of which the caller has bounded the length.
func decodeFeatures(b []byte) (map[string]string, error) {
	if rest, ok := bytes.CutPrefix(b, []byte(mapDefinition)); ok {
		if m, ok := decodeMap(rest); ok {
			return m, nil
		}
	}
	m := map[string]string{} // if it were nil gob would make one of whatever size the bytes say
	if err := gob.NewDecoder(bytes.NewReader(b)).Decode(&m); err != nil {
		return nil, fmt.Errorf("%w: features: %w", errMalformed, err)
	}
	return m, nil
}

func decodeMap(b []byte) (map[string]string, bool) {
	r := gobwire.NewReader(b)
	v := r.Value(mapType)
	m := make(map[string]string, 16)
	for n := v.Uint(); n > 0 && !v.Bad(); n-- {
		k := v.Bytes()
		m[string(k)] = string(v.Bytes())
	}
	return m, !v.Bad() && v.Len() == 0 && !r.Bad()
}

// publicKeyOf returns the public key of a version 1 features map, nil if there is none.
func publicKeyOf(m map[string]string) ([]byte, error) {
	s, ok := m[keyPublicKey]
	if !ok {
		return nil, nil
	}
	key, err := hex.DecodeString(s)
	if err != nil {
		return nil, fmt.Errorf("%w: public key: %w", errMalformed, err)
	}
	return key, nil
}
