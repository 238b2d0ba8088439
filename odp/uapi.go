package odp

// The numbers of the kernel's interface, <linux/openvswitch.h>.

// Key attributes.
const (
	keyEncap        = 1
	keyPriority     = 2
	keyInPort       = 3
	keyEthernet     = 4
	keyVLAN         = 5
	keyEtherType    = 6
	keyIPv4         = 7
	keyIPv6         = 8
	keyTCP          = 9
	keyUDP          = 10
	keyICMP         = 11
	keyICMPv6       = 12
	keyARP          = 13
	keyND           = 14
	keySkbMark      = 15
	keyTunnel       = 16
	keySCTP         = 17
	keyTCPFlags     = 18
	keyDPHash       = 19
	keyRecircID     = 20
	keyMPLS         = 21
	keyCTState      = 22
	keyCTZone       = 23
	keyCTMark       = 24
	keyCTLabels     = 25
	keyCTTupleIPv4  = 26
	keyCTTupleIPv6  = 27
	keyNSH          = 28
	keyPacketType   = 29
	keyNDExtensions = 30
	keyIPv6ExtHdrs  = 32
)

// Tunnel attributes.
const (
	tunID         = 0
	tunIPv4Src    = 1
	tunIPv4Dst    = 2
	tunTOS        = 3
	tunTTL        = 4
	tunDF         = 5
	tunCSum       = 6
	tunOAM        = 7
	tunGeneve     = 8
	tunSrcPort    = 9
	tunDstPort    = 10
	tunVXLAN      = 11
	tunIPv6Src    = 12
	tunIPv6Dst    = 13
	tunPad        = 14
	tunERSPAN     = 15
	tunInfoBridge = 16

	vxlanGBP = 1
)

// NSH attributes.
const (
	nshBase = 1
	nshMD1  = 2
	nshMD2  = 3
)

// Actions.
const (
	actOutput      = 1
	actUserspace   = 2
	actSet         = 3
	actPushVLAN    = 4
	actPopVLAN     = 5
	actSample      = 6
	actRecirc      = 7
	actHash        = 8
	actPushMPLS    = 9
	actPopMPLS     = 10
	actSetMasked   = 11
	actCT          = 12
	actTrunc       = 13
	actPushEth     = 14
	actPopEth      = 15
	actCTClear     = 16
	actPushNSH     = 17
	actPopNSH      = 18
	actMeter       = 19
	actClone       = 20
	actCheckPktLen = 21
	actAddMPLS     = 22
	actDecTTL      = 23
	actDrop        = 24
	actPSample     = 25
)

// Attributes inside actions.
const (
	userPID      = 1
	userData     = 2
	userTunPort  = 3
	userActions  = 4
	sampleProb   = 1
	sampleAction = 2
	pktLen       = 1
	pktGreater   = 2
	pktLessEqual = 3
	decTTLAction = 1
	psampleGroup = 1
	psampleCooky = 2

	ctCommit      = 1
	ctZone        = 2
	ctMark        = 3
	ctLabels      = 4
	ctHelper      = 5
	ctNAT         = 6
	ctForceCommit = 7
	ctEventMask   = 8
	ctTimeout     = 9

	natSrc         = 1
	natDst         = 2
	natIPMin       = 3
	natIPMax       = 4
	natProtoMin    = 5
	natProtoMax    = 6
	natPersistent  = 7
	natProtoHash   = 8
	natProtoRandom = 9
)

// Flow attributes.
const (
	flowKey       = 1
	flowActions   = 2
	flowStats     = 3
	flowTCPFlags  = 4
	flowUsed      = 5
	flowClear     = 6
	flowMask      = 7
	flowProbe     = 8
	flowUFID      = 9
	flowUFIDFlags = 10
	flowPad       = 11
)

// Datapath attributes.
const (
	dpName         = 1
	dpUpcallPID    = 2
	dpStats        = 3
	dpMegaflow     = 4
	dpUserFeatures = 5
	dpPad          = 6
	dpMasksCache   = 7
	dpPerCPUPIDs   = 8
	dpIfindex      = 9
)

// Vport attributes.
const (
	vportPortNo      = 1
	vportType        = 2
	vportName        = 3
	vportOptions     = 4
	vportUpcallPID   = 5
	vportStats       = 6
	vportPad         = 7
	vportIfindex     = 8
	vportNetNSID     = 9
	vportUpcallStats = 10

	optDstPort   = 1
	optExtension = 2
	extGBP       = 1
)

// Packet attributes.
const (
	pktPacket    = 1
	pktKey       = 2
	pktActions   = 3
	pktUserdata  = 4
	pktEgressTun = 5
	pktProbe     = 8
	pktMRU       = 9
	pktOrigLen   = 10
	pktHash      = 11
	pktUpcallPID = 12
)

// Meter and connection limit attributes.
const (
	meterID        = 1
	meterKbps      = 2
	meterStats     = 3
	meterBands     = 4
	meterUsed      = 5
	meterClear     = 6
	meterMaxMeters = 7
	meterMaxBands  = 8

	bandType  = 1
	bandRate  = 2
	bandBurst = 3
	bandStats = 4
	bandDrop  = 1

	ctLimitZones = 1
)

// Commands, the same numbers for datapaths, vports and flows.
const (
	cmdNew = 1
	cmdDel = 2
	cmdGet = 3
	cmdSet = 4

	cmdMiss    = 1
	cmdAction  = 2
	cmdExecute = 3

	cmdMeterFeatures = 1
	cmdMeterSet      = 2
	cmdMeterDel      = 3
	cmdMeterGet      = 4

	cmdLimitSet = 1
	cmdLimitDel = 2
	cmdLimitGet = 3
)
