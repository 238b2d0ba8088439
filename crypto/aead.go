package crypto

import (
	"crypto/aes"
	"crypto/cipher"
	"fmt"

	"golang.org/x/crypto/chacha20poly1305"
)

// NewAESGCM returns AES-256-GCM (NIST SP 800-38D) with nonces of 12 bytes. It is safe for concurrent use.
func NewAESGCM(k Key) (cipher.AEAD, error) {
	block, err := aes.NewCipher(k[:])
	if err != nil {
		return nil, fmt.Errorf("crypto: AES-256-GCM: %w", err)
	}
	return cipher.NewGCM(block)
}

// NewChaCha20Poly1305 returns ChaCha20-Poly1305 (RFC 8439) with nonces of 12 bytes. It is safe for concurrent use.
func NewChaCha20Poly1305(k Key) (cipher.AEAD, error) {
	aead, err := chacha20poly1305.New(k[:])
	if err != nil {
		return nil, fmt.Errorf("crypto: ChaCha20-Poly1305: %w", err)
	}
	return aead, nil
}
