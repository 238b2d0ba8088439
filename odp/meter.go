package odp

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/overweave/overweave/odp/internal/nla"
)

// MeterInfo describes a meter: a token bucket that packets pass through by the action [Meter].
type MeterInfo struct {
	ID    uint32
	Kbps  bool   // Rate is in kilobits per second, not packets per second
	Rate  uint32 // more than 0
	Burst uint32 // in kilobits or packets, what passes at once after a pause; 0 is as much as Rate
	Stats MeterStats
	Used  time.Duration // of the last packet, on the monotonic clock; 0 is never
}

// MeterStats counts packets of a meter.
type MeterStats struct {
	Packets, Bytes               uint64
	DroppedPackets, DroppedBytes uint64
}

// MeterLimits says what the kernel can do.
type MeterLimits struct{ Meters, Bands uint32 }

func (c *Conn) needMeters() error { return present(c.families.meter, FeatureMeters) }

// SetMeter makes or replaces a meter. There is no way to list them.
func (c *Conn) SetMeter(ctx context.Context, dp Index, m MeterInfo) error {
	if err := c.needMeters(); err != nil {
		return err
	}
	op := fmt.Sprintf("set meter %d", m.ID)
	if m.Rate == 0 {
		return opError(op, &FlowError{Field: "meter", Reason: "the rate must not be 0"})
	}
	return c.do(ctx, op, request{family: c.families.meter, cmd: cmdMeterSet, dp: dp, body: func(e *nla.Encoder) {
		e.U32(meterID, m.ID)
		if m.Kbps {
			e.Flag(meterKbps)
		}
		bands := e.Begin(meterBands)
		band := e.Begin(0)
		e.U32(bandType, bandDrop)
		e.U32(bandRate, m.Rate)
		e.U32(bandBurst, cmp.Or(m.Burst, m.Rate)) // a burst of 0 lets nothing pass since Linux 5.13
		e.End(band)
		e.End(bands)
	}}, nil)
}

// Meter returns a meter's statistics; the kernel does not tell how it was set: Kbps, Rate and Burst are zero.
// errors.Is(err, os.ErrNotExist) if there is none.
func (c *Conn) Meter(ctx context.Context, dp Index, id uint32) (MeterInfo, error) {
	return c.meter(ctx, fmt.Sprintf("get meter %d", id), dp, id, cmdMeterGet)
}

// DeleteMeter removes a meter and returns its last statistics, as Meter does. Removing one that does not exist succeeds.
func (c *Conn) DeleteMeter(ctx context.Context, dp Index, id uint32) (MeterInfo, error) {
	return c.meter(ctx, fmt.Sprintf("delete meter %d", id), dp, id, cmdMeterDel)
}

func (c *Conn) meter(ctx context.Context, op string, dp Index, id uint32, cmd uint8) (m MeterInfo, err error) {
	if err := c.needMeters(); err != nil {
		return m, err
	}
	m.ID = id
	r := request{family: c.families.meter, cmd: cmd, dp: dp, body: func(e *nla.Encoder) { e.U32(meterID, id) }}
	err = c.object(ctx, op, r, func(_ Index, b []byte) error { return m.decode(b) })
	return m, err
}

// MeterLimits returns how many meters there may be.
func (c *Conn) MeterLimits(ctx context.Context, dp Index) (l MeterLimits, err error) {
	if err := c.needMeters(); err != nil {
		return l, err
	}
	r := request{family: c.families.meter, cmd: cmdMeterFeatures, dp: dp}
	err = c.object(ctx, "get the limits of meters", r, func(_ Index, b []byte) error { return l.decode(b) })
	return l, err
}

func (l *MeterLimits) decode(b []byte) error {
	return parts("meter", b, func(typ uint16, p []byte) error {
		switch {
		case typ == meterMaxMeters && len(p) == 4:
			l.Meters = he32(p)
		case typ == meterMaxBands && len(p) == 4:
			l.Bands = he32(p)
		}
		return nil
	})
}

