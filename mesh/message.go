package mesh

import (
	"fmt"

	"github.com/overweave/overweave/mesh/internal/gobwire"
	"github.com/overweave/overweave/mesh/peer"
)

// Message tags, section 3 of the mesh specification. Tags 1, 2, 3 and 7 belong to the overlay.
const (
	tagHeartbeat = 0
	tagGossip    = 4
	tagUnicast   = 5
	tagBroadcast = 6

	// Between peers that have agreed on it, see delta.go. Peers of Weave Net 2.8 ignore such tags.
	tagDelta = 16
)

// maxChannelName bounds the names of channels, in bytes.
const maxChannelName = 255

// message is a gossip message: one of tags 4, 5 and 6. Its slices belong to the buffer it was parsed from.
type message struct {
	tag     byte
	channel []byte
	src     peer.Name // tag 4: the immediate sender; tags 5 and 6: the original source
	dst     peer.Name // tag 5 only
	payload []byte
}

// parseMessage reads a gossip message after its tag. Bytes after the payload are ignored, as the specification has it.
func parseMessage(tag byte, body []byte) (m message, err error) {
	r := gobwire.NewReader(body)
	m.tag = tag
	m.channel = r.StringItem()
	src, dst := r.UintItem(), uint64(1)
	if tag == tagUnicast {
		dst = r.UintItem()
	}
	m.payload = r.BytesItem()
	m.src, m.dst = peer.Name(src), peer.Name(dst)
	switch {
	case r.Bad():
		return message{}, fmt.Errorf("%w: gossip message with tag %d", errMalformed, tag)
	case len(m.channel) > maxChannelName:
		return message{}, fmt.Errorf("%w: channel name of %d bytes", errMalformed, len(m.channel))
	case !m.src.IsValid() || !m.dst.IsValid():
		return message{}, fmt.Errorf("%w: gossip message with tag %d: %w", errMalformed, tag, peer.ErrInvalidName)
	}
	return m, nil
}

// encodeMessage returns the message with its tag.
func encodeMessage(tag byte, channel string, src, dst peer.Name, payload []byte) []byte {
	b := make([]byte, 1, 1+2*(len(channel)+24)+gobwire.BytesItemLen(len(payload))+len(payload))
	b[0] = tag
	b = gobwire.AppendStringItem(b, channel)
	b = gobwire.AppendUintItem(b, uint64(src))
	if tag == tagUnicast {
		b = gobwire.AppendUintItem(b, uint64(dst))
	}
	return gobwire.AppendBytesItem(b, payload)
}
