// Command weaver is the reference daemon of Overweave and its command line: one Ethernet across hosts for the containers
// on them, with addresses and names and no central store.
//
//	weaver launch [flags] [PEER...]   run the daemon
//	weaver attach NETNS               give a network namespace an interface on the overlay
//	weaver status                     what the daemon sees
//	weaver connect PEER               connect to more peers
//	weaver forget PEER                no longer connect to peers
//	weaver rmpeer PEER                take over the addresses of a host that is gone for good
//	weaver leave                      give this host's addresses to the others, before it goes for good
//	weaver reset                      remove what an ended daemon left on this host
//	weaver demo                       the whole thing on this machine, in namespaces
//
// Called by a container runtime it is a CNI plugin: see package cni.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/overweave/overweave/examples/weaver/cni"
)

// version is set by the linker in releases.
var version = "devel"

func main() {
	if cni.Called() {
		os.Exit(cni.Main())
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := newRoot().ExecuteContext(ctx)
	interrupted := ctx.Err() != nil
	stop()
	var code exitCode
	switch {
	case errors.As(err, &code):
		os.Exit(int(code))
	case err != nil && interrupted && errors.Is(err, context.Canceled):
		fmt.Fprintln(os.Stderr, "weaver: interrupted")
		os.Exit(130) // as shells count an interrupt
	case err != nil:
		fmt.Fprintln(os.Stderr, "weaver:", strings.ReplaceAll(err.Error(), "\n", "; ")) // one line, also if there are several
		os.Exit(1)
	}
}

// exitCode ends the process with a code and without another word.
type exitCode int

func (c exitCode) Error() string { return fmt.Sprintf("exit code %d", int(c)) }

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:           "weaver",
		Short:         "One Ethernet across hosts, without a central store",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.CompletionOptions.DisableDefaultCmd = true
	root.DisableSuggestions = true // an error is one line
	root.AddCommand(newLaunch(), newAttach(), newDetach(), newStatus(), newConnect(), newForget(), newRemovePeer(), newLeave(), newReset(), newDemo(), newVersion())
	return root
}

func newVersion() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintln(cmd.OutOrStdout(), "weaver", version)
			return err
		},
	}
}
