package odp

import "fmt"

// Feature is something that not every kernel's datapath has.
type Feature uint16

// Features of kernels, for [Conn.Probe]. Actions and keys have the numbers that the kernel gives them.
const (
	featureAction Feature = 0x100
	featureKey    Feature = 0x200

	FeatureUFID      Feature = 0x300 // unique flow identifiers, Linux 4.0
	FeatureMeters    Feature = 0x301 // Linux 4.15
	FeatureCTLimit   Feature = 0x302 // limits of tracked connections, Linux 4.18
	FeaturePerCPU    Feature = 0x303 // per-CPU dispatch of misses, Linux 5.15
	FeatureHashSymL4 Feature = 0x304 // Linux 6.5
	FeatureNAT       Feature = 0x305 // action ct with nat, Linux 4.6
	featureUserBits  Feature = 0x400
	FeatureTCRecirc          = featureUserBits + Feature(TCRecircSharing)
	FeatureVportPIDs         = featureUserBits + Feature(VportPIDs)
	FeatureUnaligned         = featureUserBits + Feature(Unaligned)
	FeatureRecirc            = featureAction + actRecirc
	FeatureCT                = featureAction + actCT
	FeatureClone             = featureAction + actClone
	FeatureMeterAct          = featureAction + actMeter
	FeatureCheckLen          = featureAction + actCheckPktLen
	FeatureDecTTL            = featureAction + actDecTTL
	FeatureDrop              = featureAction + actDrop
	FeaturePSample           = featureAction + actPSample
	FeatureExtHdrs           = featureKey + keyIPv6ExtHdrs
	FeatureCTTuple           = featureKey + keyCTTupleIPv4
)

// FeatureOfAction returns the feature "this action".
func FeatureOfAction(a Action) Feature {
	if h, ok := a.(Hash); ok && h.Algorithm == HashSymL4 {
		return FeatureHashSymL4
	}
	return featureAction + Feature(a.actionType()&0xff)
}

// FeatureOfKey returns the feature "this key".
func FeatureOfKey(k Key) Feature { return featureKey + Feature(k.keyType()&0xff) }

// String names the feature.
func (f Feature) String() string {
	name, _ := f.about()
	return name
}

// about returns the name and the first kernel that has it.
func (f Feature) about() (name, since string) {
	switch f {
	case FeatureUFID:
		return "unique flow identifiers", "4.0"
	case FeatureMeters:
		return "meters", "4.15"
	case FeatureCTLimit:
		return "connection limits", "4.18 (with CONFIG_NETFILTER_CONNCOUNT)"
	case FeaturePerCPU:
		return "per-CPU dispatch of upcalls", "5.15"
	case FeatureHashSymL4:
		return "action hash(sym_l4)", "6.5"
	case FeatureNAT:
		return "action ct with nat", "4.6 (with CONFIG_NF_NAT)"
	case FeatureTCRecirc:
		return "sharing recirculation with tc", "5.4 (with CONFIG_NET_TC_SKB_EXT)"
	case FeatureVportPIDs:
		return "several upcall sockets per vport", "3.17"
	case FeatureUnaligned:
		return "unaligned upcalls", "3.14"
	}
	switch n := uint16(f & 0xff); f &^ 0xff {
	case featureAction:
		return actionAbout(n)
	case featureKey:
		if n == keyIPv6ExtHdrs {
			return "key ipv6_exthdrs", "5.18"
		}
		return "key " + keyName(n), ""
	}
	return fmt.Sprintf("feature %#x", uint16(f)), ""
}

func actionAbout(n uint16) (name, since string) {
	known := [...]struct {
		n           uint16
		name, since string
	}{
		{actOutput, "output", ""}, {actUserspace, "userspace", ""}, {actSet, "set", ""}, {actPushVLAN, "push_vlan", ""},
		{actPopVLAN, "pop_vlan", ""}, {actSample, "sample", ""}, {actRecirc, "recirc", "3.18"}, {actHash, "hash", "3.18"},
		{actPushMPLS, "push_mpls", "3.19"}, {actPopMPLS, "pop_mpls", "3.19"}, {actSetMasked, "set (masked)", "4.0"},
		{actCT, "ct", "4.3"}, {actTrunc, "trunc", "4.8"}, {actPushEth, "push_eth", "4.10"}, {actPopEth, "pop_eth", "4.10"},
		{actCTClear, "ct_clear", "4.15"}, {actPushNSH, "push_nsh", "4.15"}, {actPopNSH, "pop_nsh", "4.15"},
		{actMeter, "meter", "4.15"}, {actClone, "clone", "4.19"}, {actCheckPktLen, "check_pkt_len", "5.2"},
		{actAddMPLS, "add_mpls", "5.6"}, {actDecTTL, "dec_ttl", "5.7"}, {actDrop, "drop with a reason", "6.6"},
		{actPSample, "psample", "6.11"},
	}
	for _, k := range known {
		if k.n == n {
			return "action " + k.name, k.since
		}
	}
	return fmt.Sprintf("action %d", n), ""
}
