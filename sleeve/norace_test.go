//go:build !race

package sleeve

const raceDetector = false
