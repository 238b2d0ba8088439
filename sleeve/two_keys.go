package sleeve

import (
	"crypto/cipher"
	"crypto/subtle"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/cpu"

	"github.com/overweave/overweave/crypto"
)

// hasFastAES reports whether AES-GCM runs in hardware here, where it is faster than ChaCha20.
func hasFastAES() bool {
	switch runtime.GOARCH {
	case "amd64":
		return cpu.X86.HasAES && cpu.X86.HasPCLMULQDQ
	case "arm64":
		return cpu.ARM64.HasAES && cpu.ARM64.HasPMULL || runtime.GOOS == "darwin"
	case "s390x":
		return cpu.S390X.HasAESGCM
	}
	return false
}

// keys makes the keys of a link, one for each direction and epoch.
type keys struct {
	session *[32]byte // nil: in the clear
	uid     uint64
	aes     bool
}

func (k *keys) cipher() string {
	switch {
	case k.session == nil:
		return ""
	case k.aes:
		return "AES-256-GCM"
	default:
		return "ChaCha20-Poly1305"
	}
}

// make returns the seal for one direction: from the end that dialled, or to it. check is for links without key.
func (k *keys) make(epoch uint64, dialler bool, check [check2Len]byte) (cipher.AEAD, error) {
	if k.session == nil {
		return &checkMark{check}, nil
	}
	label := fmt.Sprintf("overweave sleeve2 %s dialler=%t connection=%016x epoch=%d", k.cipher(), dialler, k.uid, epoch)
	material, err := crypto.Derive(*k.session, label, crypto.KeySize)
	if err != nil {
		return nil, err
	}
	if k.aes {
		return crypto.NewAESGCM(crypto.Key(material))
	}
	return crypto.NewChaCha20Poly1305(crypto.Key(material))
}

// checkMark is the seal of links without key: a mark that outsiders do not know, and no more than that.
type checkMark struct{ mark [check2Len]byte }

var errCheck = errors.New("sleeve: wrong check mark")

func (c *checkMark) NonceSize() int { return nonce2Len }
func (c *checkMark) Overhead() int  { return check2Len }

// Seal implements [cipher.AEAD].
func (c *checkMark) Seal(dst, _, plaintext, _ []byte) []byte {
	return append(append(dst, plaintext...), c.mark[:]...)
}

// Open implements [cipher.AEAD].
func (c *checkMark) Open(dst, _, sealed, _ []byte) ([]byte, error) {
	n := len(sealed) - check2Len
	if n < 0 || subtle.ConstantTimeCompare(sealed[n:], c.mark[:]) == 0 {
		return dst, errCheck
	}
	return append(dst, sealed[:n]...), nil
}

const nonce2Len = 12

// sealing is the sending direction in one epoch.
type sealing struct {
	epoch uint64
	aead  cipher.AEAD
	next  atomic.Uint64
}

// opening is the receiving direction in one epoch.
type opening struct {
	epoch uint64
	aead  cipher.AEAD

	mu     sync.Mutex // guards window
	window crypto.Window
}

func (o *opening) fresh(number uint64) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.window.Accept(number)
}

// openings are the epochs that datagrams may come from: the one before the newest that was seen, that, and the next. It is
// immutable.
type openings [3]*opening

// find returns the epoch whose low byte is given, nil if it is none of these.
func (o *openings) find(epoch byte) *opening {
	for i := len(o) - 1; i >= 0; i-- {
		if o[i] != nil && byte(o[i].epoch) == epoch {
			return o[i]
		}
	}
	return nil
}
