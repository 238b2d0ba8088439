package ipam

import (
	"encoding/hex"
	"encoding/json"
	"net/netip"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/overweave/overweave/ipam/internal/addr"
	"github.com/overweave/overweave/ipam/internal/paxos"
	"github.com/overweave/overweave/ipam/internal/ring"
	"github.com/overweave/overweave/mesh/peer"
)

// The vectors spell addresses and peers as text.
type (
	vecToken struct {
		Token   string
		Peer    peer.Name
		Version uint32
		Free    uint64
	}
	vecRing struct {
		Start, End string
		Peer       peer.Name
		Entries    []vecToken
		Seeds      []peer.Name
	}
	vecVoter struct {
		Name peer.Name
		UID  peer.UID
	}
	vecID struct {
		Round    uint64
		Proposer vecVoter
	}
	vecClaim struct {
		Node              vecVoter
		Promise, Accepted vecID
		AcceptedVal       struct {
			Value  []peer.Name
			Origin vecID
		}
	}
	vecState struct {
		Nicknames map[peer.Name]string
		Now       int64
		Paxos     *[]vecClaim
		Ring      *vecRing
	}
	vecRange   struct{ Start, End string }
	vecUnicast struct {
		Tag   byte
		Range *vecRange
		State *vecState
	}
	vecMessage struct {
		From, To peer.Name
		Kind     string
		Tag      *byte
		Hex      string
		Decoded  json.RawMessage
	}
	vectors struct {
		Gob []struct {
			Name, Type, Hex string
			Decoded         json.RawMessage
		}
		ParseSubnet []struct{ In, Error string }
		Scenarios   struct {
			ScenarioSpaceRequest struct {
				Allocated                    string
				Messages                     []vecMessage
				RingOfP1After, RingOfP2After vecRing
				Seeds                        []peer.Name
				Universe                     netip.Prefix
			}
			ScenarioClaimGranted struct {
				Messages      []vecMessage
				RingOfP1After vecRing
			}
			ScenarioClaimDenied struct {
				Error    string
				Messages []vecMessage
			}
			ScenarioShutdown struct {
				Messages      []vecMessage
				RingOfP1After vecRing
			}
			ScenarioObserver struct {
				Allocated string
				Messages  []vecMessage
			}
		}
		HTTP struct{ Calls []httpCall }
	}
	httpCall struct {
		Method, Path, Form string
		Status             int
		Body               string
	}
)

func loadVectors(t testing.TB) *vectors {
	raw, err := os.ReadFile("testdata/vectors.json")
	require.NoError(t, err)
	v := new(vectors)
	require.NoError(t, json.Unmarshal(raw, v))
	require.NotEmpty(t, v.Gob)
	return v
}

func unhex(t testing.TB, s string) []byte {
	b, err := hex.DecodeString(s)
	require.NoError(t, err)
	return b
}

func at(s string) addr.Addr { return addr.FromNetip(netip.MustParseAddr(s)) }

func (v vecRange) span() addr.Range { return addr.Range{Start: at(v.Start), End: at(v.End)} }

func (v vecRing) ring() *ring.Ring {
	r := &ring.Ring{Range: vecRange{v.Start, v.End}.span(), Seeds: v.Seeds}
	for _, e := range v.Entries {
		r.Tokens = append(r.Tokens, ring.Token{At: at(e.Token), Peer: e.Peer, Version: e.Version, Free: e.Free})
	}
	return r
}

func (v vecID) id() paxos.ID { return paxos.ID{Round: v.Round, Proposer: paxos.Voter(v.Proposer)} }

func (v vecState) state() state {
	s := state{now: v.Now, nicknames: v.Nicknames}
	if v.Ring != nil {
		s.ring, s.copyOf = v.Ring.ring(), v.Ring.Peer
	}
	if v.Paxos != nil {
		s.claims = make(paxos.Claims)
		for _, c := range *v.Paxos {
			value := paxos.Value{Origin: c.AcceptedVal.Origin.id()}
			if len(c.AcceptedVal.Value) > 0 {
				value.Peers = c.AcceptedVal.Value
			}
			s.claims[paxos.Voter(c.Node)] = paxos.Claim{Promise: c.Promise.id(), Accepted: c.Accepted.id(), Value: value}
		}
	}
	return s
}
