package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/overweave/overweave/internal/lab"
)

// childWord is the first argument of this program when it runs as a part of the measurement. Daemons and loads are processes
// of their own, so that they share nothing but the machine.
const childWord = "child"

const childGrace = 5 * time.Second

// runChild is what such a process does. It is told what in JSON, and says what there is to say in JSON, a line each.
func runChild(ctx context.Context, kind, config string, out io.Writer) error {
	say := func(v any) error { return json.NewEncoder(out).Encode(v) }
	switch kind {
	case "sink":
		return told(ctx, config, say, runSink)
	case "source":
		return told(ctx, config, say, runSource)
	case "count":
		return told(ctx, config, say, runCount)
	case "blast":
		return told(ctx, config, say, runBlast)
	case "ping":
		return told(ctx, config, say, runPing)
	case "weaver":
		return told(ctx, config, say, runWeaver)
	case "wireguard":
		return told(ctx, config, say, runWireGuard)
	}
	return fmt.Errorf("no part of the measurement is called %q", kind)
}

func told[C any](ctx context.Context, config string, say func(any) error, run func(context.Context, C, func(any) error) error) error {
	var c C
	if err := json.Unmarshal([]byte(config), &c); err != nil {
		return err
	}
	return run(ctx, c, say)
}

// child is a process of this program in a namespace.
type child struct {
	kind string
	cmd  *lab.Cmd
	says *json.Decoder
	errs bytes.Buffer // to be read after Wait
}

// startChild starts a process, which is killed when ctx ends. It is to be waited for.
func startChild(ctx context.Context, ns *lab.Namespace, kind string, config any) (*child, error) {
	c, err := json.Marshal(config)
	if err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	p := &child{kind: kind, cmd: ns.Command(ctx, self, "sleeve", childWord, kind, string(c))}
	p.cmd.Stderr = &p.errs
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p.says = json.NewDecoder(out)
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("%s: %w", kind, err)
	}
	return p, nil
}

// next waits for what the process says next. If it ended instead, the error has its last words.
func (p *child) next(v any) error {
	err := p.says.Decode(v)
	if err == nil {
		return nil
	}
	if wait := p.cmd.Wait(); wait != nil {
		err = wait
	}
	return fmt.Errorf("%s: %w: %s", p.kind, err, strings.TrimSpace(p.errs.String()))
}

// stop asks the process to end and waits for that.
func (p *child) stop() error {
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // if it has ended already, Wait says how
	kill := time.AfterFunc(childGrace, func() { _ = p.cmd.Process.Kill() })
	defer kill.Stop()
	err := p.cmd.Wait()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return fmt.Errorf("%s: %w: %s", p.kind, err, strings.TrimSpace(p.errs.String()))
	}
	return nil
}
