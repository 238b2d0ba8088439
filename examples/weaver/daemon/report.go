package daemon

import "github.com/overweave/overweave/examples/weaver/api"

// report is the whole state.
func (d *daemon) report() api.Report {
	r := d.overview()
	if d.names != nil {
		r.DNS.Entries = d.names.Entries()
	}
	return r
}

// overview is the state without the names, of which there may be very many.
func (d *daemon) overview() api.Report {
	r := api.Report{
		Version: d.cfg.Version, Started: d.started,
		Router: d.router.Status(), Switch: d.sw.Status(), Bridge: d.bridge.status(),
		Attachments: d.attach.List(), Targets: d.targets.list(),
	}
	r.Bridge.Addresses, r.Bridge.Trouble = d.attach.exposed()
	r.Bridge.Firewall = d.firewall.report()
	if d.datapath != nil {
		st := d.datapath.Status()
		r.Datapath = &st
	}
	if d.protector != nil {
		st := d.protector.Status()
		r.Encryption = &st
	}
	if d.ipam != nil {
		st := d.ipam.Status()
		r.IPAM = &st
	}
	if d.names != nil {
		st := d.dns.Status()
		r.DNS = &api.DNSStatus{
			Domain: d.names.Domain(), Address: st.Address.String(), Upstreams: st.Upstreams,
			TTL: max(d.cfg.DNSTTL, 0), Table: d.names.Status(), Server: st,
		}
	}
	return r
}
