package daemon

import (
	"net/http"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/overweave/overweave/examples/weaver/api"
	"github.com/overweave/overweave/fastdp"
	"github.com/overweave/overweave/ipam"
	"github.com/overweave/overweave/mesh"
)

// Metrics have the names and texts of Weave Net (section 10 of its HTTP specification), so that dashboards go on. Series of
// services that are off are missing.
var (
	descConnections  = describe("weave_connections", "Number of peer-to-peer connections.", "state", "type", "encryption")
	descTerminations = describe("weave_connection_terminations_total", "Number of peer-to-peer connections terminated.")
	descIPs          = describe("weave_ips", "Number of IP addresses.", "state")
	descMaxIPs       = describe("weave_max_ips", "Size of IP address space used by allocator.")
	descDNSEntries   = describe("weave_dns_entries", "Number of DNS entries.")
	descUnreachable  = describe("weave_ipam_unreachable_count", "Number of unreachable peers.")
	descUnreachPct   = describe("weave_ipam_unreachable_percentage", "Percentage of IP addresses owned  by unreachable peers.")
	descAllocates    = describe("weave_ipam_pending_allocates", "Number of pending allocates.")
	descClaims       = describe("weave_ipam_pending_claims", "Number of pending claims.")
	descTroubles     = describe("weaver_ipam_troubles", "What an operator should know of the address allocator, by kind; 0 is good.", "kind")
	descFrameDrops   = describe("weaver_frame_drops_total", "Frames that the switch sent nowhere.", "reason")
	descAllFlows     = describe("weave_flows", "Number of FastDP flows.")
	descFlows        = describe("weaver_datapath_flows", "Flows in the kernel's datapath, by what they are for.", "kind")
	descDatapath     = describe("weaver_datapath_events_total", "What happened to the kernel's datapath.", "event")
	descLost         = describe("weaver_datapath_lost_total", "Frames that no flow matched and nobody took from the kernel in time.")
	descNames        = describe("weaver_dns_names", "Names of all peers, by state.", "state")
	descNameFaults   = describe("weaver_dns_faults_total", "What was wrong with gossip about names.", "kind")
	descQuestions    = describe("weaver_dns_questions_total", "Questions for names, by what became of them.", "kind")
	descChannelDrops = describe("weaver_gossip_drops_total", "Gossip messages dropped because a queue was full.", "channel")
)

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, labels, nil)
}

// metricsHandler serves the daemon's metrics and those of the process.
func (d *daemon) metricsHandler() http.Handler {
	r := prometheus.NewRegistry()
	r.MustRegister(collector{d.overview}, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return promhttp.HandlerFor(r, promhttp.HandlerOpts{})
}

// collector makes metrics of a report, anew for each scrape.
type collector struct{ report func() api.Report }

// Describe implements [prometheus.Collector]. It describes nothing: which series there are depends on what runs.
func (collector) Describe(chan<- *prometheus.Desc) {}

// Collect implements [prometheus.Collector].
func (c collector) Collect(out chan<- prometheus.Metric) {
	r := c.report()
	collectConnections(out, r.Router)
	counter(out, descTerminations, float64(r.Router.Terminations))
	for reason, n := range r.Switch.Drops {
		counter(out, descFrameDrops, float64(n), reason)
	}
	for _, ch := range r.Router.Channels {
		counter(out, descChannelDrops, float64(ch.Dropped), ch.Name)
	}
	if r.Datapath != nil {
		collectDatapath(out, r.Datapath)
	}
	if r.IPAM != nil {
		collectIPAM(out, r.IPAM)
	}
	if r.DNS != nil {
		collectDNS(out, r.DNS)
	}
}

// collectConnections counts connections; for each state and type that occurs there is a series with encryption and one
// without.
func collectConnections(out chan<- prometheus.Metric, m mesh.Status) {
	type kind struct{ state, overlay string }
	counts := map[kind]map[bool]int{}
	count := func(state, overlay string, encrypted bool) {
		k := kind{state, overlay}
		if counts[k] == nil {
			counts[k] = map[bool]int{}
		}
		counts[k][encrypted]++
	}
	for _, c := range m.Connections {
		count(c.State, c.Link.Overlay, c.Encrypted)
	}
	for _, t := range m.Targets {
		if state, ok := targetState(t); ok {
			count(state, "unknown", false)
		}
	}
	for k, n := range counts {
		gauge(out, descConnections, float64(n[true]), k.state, k.overlay, "yes")
		gauge(out, descConnections, float64(n[false]), k.state, k.overlay, "")
	}
}

func collectDatapath(out chan<- prometheus.Metric, s *fastdp.Status) {
	all := 0
	for kind, n := range s.Flows {
		gauge(out, descFlows, float64(n), kind)
		all += n
	}
	gauge(out, descAllFlows, float64(all))
	for event, n := range s.Counts {
		counter(out, descDatapath, float64(n), event)
	}
	counter(out, descLost, float64(s.Kernel.Lost))
}

func collectIPAM(out chan<- prometheus.Metric, s *ipam.Status) {
	gauge(out, descIPs, float64(s.ActiveIPs), "local-used")
	gauge(out, descMaxIPs, float64(s.RangeNumIPs))
	var peers int
	var ips uint64
	for _, p := range s.Peers {
		if !p.Reachable {
			peers++
			ips += p.IPs
		}
	}
	gauge(out, descUnreachable, float64(peers))
	gauge(out, descUnreachPct, 100*float64(ips)/float64(s.RangeNumIPs))
	gauge(out, descAllocates, float64(len(s.PendingAllocates)))
	gauge(out, descClaims, float64(len(s.PendingClaims)))
	for kind, n := range troubles(s) {
		gauge(out, descTroubles, float64(n), strings.ReplaceAll(kind, " ", "_"))
	}
}

func collectDNS(out chan<- prometheus.Metric, s *api.DNSStatus) {
	gauge(out, descDNSEntries, float64(s.Table.Own))
	gauge(out, descNames, float64(s.Table.Live), "live")
	gauge(out, descNames, float64(s.Table.Tombstones), "removed")
	for kind, n := range map[string]uint64{
		"malformed": s.Table.Malformed, "skewed": s.Table.Skewed, "bad_entries": s.Table.BadEntries,
		"unknown_origin": s.Table.UnknownOrigin, "refused": s.Table.Refused, "self_correction": s.Table.SelfCorrection,
	} {
		counter(out, descNameFaults, float64(n), kind)
	}
	for kind, n := range map[string]uint64{
		"asked": s.Server.Queries, "ignored": s.Server.Ignored, "malformed": s.Server.Malformed, "forwarded": s.Server.Forwarded,
		"failed": s.Server.Failed, "dropped": s.Server.Dropped, "refused": s.Server.Refused,
	} {
		counter(out, descQuestions, float64(n), kind)
	}
}

func gauge(out chan<- prometheus.Metric, d *prometheus.Desc, v float64, labels ...string) {
	out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
}

func counter(out chan<- prometheus.Metric, d *prometheus.Desc, v float64, labels ...string) {
	out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, v, labels...)
}
