//go:build race

package sleeve

// RaceDetector tells whether the tests run under the race detector, which makes us many times slower and the kernel not.
const RaceDetector = true
