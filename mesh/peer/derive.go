package peer

import "crypto/sha256"

// hardwareSalt separates these names from other uses of a host's machine id. It is part of the wire's history: a host
// that ran Weave Net 2.8 keeps its name.
const hardwareSalt = "9oBJ0Jmip-"

// FromHardware derives a name from what a host knows of itself: the contents of its machine-id file and of its system
// UUID file, as read, newlines included. Same host, same name. It is a MAC address that is locally administered and
// not a group. Either may be empty; with both empty use Random instead.
func FromHardware(machineID, systemUUID []byte) Name {
	h := sha256.New()
	h.Write([]byte(hardwareSalt))
	h.Write(machineID)
	h.Write(systemUUID)
	return local([NameSize]byte(h.Sum(nil)))
}

// local makes raw a locally administered address of a single station, and so never nobody.
func local(raw [NameSize]byte) Name {
	raw[0] = raw[0]&^1 | 2
	n, _ := FromBytes(raw[:]) // six bytes, bit 1 set: cannot fail
	return n
}
