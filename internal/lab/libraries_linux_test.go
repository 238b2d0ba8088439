package lab

import (
	"errors"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestLibraries(t *testing.T) {
	paths, err := libraries("/bin/sh")
	require.NoError(t, err)
	for _, p := range paths {
		_, err := os.Stat(p)
		require.NoError(t, err)
	}
	_, err = libraries("/proc/self/status")
	require.Error(t, err, "this is not a program")
	_, err = findLibrary("libnothing.so.9")
	require.ErrorIs(t, err, errors.ErrUnsupported)
	_, err = findLibrary("../etc/passwd")
	require.ErrorIs(t, err, errors.ErrUnsupported)
}
