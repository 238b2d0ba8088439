package lab

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"time"
)

// pipeGrace is how long Wait goes on reading the output of a process that has ended, if others hold its end of the pipe.
const pipeGrace = 2 * time.Second

// Cmd is a command inside a namespace. It is an [exec.Cmd] whose methods start the process there. The process is killed
// when the lab is closed and when this process ends, however it ends.
type Cmd struct {
	*exec.Cmd
	lab  *Lab
	ns   *Namespace
	wait func() error
}

// Command returns a command that will run inside. It is killed when ctx ends.
func (n *Namespace) Command(ctx context.Context, name string, args ...string) *Cmd {
	c := &Cmd{Cmd: exec.CommandContext(ctx, name, args...), lab: n.lab, ns: n}
	c.WaitDelay = pipeGrace
	c.wait = sync.OnceValue(func() error {
		err := c.Cmd.Wait()
		c.lab.mu.Lock()
		delete(c.lab.commands, c)
		c.lab.mu.Unlock()
		return err
	})
	return c
}

// Start starts the command and does not wait for it; each started command is to be waited for.
func (c *Cmd) Start() error {
	c.lab.mu.Lock()
	defer c.lab.mu.Unlock()
	if c.lab.closed {
		return fmt.Errorf("lab: %w", os.ErrClosed)
	}
	dieWithParent(c.Cmd)
	err := c.lab.thread.do(func() error { return c.ns.Do(c.Cmd.Start) })
	if err != nil {
		return err
	}
	c.lab.commands[c] = struct{}{}
	return nil
}

// Wait waits for the command to end, like [exec.Cmd.Wait], but may be called more than once.
func (c *Cmd) Wait() error { return c.wait() }

// Run starts the command and waits for it.
func (c *Cmd) Run() error {
	if err := c.Start(); err != nil {
		return err
	}
	return c.Wait()
}

// Output runs the command and returns its standard output.
func (c *Cmd) Output() ([]byte, error) {
	var out bytes.Buffer
	c.Stdout = &out
	err := c.Run()
	return out.Bytes(), err
}

// CombinedOutput runs the command and returns its standard output and standard error.
func (c *Cmd) CombinedOutput() ([]byte, error) {
	var out bytes.Buffer
	c.Stdout, c.Stderr = &out, &out
	err := c.Run()
	return out.Bytes(), err
}
