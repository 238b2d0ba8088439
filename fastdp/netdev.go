package fastdp

// devices are the network devices of the host, as far as a self-test of offloads needs them.
type devices interface {
	// send has a device send a frame with an IPv4 packet of TCP whose checksum is unfinished, to be cut to segments of some length
	// of payload: as if a program of the host had sent it.
	send(device string, frame []byte, segment int) error
	// offloads reports whether a device takes packets with unfinished checksums.
	offloads(device string) (on bool, err error)
	// setOffloads says whether a device gets packets with unfinished checksums and long ones, or the kernel finishes and cuts them.
	setOffloads(device string, on bool) error
}
