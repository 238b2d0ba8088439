package daemon

import (
	"errors"
	"strings"

	"github.com/overweave/overweave/dns"
	"github.com/overweave/overweave/examples/weaver/api"
)

// register makes the names of an attachment known. A bad name keeps none of the others from it.
func (a *attacher) register(att api.Attachment) error {
	if a.d.names == nil {
		return nil
	}
	var errs []error
	for _, name := range att.Names {
		for _, addr := range att.Addresses {
			errs = append(errs, a.d.names.Register(a.qualify(name), att.ID, addr.Addr()))
		}
	}
	return errors.Join(errs...)
}

// unregister withdraws all names of an attachment.
func (a *attacher) unregister(id string) {
	if a.d.names != nil {
		a.d.names.Unregister(dns.Match{Owner: id})
	}
}

// qualify puts a name that has no domain into ours.
func (a *attacher) qualify(name string) string {
	if strings.Contains(strings.TrimSuffix(name, "."), ".") {
		return name
	}
	return strings.TrimSuffix(name, ".") + "." + a.d.cfg.DNSDomain
}
