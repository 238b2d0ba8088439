package main

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"

	"github.com/spf13/cobra"

	"github.com/overweave/overweave/examples/weaver/api"
	"github.com/overweave/overweave/internal/device"
)

// addSocketFlag adds the flag that says where the daemon is.
func addSocketFlag(cmd *cobra.Command) *string {
	return cmd.Flags().String("http-addr", api.DefaultSocket, "control socket of the daemon: a path, or host:port")
}

func newAttach() *cobra.Command {
	var r api.AttachRequest
	var addrs []string
	var subnet string
	cmd := &cobra.Command{
		Use:   "attach NETNS",
		Short: "Give a network namespace (path, name or PID) an interface on the overlay; prints its addresses",
		Args:  cobra.ExactArgs(1),
	}
	socket := addSocketFlag(cmd)
	cmd.Flags().StringSliceVar(&addrs, "address", nil, "address with prefix length to claim (default: one is given out)")
	cmd.Flags().StringSliceVar(&r.Names, "name", nil, "name to register for the addresses")
	cmd.Flags().StringVar(&r.ID, "id", "", "what to call the attachment (default: made from the namespace)")
	cmd.Flags().StringVar(&r.Interface, "interface", device.DefaultInterface, "name of the interface in the namespace, which may have several")
	cmd.Flags().StringVar(&subnet, "subnet", "", "subnet to give the address from (default: that of the daemon)")
	cmd.Flags().BoolVar(&r.DefaultRoute, "default-route", false, "send everything else to the host, which needs an address (launch --expose)")
	cmd.Flags().BoolVar(&r.NoMulticastRoute, "no-multicast-route", false, "leave multicast to the other routes of the namespace")
	cmd.RunE = func(cmd *cobra.Command, args []string) (err error) {
		r.NetNS = args[0]
		if r.Subnet, err = parseSubnet(subnet); err != nil {
			return fmt.Errorf("--subnet: %w", err)
		}
		for _, s := range addrs {
			p, err := netip.ParsePrefix(s)
			if err != nil {
				return fmt.Errorf("--address: %q is no address with a prefix length such as 10.32.0.5/12", s)
			}
			r.Addresses = append(r.Addresses, p)
		}
		a, err := api.NewClient(*socket).Attach(cmd.Context(), r)
		if err != nil {
			return err
		}
		for _, addr := range a.Addresses {
			fmt.Fprintln(cmd.OutOrStdout(), addr)
		}
		return nil
	}
	return cmd
}

func newDetach() *cobra.Command {
	var r api.DetachRequest
	cmd := &cobra.Command{
		Use:   "detach [NETNS]",
		Short: "Take a network namespace off the overlay; its addresses and names are free again",
		Args:  cobra.MaximumNArgs(1),
	}
	socket := addSocketFlag(cmd)
	cmd.Flags().StringVar(&r.ID, "id", "", "the attachment, instead of its namespace; needed if that has several")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		r.NetNS = strings.Join(args, "")
		if (r.NetNS == "") == (r.ID == "") {
			return fmt.Errorf("want a namespace or --id, and not both")
		}
		return api.NewClient(*socket).Detach(cmd.Context(), r)
	}
	return cmd
}

func newStatus() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "status [connections|peers|dns|ipam|targets]",
		Short: "Show what the daemon sees",
		Args:  cobra.MaximumNArgs(1),
	}
	socket := addSocketFlag(cmd)
	asJSON := cmd.Flags().Bool("json", false, "print the whole report as JSON")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		client := api.NewClient(*socket)
		if *asJSON {
			report, err := client.Report(cmd.Context())
			if err != nil {
				return err
			}
			out := json.NewEncoder(cmd.OutOrStdout())
			out.SetIndent("", "  ")
			return out.Encode(report)
		}
		text, err := client.StatusText(cmd.Context(), strings.Join(args, ""))
		if err != nil {
			return err
		}
		_, err = fmt.Fprint(cmd.OutOrStdout(), text)
		return err
	}
	return cmd
}
