package daemon

import (
	"fmt"
	"io"
	"net/http"
)

// leave hands this host's part of the range over to the others, for good: sections 1.8 of the ipam and 4 of the http-api
// specification. No address is given out here afterwards. It is refused while containers have some: others would get them.
// Without a range it fails, other than in Weave Net: there is nothing to hand over, and the operator believes that there was.
func (d *daemon) leave(w http.ResponseWriter, r *http.Request) {
	if d.ipam == nil {
		fail(w, errNoRange)
		return
	}
	if n := len(d.attach.List()); n > 0 {
		http.Error(w, fmt.Sprintf("detach the containers first (%d attached): others would get their addresses", n), http.StatusConflict)
		return
	}
	if err := d.ipam.Release(r.Context()); err != nil {
		fail(w, err)
		return
	}
	d.log.Info("the addresses of this host are the others' now")
	if err := d.attach.hide(); err != nil {
		d.log.Warn("taking the host's address away", "err", err)
	}
	w.WriteHeader(http.StatusNoContent)
}

// takeOver gives this host what a peer had that is gone for good. It fails without a range, and for a peer that is not known,
// for which Weave Net reports success.
func (d *daemon) takeOver(w http.ResponseWriter, r *http.Request) {
	if d.ipam == nil {
		fail(w, errNoRange)
		return
	}
	text := r.PathValue("peer")
	gone, known, err := d.ipam.Find(text)
	var n uint64
	if err == nil && known {
		n, err = d.ipam.TakeOver(r.Context(), gone)
	}
	switch {
	case err != nil:
		fail(w, err)
	case !known:
		http.Error(w, fmt.Sprintf("no peer %s has or had addresses: `weaver status ipam` shows who has", text), http.StatusNotFound)
	default:
		d.log.Info("taken over", "peer", gone, "addresses", n)
		_, _ = io.WriteString(w, fmt.Sprintf("%d IPs taken over from %s\n", n, text))
	}
}
