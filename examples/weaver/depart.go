package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/overweave/overweave/examples/weaver/api"
)

func newRemovePeer() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "rmpeer PEER...",
		Short: "Take over the addresses of hosts that are gone for good; on one host only, and never for one that may come back",
		Args:  cobra.MinimumNArgs(1),
	}
	socket := addSocketFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		client := api.NewClient(*socket)
		for _, peer := range args {
			answer, err := client.TakeOver(cmd.Context(), peer)
			if err != nil {
				return err
			}
			fmt.Fprint(cmd.OutOrStdout(), answer)
		}
		return nil
	}
	return cmd
}

func newLeave() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "leave",
		Short: "Give this host's addresses to the others, before it goes for good; detach its containers first",
		Args:  cobra.NoArgs,
	}
	socket := addSocketFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return api.NewClient(*socket).Leave(cmd.Context())
	}
	return cmd
}
