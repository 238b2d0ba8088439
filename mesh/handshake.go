package mesh

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/overweave/overweave/crypto"
)

const (
	protocolName = "weave"
	maxProtocol  = 2
	headerLimit  = 10 * time.Second
	introLimit   = 60 * time.Second
)

// introduction is the first part of a connection (section 2 of the mesh specification): both ends agree on a version, on
// a key if there is a password, and say who they are.
//
// An acceptor with a password sends its features only after those of the initiator have opened, so that whoever dials gets
// one guess of the password for each connection (section 11.4). The initiator always sends at once, so nobody waits for
// somebody who waits.
type introduction struct {
	self     features
	minimum  int // lowest version that is acceptable
	maximum  int // highest version; 0 is maxProtocol
	password []byte
	outbound bool
	keys     *crypto.KeyPair // nil: a fresh pair is made
}

// introConn is the part of a connection that an introduction needs.
type introConn interface {
	io.Writer
	SetDeadline(time.Time) error
	SetReadDeadline(time.Time) error
	SetWriteDeadline(time.Time) error
}

// session is what an introduction has found out.
type session struct {
	version int
	remote  features
	connUID uint64
	key     *crypto.Key // nil without password
	in      *frameReader
	out     *frameWriter
}

// run carries the introduction out; r reads from c. After an error the connection is of no more use.
func (i *introduction) run(c introConn, r io.Reader) (*session, error) {
	s := &session{in: newFrameReader(r), out: &frameWriter{}}
	if err := c.SetDeadline(time.Now().Add(headerLimit)); err != nil {
		return nil, err
	}
	if err := i.header(c, s); err != nil {
		return nil, err
	}
	if err := c.SetDeadline(time.Now().Add(introLimit)); err != nil {
		return nil, err
	}
	exchange := i.version2
	if s.version == 1 {
		exchange = i.version1
	}
	m, err := exchange(c, s)
	if err != nil {
		return nil, err
	}
	if s.remote, err = parseFeatures(m, s.version); err != nil {
		return nil, err
	}
	s.connUID = i.self.connID ^ s.remote.connID
	s.in.limit = maxFrame
	return s, c.SetWriteDeadline(time.Time{})
}

func (i *introduction) versions() (low, high byte) {
	if i.maximum == 0 {
		return byte(i.minimum), maxProtocol
	}
	return byte(i.minimum), byte(i.maximum)
}

// header exchanges headers and chooses the version.
func (i *introduction) header(c introConn, s *session) error {
	low, high := i.versions()
	if _, err := c.Write(append([]byte(protocolName), low, high)); err != nil {
		return err
	}
	var h [len(protocolName) + 2]byte
	if _, err := io.ReadFull(s.in.r, h[:]); err != nil {
		return fmt.Errorf("%w: no header: %w", ErrIncompatible, unexpected(err))
	}
	if !bytes.HasPrefix(h[:], []byte(protocolName)) {
		return fmt.Errorf("%w: foreign header", ErrIncompatible)
	}
	theirLow, theirHigh := h[len(h)-2], h[len(h)-1]
	version := min(high, theirHigh)
	if version < max(low, theirLow) {
		return fmt.Errorf("%w: we speak versions %d to %d, they %d to %d", ErrIncompatible, low, high, theirLow, theirHigh)
	}
	s.version = int(version)
	s.in.version, s.out.version = s.version, s.version
	return nil
}

func (i *introduction) keyPair() (crypto.KeyPair, error) {
	if i.keys != nil {
		return *i.keys, nil
	}
	return crypto.GenerateKeyPair()
}

