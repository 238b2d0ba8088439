package fastdp

import (
	"encoding/binary"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestLinkAnswers(t *testing.T) {
	request := appendLinkRequest(nil, rtmNewLink, nlmRequest|nlmAck, 7, 5, linkFlagUp)
	require.Len(t, request, linkRequestLen)
	a, ok := parseLinkAnswer(request) // has the form of what the kernel says of a device
	require.True(t, ok)
	require.Equal(t, linkAnswer{seq: 7, flags: linkFlagUp}, a)

	refusal := append([]byte(nil), request...)
	binary.NativeEndian.PutUint16(refusal[4:], nlmsgError)
	code := -int32(syscall.EPERM)
	binary.NativeEndian.PutUint32(refusal[16:], uint32(code))
	a, ok = parseLinkAnswer(refusal)
	require.True(t, ok)
	require.ErrorIs(t, a.err, syscall.EPERM)
	for n := range 20 {
		_, ok = parseLinkAnswer(refusal[:n])
		require.False(t, ok)
	}
	_, ok = parseLinkAnswer(request[:31])
	require.False(t, ok)
}

func FuzzLinkAnswer(f *testing.F) {
	f.Add(appendLinkRequest(nil, rtmNewLink, 0, 1, 2, 1))
	f.Fuzz(func(t *testing.T, b []byte) {
		if a, ok := parseLinkAnswer(b); ok && a.err == nil && a.flags != 0 && len(b) < linkRequestLen {
			t.Fatal("flags out of nothing")
		}
	})
}
