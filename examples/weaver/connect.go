package main

import (
	"github.com/spf13/cobra"

	"github.com/overweave/overweave/examples/weaver/api"
)

func newConnect() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "connect PEER...",
		Short: "Connect to more peers (host or host:port), also after a restart with the same command line",
		Args:  cobra.MinimumNArgs(1),
	}
	socket := addSocketFlag(cmd)
	replace := cmd.Flags().Bool("replace", false, "forget all other peers that were given")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return api.NewClient(*socket).Connect(cmd.Context(), *replace, args...)
	}
	return cmd
}

func newForget() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "forget PEER...",
		Short: "No longer connect to peers, named as when they were given; connections stay",
		Args:  cobra.MinimumNArgs(1),
	}
	socket := addSocketFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return api.NewClient(*socket).Forget(cmd.Context(), args...)
	}
	return cmd
}
