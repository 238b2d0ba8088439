package mesh

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"sync"

	"github.com/overweave/overweave/crypto"
	"github.com/overweave/overweave/mesh/internal/gobwire"
)

const (
	maxFrame   = 10 << 20 // bytes after the length prefix, seal included
	frameChunk = 32 << 10 // how much memory a length prefix gets on credit
	readBuffer = 2 << 10
	maxKept    = 256 << 10 // bytes of a buffer that is used again
)

// frameReader takes messages from one direction of a connection: version 2 with a length before each, version 1 as gob
// byte slices; sealed once there is an opener. It is not safe for concurrent use.
type frameReader struct {
	r       *bufio.Reader
	version int
	limit   int // of a frame, in bytes
	opener  *crypto.StreamOpener
	buffers *sync.Pool // of *[]byte; nil: every message has memory of its own
	lent    []*[]byte  // from buffers, until the next message
}

func newFrameReader(r io.Reader) *frameReader {
	return &frameReader{r: bufio.NewReaderSize(r, readBuffer), limit: maxFeatures}
}

// next returns the next message. With buffers it is valid until next is called again.
func (f *frameReader) next() ([]byte, error) {
	f.release()
	frame, err := f.frame()
	if err != nil || f.opener == nil {
		return frame, err
	}
	buf := f.lend()
	if n := len(frame) - crypto.Overhead; n > cap(*buf) {
		*buf = make([]byte, 0, n)
	}
	return f.opener.Open((*buf)[:0], frame)
}

// lend returns memory that is the reader's until the next message.
func (f *frameReader) lend() *[]byte {
	if f.buffers == nil {
		return new([]byte)
	}
	buf := f.buffers.Get().(*[]byte)
	f.lent = append(f.lent, buf)
	return buf
}

// release gives back what was lent.
func (f *frameReader) release() {
	for _, buf := range f.lent {
		keepBuffer(f.buffers, buf)
	}
	f.lent = f.lent[:0]
}

// keepBuffer puts a buffer back, unless it has become too large to be kept for another.
func keepBuffer(pool *sync.Pool, buf *[]byte) {
	if cap(*buf) <= maxKept {
		pool.Put(buf)
	}
}

// frame reads the frame that comes next.
func (f *frameReader) frame() ([]byte, error) {
	if f.version == 1 {
		return f.gobFrame()
	}
	var prefix [4]byte
	if _, err := io.ReadFull(f.r, prefix[:]); err != nil {
		return nil, err
	}
	return f.body(uint64(binary.BigEndian.Uint32(prefix[:])))
}

// body reads n bytes. Memory grows with what has arrived, not with what was announced.
func (f *frameReader) body(n uint64) ([]byte, error) {
	if n > uint64(f.limit) {
		return nil, fmt.Errorf("%w: %d bytes, limit %d", errTooLong, n, f.limit)
	}
	lent := f.lend()
	buf := (*lent)[:0]
	for left := int(n); left > 0; {
		chunk := min(left, max(frameChunk, len(buf)))
		start := len(buf)
		if cap(buf) < start+chunk {
			grown := make([]byte, start, start+chunk)
			copy(grown, buf)
			buf = grown
		}
		buf = buf[:start+chunk]
		if _, err := io.ReadFull(f.r, buf[start:]); err != nil {
			return nil, unexpected(err)
		}
		left -= chunk
	}
	*lent = buf
	return buf, nil
}

// gobFrame reads a byte slice from the gob stream of version 1.
func (f *frameReader) gobFrame() ([]byte, error) {
	item, err := f.gobItem()
	if err != nil {
		return nil, err
	}
	r := gobwire.NewReader(item)
	typ, zero := r.Int(), r.Uint()
	out := r.Bytes()
	if r.Bad() || typ != gobwire.Bytes || zero != 0 || r.Len() != 0 {
		return nil, fmt.Errorf("%w: expected a byte slice", errMalformed)
	}
	return out, nil
}

// gobItem reads one length and what it leads.
func (f *frameReader) gobItem() ([]byte, error) {
	n, err := f.gobUint()
	if err != nil {
		return nil, err
	}
	return f.body(n)
}

func (f *frameReader) gobUint() (uint64, error) {
	c, err := f.r.ReadByte()
	if err != nil || c < 128 {
		return uint64(c), err
	}
	size := 256 - int(c)
	if size > 8 {
		return 0, fmt.Errorf("%w: gob length of %d bytes", errMalformed, size)
	}
	var v uint64
	for range size {
		c, err := f.r.ReadByte()
		if err != nil {
			return 0, unexpected(err)
		}
		v = v<<8 | uint64(c)
	}
	return v, nil
}

// features reads the features frame; in version 1 that is the first value of the gob stream and its type definitions.
func (f *frameReader) features() (map[string]string, error) {
	if f.version == 2 {
		b, err := f.next()
		if err != nil {
			return nil, err
		}
		return decodeFeatures(b)
	}
	var stream []byte
	for {
		item, err := f.gobItem()
		if err != nil {
			return nil, err
		}
		stream = gobwire.AppendUint(stream, uint64(len(item)))
		stream = append(stream, item...)
		r := gobwire.NewReader(item)
		if typ := r.Int(); r.Bad() || len(stream) > maxFeatures {
			return nil, fmt.Errorf("%w: features", errMalformed)
		} else if typ > 0 {
			return decodeFeatures(stream)
		}
	}
}

// unexpected makes the end of a stream within a frame an error.
func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// frameWriter makes the frames of one direction. Frames have to be written in the order they were made. It is not safe for
// concurrent use.
type frameWriter struct {
	version int
	sealer  *crypto.StreamSealer
	sealed  []byte // reused
}

// append appends the frame of a message to dst; the error is errTooLong.
func (f *frameWriter) append(dst, msg []byte) ([]byte, error) {
	n := len(msg)
	if f.sealer != nil {
		n += crypto.Overhead
	}
	if n > maxFrame {
		return dst, fmt.Errorf("%w: %d bytes, limit %d", errTooLong, n, maxFrame)
	}
	if f.version == 1 {
		return f.appendGob(dst, msg), nil
	}
	dst = binary.BigEndian.AppendUint32(dst, uint32(n))
	if f.sealer != nil {
		return f.sealer.Seal(dst, msg), nil
	}
	return append(dst, msg...), nil
}

func (f *frameWriter) appendGob(dst, msg []byte) []byte {
	if f.sealer != nil {
		f.sealed = f.sealer.Seal(f.sealed[:0], msg)
		msg = f.sealed
	}
	return gobwire.AppendBytesItem(dst, msg)
}
