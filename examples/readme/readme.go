// Package readme holds the examples of the README, compiled and run as tests, so that what stands there is true.
package readme
