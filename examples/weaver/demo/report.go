package demo

import (
	"fmt"
	"io"
	"net/netip"
	"text/tabwriter"
)

// Report is what a demo saw.
type Report struct {
	OK        bool               `json:"ok"`
	Hosts     []HostReport       `json:"hosts"`
	PingMS    PingReport         `json:"ping_ms"`
	DNS       map[string]string  `json:"dns"`        // name asked for -> address answered
	TCPMbitS  float64            `json:"tcp_mbit_s"` // one stream, first to last container
	Overlay   string             `json:"overlay"`    // what carried the frames
	Encrypted bool               `json:"encrypted"`
	Seconds   map[string]float64 `json:"seconds"` // since the start: until each step was done
	Error     string             `json:"error,omitempty"`
}

// HostReport describes one host of the demo.
type HostReport struct {
	Name      string       `json:"name"`
	Peer      string       `json:"peer"`
	Underlay  netip.Addr   `json:"underlay"`
	Port      string       `json:"port"` // how frames get to the bridge and back
	Container string       `json:"container"`
	Address   netip.Prefix `json:"address"`
	DNSName   string       `json:"dns_name"`
}

// PingReport holds round trips in milliseconds.
type PingReport struct {
	Min    float64 `json:"min"`
	Median float64 `json:"median"`
	Max    float64 `json:"max"`
	Sent   int     `json:"sent"`
	Lost   int     `json:"lost"`
}

// WriteTable prints the report for people.
func (r *Report) WriteTable(out io.Writer) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "host\tpeer\tunderlay\tcontainer\taddress\tname\tport")
	for _, h := range r.Hosts {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", h.Name, h.Peer, h.Underlay, h.Container, h.Address, h.DNSName, h.Port)
	}
	_ = w.Flush()
	encrypted := "in the clear"
	if r.Encrypted {
		encrypted = "encrypted"
	}
	fmt.Fprintf(out, "\ncarried by  %s, %s\n", r.Overlay, encrypted)
	fmt.Fprintf(out, "ping        %.2f ms median of %d (%.2f to %.2f, %d lost)\n", r.PingMS.Median, r.PingMS.Sent, r.PingMS.Min, r.PingMS.Max, r.PingMS.Lost)
	for name, addr := range r.DNS {
		fmt.Fprintf(out, "dns         %s is %s\n", name, addr)
	}
	fmt.Fprintf(out, "tcp         %.0f Mbit/s, one stream\n", r.TCPMbitS)
}
