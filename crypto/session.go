package crypto

import (
	"crypto/ecdh"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"

	//lint:ignore SA1019 the wire wants HSalsa20 by itself, and nothing else exports it
	"golang.org/x/crypto/salsa20/salsa"
)

// KeySize is the length of keys, public keys included, in bytes.
const KeySize = 32

// Key is a symmetric key. Its text forms hide it, so that it does not end up in a log.
type Key [KeySize]byte

// String hides the key.
func (Key) String() string { return "crypto.Key(hidden)" }

// Format hides the key whatever the verb.
func (k Key) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, k.String()) }

// MarshalText hides the key in JSON and in structured logs.
func (k Key) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// hidden gives a key to who calls it. The methods of a Key do not count where it is an unexported field; of a function there
// is nothing to print, whatever holds it and whatever the verb.
type hidden func() *[KeySize]byte

func hide(k Key) hidden { return func() *[KeySize]byte { return (*[KeySize]byte)(&k) } }

// ErrBadPublicKey is wrapped by errors of [KeyPair.Session] about public keys that are malformed, or of low order, with
// which the session would depend on the password alone.
var ErrBadPublicKey = errors.New("bad public key")

// KeyPair is one end's X25519 key pair, made anew for each connection. It is immutable. The zero KeyPair makes no sessions.
type KeyPair struct {
	private *ecdh.PrivateKey
}

// GenerateKeyPair makes a fresh pair.
func GenerateKeyPair() (KeyPair, error) {
	k, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		return KeyPair{}, fmt.Errorf("crypto: generate key pair: %w", err)
	}
	return KeyPair{private: k}, nil
}

// NewKeyPair makes the pair of a given private key of KeySize bytes; for tests that replay a recorded exchange.
func NewKeyPair(private []byte) (KeyPair, error) {
	k, err := ecdh.X25519().NewPrivateKey(private)
	if err != nil {
		return KeyPair{}, fmt.Errorf("crypto: key pair: %w", err)
	}
	return KeyPair{private: k}, nil
}

// Public returns the key to send to the other end. That of the zero KeyPair is zero, which every other end refuses.
func (k KeyPair) Public() (public [KeySize]byte) {
	if k.private != nil {
		copy(public[:], k.private.PublicKey().Bytes())
	}
	return public
}

// Session computes the session key that both ends share if they know the same password, which is used as it is.
//
//	shared  = HSalsa20(X25519(own private key, remote public key), 16 zero bytes)
//	session = SHA-256(shared | password)
func (k KeyPair) Session(remotePublic, password []byte) (Key, error) {
	if k.private == nil {
		return Key{}, errors.New("crypto: session of no key pair")
	}
	pub, err := ecdh.X25519().NewPublicKey(remotePublic)
	if err != nil {
		return Key{}, fmt.Errorf("crypto: %w: %d bytes, want %d", ErrBadPublicKey, len(remotePublic), KeySize)
	}
	secret, err := k.private.ECDH(pub)
	if err != nil {
		return Key{}, fmt.Errorf("crypto: %w: low order point", ErrBadPublicKey)
	}
	var shared [KeySize]byte
	salsa.HSalsa20(&shared, new([16]byte), (*[KeySize]byte)(secret), &salsa.Sigma)
	return sha256.Sum256(append(shared[:], password...)), nil
}

// Derive makes n bytes of key material from a key, by HKDF-SHA256 (RFC 5869) without salt. Different labels give
// independent results.
func Derive(k Key, label string, n int) ([]byte, error) {
	out, err := hkdf.Key(sha256.New, k[:], nil, label, n)
	if err != nil {
		return nil, fmt.Errorf("crypto: derive %q: %w", label, err)
	}
	return out, nil
}
