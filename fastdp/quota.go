package fastdp

import (
	"hash/fnv"
	"slices"
	"time"
)

// One container, or one neighbour, is not to use up what is there for all: each has a share of the flows, and of what user
// space does frame by frame. Whoever has used most of a share loses the flows that were idle longest.
const (
	localOrigins  = 512 // local ports with higher numbers share with others
	tunnelOrigins = 512 // neighbours share by chance
	numOrigins    = localOrigins + tunnelOrigins

	maxStations = 4096 // behind a local port
	localShare  = 16   // a local port has one part in so many of the flows
	tunnelShare = 4    // and a neighbour
	spreadShare = 4    // both: of what is sent on in a second frame by frame
	briefShare  = 4    // and of the flows that are not to last
	crowdedAt   = 0.75 // of a share
)

// origin is where frames enter the datapath: a local port, or a neighbour.
type origin int

func (k flowKey) origin() (o origin, has bool) {
	switch {
	case k.shape.matchesTunnel():
		return neighbour(k.outer), true
	case k.shape.matchesPort():
		return origin(k.port % localOrigins), true
	}
	return 0, false // as many as there are stations
}

func neighbour(from outer) origin {
	h := fnv.New32a()
	h.Write(from.src.AsSlice())
	return localOrigins + origin(h.Sum32()%tunnelOrigins)
}

// origin returns where a frame came from.
func (f *frameKey) origin() origin {
	if f.tunneled {
		return neighbour(f.outer)
	}
	return origin(f.port % localOrigins)
}

// share returns how many of all flows may be of one origin.
func (o origin) share(all int) int {
	if o < localOrigins {
		return max(all/localShare, 1)
	}
	return max(all/tunnelShare, 1)
}

// idlest returns those of a list that are to go for no more than a part of a share to be left.
func idlest[T any](list []T, share int, used func(T) time.Time) []T {
	excess := len(list) - int(crowdedAt*float64(share))
	if excess <= 0 {
		return nil
	}
	slices.SortFunc(list, func(a, b T) int { return used(a).Compare(used(b)) })
	return list[:excess]
}

// crowded returns the flows to be removed of those origins that have used most of their share.
func (x *index) crowded(all int) (keys []flowKey) {
	type flow struct {
		key  flowKey
		used time.Time
	}
	by := map[origin][]flow{}
	x.each(func(k flowKey, e *entry) {
		if o, has := k.origin(); has && float64(x.of[o].Load()) > crowdedAt*float64(o.share(all)) {
			by[o] = append(by[o], flow{k, e.used})
		}
	})
	for o, list := range by {
		for _, f := range idlest(list, o.share(all), func(f flow) time.Time { return f.used }) {
			keys = append(keys, f.key)
		}
	}
	return keys
}
