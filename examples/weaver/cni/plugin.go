// Package cni is weaver as a CNI plugin: by it Kubernetes, or any other runtime that speaks CNI 0.3.0 to 1.1.0, gives containers
// an interface on the overlay. It asks the daemon for everything, over the control socket, and keeps nothing itself.
//
// An attachment is called "cni:NETWORK/CONTAINER/INTERFACE", which is also the owner of its addresses. So everything may be
// asked for again, and a container that is taken off is found without its namespace.
package cni

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/overweave/overweave/examples/weaver/api"
)

const (
	// waiting is how long the daemon may wait for peers. Runtimes give up after a minute or more, and ask again.
	waiting = 30 * time.Second
	// patience is how long it may take to answer.
	patience = 40 * time.Second
)

// Called reports whether a runtime has started this process as a plugin: it says in the environment what is to be done, and gives
// no arguments.
func Called() bool { return os.Getenv("CNI_COMMAND") != "" && len(os.Args) == 1 }

// Main does what the runtime has called for, and returns the exit code.
func Main() int {
	err := skel.PluginMainFuncsWithError(
		skel.CNIFuncs{Add: timed(add), Del: timed(del), Check: timed(check), GC: timed(collect), Status: timed(status)},
		version.PluginSupports("0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"), "")
	if err == nil {
		return 0
	}
	if err := err.Print(); err != nil {
		fmt.Fprintln(os.Stderr, "weaver:", err)
	}
	return 1
}

// timed bounds how long a command may take.
func timed(command func(context.Context, *skel.CmdArgs) error) func(*skel.CmdArgs) error {
	return func(args *skel.CmdArgs) error {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		return command(ctx, args)
	}
}

// add attaches a container, or finds that it is attached. If it fails, the daemon has undone what it did; if this process is
// killed, the daemon notices that nobody waits any more, and does the same.
func add(ctx context.Context, args *skel.CmdArgs) error {
	c, err := parseConfig(args.StdinData)
	if err != nil {
		return err
	}
	r, err := c.request()
	if err != nil {
		return err
	}
	result, err := c.previous()
	if err != nil {
		return err
	}
	if result == nil {
		result = &types100.Result{CNIVersion: types100.ImplementedSpecVersion}
	}
	r.ID, r.NetNS, r.Interface = c.id(args.ContainerID, args.IfName), args.Netns, args.IfName
	r.Wait = waiting
	att, err := c.client().Attach(ctx, r)
	if err != nil {
		return c.failure(err)
	}
	describe(result, att, args.Netns)
	if !c.DNS.IsEmpty() {
		result.DNS = c.DNS
	}
	return types.PrintResult(result, c.CNIVersion)
}

// describe adds an attachment to a result. The namespace is called as the runtime calls it.
func describe(result *types100.Result, att api.Attachment, netns string) {
	inside := len(result.Interfaces) + 1
	result.Interfaces = append(result.Interfaces,
		&types100.Interface{Name: att.Port},
		&types100.Interface{Name: att.Interface, Mac: att.MAC, Sandbox: netns})
	for _, addr := range att.Addresses {
		result.IPs = append(result.IPs, &types100.IPConfig{
			Interface: types100.Int(inside),
			Address:   net.IPNet{IP: addr.Addr().AsSlice(), Mask: net.CIDRMask(addr.Bits(), addr.Addr().BitLen())},
			Gateway:   att.Gateway.AsSlice(),
		})
	}
	if att.Gateway.IsValid() {
		everywhere := net.IPNet{IP: net.IPv4zero, Mask: net.CIDRMask(0, 32)}
		result.Routes = append(result.Routes, &types.Route{Dst: everywhere, GW: att.Gateway.AsSlice()})
	}
}

// del takes a container off. It is no error if that is done already, or never was attached; it is one if the daemon cannot be
// asked: then the runtime asks again.
func del(ctx context.Context, args *skel.CmdArgs) error {
	n, err := parseNetwork(args.StdinData)
	if err != nil {
		return err
	}
	return n.detach(ctx, n.id(args.ContainerID, args.IfName))
}

func (n network) detach(ctx context.Context, id string) error {
	if err := n.client().Detach(ctx, api.DetachRequest{ID: id}); err != nil && !errors.Is(err, api.ErrNotAttached) {
		return n.failure(err)
	}
	return nil
}

// collect takes off what the runtime no longer knows of. Without a list it fails: an empty one would take off everything.
func collect(ctx context.Context, args *skel.CmdArgs) error {
	n, err := parseNetwork(args.StdinData)
	if err != nil {
		return err
	}
	var c struct {
		Valid json.RawMessage `json:"cni.dev/valid-attachments"`
	}
	var list []types.GCAttachment
	err = json.Unmarshal(args.StdinData, &c)
	if err == nil {
		err = json.Unmarshal(c.Valid, &list)
	}
	if err != nil {
		return invalid("cni.dev/valid-attachments: %v", err)
	}
	valid := map[string]bool{}
	for _, a := range list {
		valid[n.id(a.ContainerID, a.IfName)] = true
	}
	report, err := n.client().Report(ctx)
	if err != nil {
		return n.failure(err)
	}
	var errs []error
	for _, att := range report.Attachments {
		if strings.HasPrefix(att.ID, n.prefix()) && !valid[att.ID] {
			errs = append(errs, n.detach(ctx, att.ID))
		}
	}
	return errors.Join(errs...)
}

// failure says in the words of CNI why the daemon did not do something. If it cannot be reached, or needs longer, that passes.
func (n network) failure(err error) error {
	code := types.ErrInternal
	var said *api.Error
	switch {
	case !errors.As(err, &said), said.Status == http.StatusServiceUnavailable:
		code = types.ErrTryAgainLater
	case said.Status == http.StatusUnprocessableEntity:
		code = types.ErrInvalidNetworkConfig
	}
	return types.NewError(code, "network "+n.Name, err.Error())
}