// version2 exchanges flags, keys and sealed features.
func (i *introduction) version2(c introConn, s *session) (map[string]string, error) {
	if len(i.password) == 0 {
		return i.clear2(c, s)
	}
	pair, err := i.keyPair()
	if err != nil {
		return nil, err
	}
	public := pair.Public()
	if _, err := c.Write(append([]byte{1}, public[:]...)); err != nil {
		return nil, err
	}
	if err := readFlag(s.in.r, 1); err != nil {
		return nil, err
	}
	var remote [crypto.KeySize]byte
	if _, err := io.ReadFull(s.in.r, remote[:]); err != nil {
		return nil, unexpected(err)
	}
	if err := i.secure(s, pair, remote[:]); err != nil {
		return nil, err
	}
	if !i.outbound { // hold back until the initiator has shown that it knows the password
		m, err := sealedFeatures(s)
		if err != nil {
			return nil, err
		}
		return m, i.sendFeatures(c, s)
	}
	if err := i.sendFeatures(c, s); err != nil {
		return nil, err
	}
	return sealedFeatures(s)
}

// clear2 is version2 without password.
func (i *introduction) clear2(c introConn, s *session) (map[string]string, error) {
	frame, err := s.out.append([]byte{0}, encodeFeatures(i.self.encode(s.version)))
	if err != nil {
		return nil, err
	}
	if _, err := c.Write(frame); err != nil {
		return nil, err
	}
	if err := readFlag(s.in.r, 0); err != nil {
		return nil, err
	}
	return s.in.features()
}

func readFlag(r io.ByteReader, want byte) error {
	got, err := r.ReadByte()
	switch {
	case err != nil:
		return unexpected(err)
	case got == want:
		return nil
	case got > 1:
		return fmt.Errorf("%w: encryption flag %d", ErrIncompatible, got)
	case want == 1:
		return fmt.Errorf("%w: the other end uses none", ErrPassword)
	default:
		return fmt.Errorf("%w: the other end uses one, we do not", ErrPassword)
	}
}

func (i *introduction) sendFeatures(c introConn, s *session) error {
	frame, err := s.out.append(nil, encodeFeatures(i.self.encode(s.version)))
	if err != nil {
		return err
	}
	_, err = c.Write(frame)
	return err
}

// sealedFeatures reads features; those that do not open, and a connection that ends here, mean another password.
func sealedFeatures(s *session) (map[string]string, error) {
	m, err := s.in.features()
	switch {
	case errors.Is(err, crypto.ErrOpen):
		return nil, fmt.Errorf("%w: %w", ErrPassword, err)
	case closedByRemote(err):
		return nil, fmt.Errorf("%w: the other end closed on seeing ours: %w", ErrPassword, err)
	}
	return m, err
}

// secure derives the key and starts sealing.
func (i *introduction) secure(s *session, pair crypto.KeyPair, remote []byte) error {
	key, err := pair.Session(remote, i.password)
	if err != nil {
		return err
	}
	s.key = &key
	s.in.opener = crypto.NewStreamOpener(key, !i.outbound)
	s.out.sealer = crypto.NewStreamSealer(key, i.outbound)
	return nil
}

// version1 exchanges features in the clear, with the key among them.
func (i *introduction) version1(c introConn, s *session) (map[string]string, error) {
	ours := i.self.encode(1)
	var pair crypto.KeyPair
	if len(i.password) > 0 {
		var err error
		if pair, err = i.keyPair(); err != nil {
			return nil, err
		}
		public := pair.Public()
		ours[keyPublicKey] = hex.EncodeToString(public[:])
	}
	if _, err := c.Write(encodeFeatures(ours)); err != nil {
		return nil, err
	}
	m, err := s.in.features()
	if err != nil {
		return nil, err
	}
	remote, err := publicKeyOf(m)
	switch {
	case err != nil:
		return nil, err
	case remote == nil && len(i.password) > 0:
		return nil, fmt.Errorf("%w: the other end uses none", ErrPassword)
	case remote != nil && len(i.password) == 0:
		return nil, fmt.Errorf("%w: the other end uses one, we do not", ErrPassword)
	case remote != nil:
		return m, i.secure(s, pair, remote)
	}
	return m, nil
}
