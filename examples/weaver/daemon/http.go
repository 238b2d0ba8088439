package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/overweave/overweave/examples/weaver/api"
)

const (
	maxBody         = 1 << 20
	headerTimeout   = 10 * time.Second
	shutdownTimeout = 2 * time.Second
)

// serveAPI answers clients of the control socket until ctx ends. Requests that still wait then are given up.
func (d *daemon) serveAPI(ctx context.Context) error { return serve(ctx, d.api, d.handler()) }

// serveMetrics answers at the metrics address, which serves nothing else.
func (d *daemon) serveMetrics(ctx context.Context) error {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", d.metricsHandler())
	return serve(ctx, d.metrics, mux)
}

func serve(ctx context.Context, l net.Listener, h http.Handler) error {
	server := &http.Server{
		Handler:           h,
		ReadHeaderTimeout: headerTimeout,
		BaseContext:       func(net.Listener) context.Context { return ctx },
	}
	stop := context.AfterFunc(ctx, func() {
		late, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
		defer cancel()
		if server.Shutdown(late) != nil {
			_ = server.Close()
		}
	})
	defer stop()
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func (d *daemon) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /attach", handle(d.attach.Attach))
	mux.HandleFunc("POST /detach", handle(func(ctx context.Context, r api.DetachRequest) (struct{}, error) {
		return struct{}{}, d.attach.Detach(ctx, r)
	}))
	mux.Handle("GET /metrics", d.metricsHandler())
	mux.HandleFunc("GET /report", func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, d.report()) })
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, summary(d.report())) })
	mux.HandleFunc("GET /status/{part}", d.statusPart)
	mux.HandleFunc("POST /connect", d.connect)
	mux.HandleFunc("POST /forget", d.forget)
	mux.HandleFunc("DELETE /peer", d.leave)
	mux.HandleFunc("DELETE /peer/{peer}", d.takeOver)
	return mux
}

// handle makes a handler of a function from a JSON request to a JSON answer.
func handle[In, Out any](f func(context.Context, In) (Out, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var in In
		decoder := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody))
		decoder.DisallowUnknownFields()
		if err := decoder.Decode(&in); err != nil {
			http.Error(w, "the request makes no sense: "+err.Error(), http.StatusBadRequest)
			return
		}
		out, err := f(r.Context(), in)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		writeJSON(w, out)
	}
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // a client that went away is nobody's loss
}

func (d *daemon) statusPart(w http.ResponseWriter, r *http.Request) {
	render, ok := statusParts[r.PathValue("part")]
	if !ok {
		http.NotFound(w, r)
		return
	}
	_, _ = io.WriteString(w, render(d.report()))
}

func (d *daemon) connect(w http.ResponseWriter, r *http.Request) {
	if err := parsePeers(r); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if err := d.router.Connect(r.Form.Get("replace") == "true", r.Form["peer"]...); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
	}
}

func (d *daemon) forget(w http.ResponseWriter, r *http.Request) {
	if err := parsePeers(r); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	d.router.Forget(r.Form["peer"]...)
}

// parsePeers reads the form values of connect and forget.
func parsePeers(r *http.Request) error {
	r.Body = http.MaxBytesReader(nil, r.Body, maxBody)
	return r.ParseForm()
}

func (d *daemon) report() api.Report {
	r := api.Report{
		Version: d.cfg.Version, Started: d.started,
		Router: d.router.Status(), Switch: d.sw.Status(), Bridge: d.bridge.status(d.attach.exposed()),
		Attachments: d.attach.List(),
	}
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
			TTL: max(d.cfg.DNSTTL, 0), Entries: d.names.Entries(),
		}
	}
	return r
}
