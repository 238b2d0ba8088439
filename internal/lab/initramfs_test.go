package lab

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// cpioEntry is a file of an archive in the format "newc".
type cpioEntry struct {
	name string
	mode uint64
	data string
}

// unpack reads an archive as the kernel does: headers of 110 characters with 13 numbers, names and data aligned to words.
func unpack(t *testing.T, b []byte) (entries []cpioEntry) {
	t.Helper()
	at := 0
	take := func(n int) []byte {
		require.LessOrEqual(t, at+n, len(b))
		p := b[at : at+n]
		at += n
		return p
	}
	align := func() { at += -at & 3 }
	for {
		require.Zero(t, at%4)
		require.Equal(t, "070701", string(take(6)))
		var numbers [13]uint64
		for i := range numbers {
			n, err := strconv.ParseUint(string(take(8)), 16, 32)
			require.NoError(t, err)
			numbers[i] = n
		}
		name := string(take(int(numbers[11])))
		require.True(t, strings.HasSuffix(name, "\x00"))
		align()
		e := cpioEntry{strings.TrimSuffix(name, "\x00"), numbers[1], string(take(int(numbers[6])))}
		align()
		if e.name == "TRAILER!!!" {
			require.Equal(t, len(b), at)
			return entries
		}
		entries = append(entries, e)
	}
}

func TestArchive(t *testing.T) {
	from := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(from, []byte("copied"), 0o600))
	var out bytes.Buffer
	a := newArchive(&out)
	a.add("/init", []byte("12345"))
	a.add("/lib/modules/a.ko", nil)
	a.copy("/lib/b", from)
	a.entry("/dev", cpioFolder, nil)
	require.NoError(t, a.finish())
	require.Equal(t, []cpioEntry{
		{"init", cpioFile, "12345"}, {"lib", cpioFolder, ""}, {"lib/modules", cpioFolder, ""}, {"lib/modules/a.ko", cpioFile, ""},
		{"lib/b", cpioFile, "copied"}, {"dev", cpioFolder, ""},
	}, unpack(t, out.Bytes()), "each folder once, before what is in it")
}

func TestArchiveFails(t *testing.T) {
	a := newArchive(&bytes.Buffer{})
	a.copy("/init", filepath.Join(t.TempDir(), "nothing"))
	a.add("/more", []byte("more"))
	require.ErrorIs(t, a.finish(), os.ErrNotExist)
}

func TestModulesInOrder(t *testing.T) {
	dir := t.TempDir()
	_, err := modules(dir, "a")
	require.ErrorIs(t, err, os.ErrNotExist)
	index := `kernel/net/9p/9pnet.ko.xz:
kernel/net/9p/9pnet_virtio.ko.xz: kernel/net/9p/9pnet.ko.xz kernel/drivers/virtio.ko.xz kernel/drivers/virtio-ring.ko.xz
kernel/fs/9p/9p.ko.xz: kernel/net/9p/9pnet.ko.xz kernel/fs/netfs.ko
kernel/drivers/virtio.ko.xz: kernel/drivers/virtio-ring.ko.xz
kernel/drivers/virtio-ring.ko.xz:
kernel/fs/netfs.ko:
`
	require.NoError(t, os.WriteFile(filepath.Join(dir, "modules.dep"), []byte(index), 0o600))
	files, err := modules(dir, "virtio_ring", "9pnet_virtio", "built_in", "9p")
	require.NoError(t, err)
	require.Equal(t, []string{
		"kernel/drivers/virtio-ring.ko.xz", "kernel/drivers/virtio.ko.xz", "kernel/net/9p/9pnet.ko.xz", "kernel/net/9p/9pnet_virtio.ko.xz",
		"kernel/fs/netfs.ko", "kernel/fs/9p/9p.ko.xz",
	}, files)
}

func TestModuleNames(t *testing.T) {
	for file, name := range map[string]string{"a/virtio-net.ko.xz": "virtio_net", "b.ko": "b", "c/d_e.ko.zst": "d_e"} {
		require.Equal(t, name, moduleName(file))
	}
}
