// Package fastdp carries Ethernet frames between peers in the kernel.
package fastdp