func (m *MeterInfo) decode(b []byte) error {
	return parts("meter", b, func(typ uint16, p []byte) error {
		switch {
		case typ == meterID && len(p) == 4:
			m.ID = he32(p)
		case typ == meterKbps:
			m.Kbps = true
		case typ == meterStats && len(p) >= 16:
			m.Stats.Packets, m.Stats.Bytes = he64(p), he64(p[8:])
		case typ == meterUsed && len(p) == 8:
			m.Used = time.Duration(min(he64(p), 1<<42)) * time.Millisecond
		case typ == meterBands:
			return parts("meter", p, func(_ uint16, p []byte) error { return parts("meter", p, m.decodeBand) })
		}
		return nil
	})
}

func (m *MeterInfo) decodeBand(typ uint16, p []byte) error {
	switch {
	case typ == bandRate && len(p) == 4:
		m.Rate = he32(p)
	case typ == bandBurst && len(p) == 4:
		m.Burst = he32(p)
	case typ == bandStats && len(p) >= 16:
		m.Stats.DroppedPackets, m.Stats.DroppedBytes = he64(p), he64(p[8:])
	}
	return nil
}

// DefaultZone is the zone of a [ZoneLimit] that holds for all zones without one of their own.
const DefaultZone = -1

// ZoneLimit bounds the connections that [CT] tracks in a zone, over all datapaths of the namespace.
type ZoneLimit struct {
	Zone  int32  // 0 to 65535, or DefaultZone
	Limit uint32 // 0 is no limit
	Count uint32 // connections there are
}

const zoneLimitLen = 12

// SetZoneLimits sets limits; their counts are not looked at.
func (c *Conn) SetZoneLimits(ctx context.Context, limits ...ZoneLimit) error {
	return c.limits(ctx, "set connection limits", cmdLimitSet, limits, nil)
}

// DeleteZoneLimits takes limits away again.
func (c *Conn) DeleteZoneLimits(ctx context.Context, zones ...int32) error {
	return c.limits(ctx, "delete connection limits", cmdLimitDel, zoneLimits(zones), nil)
}

// ZoneLimits returns the limits of zones; without zones, all that are set.
func (c *Conn) ZoneLimits(ctx context.Context, zones ...int32) (out []ZoneLimit, err error) {
	err = c.limits(ctx, "get connection limits", cmdLimitGet, zoneLimits(zones), &out)
	return out, err
}

func zoneLimits(zones []int32) (out []ZoneLimit) {
	for _, z := range zones {
		out = append(out, ZoneLimit{Zone: z})
	}
	return out
}

func (c *Conn) limits(ctx context.Context, op string, cmd uint8, limits []ZoneLimit, out *[]ZoneLimit) error {
	if err := present(c.families.limit, FeatureCTLimit); err != nil {
		return err
	}
	for _, l := range limits {
		if l.Zone != DefaultZone && (l.Zone < 0 || l.Zone > 0xffff) { // the kernel says nothing and does nothing
			return opError(op, &FlowError{Field: fmt.Sprintf("zone %d", l.Zone), Reason: "zones are 0 to 65535"})
		}
	}
	r := request{family: c.families.limit, cmd: cmd, body: func(e *nla.Encoder) {
		if len(limits) == 0 && cmd == cmdLimitGet {
			return
		}
		m := e.Begin(ctLimitZones)
		for _, l := range limits {
			put32(e, uint32(l.Zone))
			put32(e, l.Limit)
			put32(e, 0)
		}
		e.End(m)
	}}
	return c.object(ctx, op, r, func(_ Index, b []byte) error {
		got, err := decodeZoneLimits(b)
		if out != nil {
			*out = append(*out, got...)
		}
		return err
	})
}

func decodeZoneLimits(b []byte) (out []ZoneLimit, err error) {
	err = parts("connection limits", b, func(typ uint16, p []byte) error {
		for ; typ == ctLimitZones && len(p) >= zoneLimitLen; p = p[zoneLimitLen:] {
			out = append(out, ZoneLimit{Zone: int32(he32(p)), Limit: he32(p[4:]), Count: he32(p[8:])})
		}
		return nil
	})
	return out, err
}
