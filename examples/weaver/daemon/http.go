package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/netutil"

	"github.com/overweave/overweave/examples/weaver/api"
	"github.com/overweave/overweave/ipam"
)

const (
	maxBody         = 1 << 20
	headerTimeout   = 10 * time.Second
	shutdownTimeout = 2 * time.Second
	scrapeTimeout   = 30 * time.Second
	idleTimeout     = 2 * time.Minute
	maxScrapers     = 32
)

// serveAPI answers clients of the control socket until ctx ends. Requests that still wait then are given up.
func (d *daemon) serveAPI(ctx context.Context) error {
	return d.serve(ctx, d.api, &http.Server{Handler: d.handler()})
}

// serveMetrics answers at the metrics address, which serves nothing else. Whoever finds it can connect to it, so it is bounded
// how many may, and for how long.
func (d *daemon) serveMetrics(ctx context.Context) error {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", d.metricsHandler())
	return d.serve(ctx, netutil.LimitListener(d.metrics, maxScrapers), &http.Server{
		Handler: mux, ReadTimeout: headerTimeout, WriteTimeout: scrapeTimeout, IdleTimeout: idleTimeout,
	})
}

// serve serves until ctx ends, which is the context of requests too. When it returns, no handler runs any more.
func (d *daemon) serve(ctx context.Context, l net.Listener, server *http.Server) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var running sync.RWMutex // held for reading by each handler
	h := server.Handler
	server.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		running.RLock()
		defer running.RUnlock()
		if ctx.Err() == nil {
			h.ServeHTTP(w, r)
		}
	})
	server.ReadHeaderTimeout = headerTimeout
	server.BaseContext = func(net.Listener) context.Context { return ctx }
	server.ErrorLog = slog.NewLogLogger(d.log.Handler(), slog.LevelWarn)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		<-ctx.Done()
		late, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
		defer cancel()
		if server.Shutdown(late) != nil {
			_ = server.Close()
		}
	}()
	err := server.Serve(l)
	cancel()
	<-ended
	running.Lock()
	defer running.Unlock()
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

func (d *daemon) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /attach", handle(d.attach.Attach))
	mux.HandleFunc("POST /detach", handle(func(ctx context.Context, r api.DetachRequest) (struct{}, error) {
		return struct{}{}, d.attach.Detach(ctx, r)
	}))
	mux.Handle("GET /metrics", d.metricsHandler())
	mux.HandleFunc("GET /report", func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, d.report()) })
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, summary(d.overview())) })
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
			http.Error(w, "invalid request: "+err.Error(), http.StatusBadRequest)
			return
		}
		out, err := f(r.Context(), in)
		if err != nil {
			fail(w, err)
			return
		}
		writeJSON(w, out)
	}
}

var (
	// errUnfit is wrapped by errors about what a daemon with another configuration would do.
	errUnfit = errors.New("the daemon is not configured for that")

	errNoRange = fmt.Errorf("%w: it gives out no addresses, for it runs without --ipalloc-range", errUnfit)
)

// fail tells a client about an error, in one line.
func fail(w http.ResponseWriter, err error) { http.Error(w, oneLine(err.Error()), statusOf(err)) }

// oneLine joins the lines of a text, of which errors that are several have one each.
func oneLine(text string) string { return strings.ReplaceAll(text, "\n", "; ") }

// statusOf returns what clients are told about an error besides its text; see [api.Error].
func statusOf(err error) int {
	is := func(kind error) bool { return errors.Is(err, kind) }
	switch {
	case is(api.ErrNotAttached):
		return http.StatusNotFound
	case is(ipam.ErrConflict), is(ipam.ErrReachable):
		return http.StatusConflict
	case is(errUnfit), is(ipam.ErrOutOfRange), is(ipam.ErrInvalidSubnet):
		return http.StatusUnprocessableEntity
	case is(context.Canceled), is(context.DeadlineExceeded), is(ipam.ErrBusy), is(ipam.ErrStore), is(ipam.ErrClosed):
		return http.StatusServiceUnavailable
	}
	return http.StatusBadRequest
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
