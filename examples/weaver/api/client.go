package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// ErrNotAttached is what [Client.Detach] fails with if there is nothing to detach.
var ErrNotAttached = errors.New("not attached")

// Error is what a daemon says if it does not do what it is asked to. Other errors of a [Client] mean that nobody knows what
// the daemon has done: it cannot be reached, or went away.
type Error struct {
	// Status is that of HTTP: 404 if there is no such thing, 409 if others have what is asked for, 422 if the daemon is not
	// configured to give it, 503 if it may be had later, 400 for everything else.
	Status int
	// Text is one sentence.
	Text string
}

func (e *Error) Error() string { return e.Text }

// Is reports whether this is [ErrNotAttached].
func (e *Error) Is(target error) bool {
	return target == ErrNotAttached && e.Status == http.StatusNotFound
}

// Client talks to a daemon. It is safe for concurrent use and keeps no connection open.
type Client struct {
	address string
	http    http.Client
}

// NewClient returns a client for the daemon that listens at address: the path of a Unix socket, or host:port.
func NewClient(address string) *Client {
	network := "tcp"
	if strings.HasPrefix(address, "/") {
		network = "unix"
	}
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, address)
	}
	return &Client{address: address, http: http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}}
}

// Attach gives a namespace an interface on the overlay. It waits as long as the allocator needs, or until ctx ends.
func (c *Client) Attach(ctx context.Context, r AttachRequest) (a Attachment, err error) {
	return a, c.call(ctx, http.MethodPost, "/attach", r, &a)
}

// Detach takes an attachment away. It fails with [ErrNotAttached] if there is none.
func (c *Client) Detach(ctx context.Context, r DetachRequest) error {
	return c.call(ctx, http.MethodPost, "/detach", r, nil)
}

// Report returns the state of the daemon.
func (c *Client) Report(ctx context.Context) (r Report, err error) {
	return r, c.call(ctx, http.MethodGet, "/report", nil, &r)
}

// StatusText returns the status as text; part is empty for the summary, or peers, connections, dns, ipam, targets.
func (c *Client) StatusText(ctx context.Context, part string) (string, error) {
	path := "/status"
	if part != "" {
		path += "/" + url.PathEscape(part)
	}
	body, err := c.do(ctx, http.MethodGet, path, nil)
	return string(body), err
}

// Leave hands the host's part of the range over to the others, for good.
func (c *Client) Leave(ctx context.Context) error {
	return c.call(ctx, http.MethodDelete, "/peer", nil, nil)
}

// TakeOver gives the host what a peer had that is gone for good, named by nickname or name. It returns a sentence about that.
func (c *Client) TakeOver(ctx context.Context, peer string) (string, error) {
	body, err := c.do(ctx, http.MethodDelete, "/peer/"+url.PathEscape(peer), nil)
	return string(body), err
}

// Connect has the daemon connect to more peers, each host or host:port, or with replace to these only. It remembers them.
func (c *Client) Connect(ctx context.Context, replace bool, peers ...string) error {
	form := url.Values{"peer": peers, "replace": {strconv.FormatBool(replace)}}
	return c.call(ctx, http.MethodPost, "/connect?"+form.Encode(), nil, nil)
}

// Forget has the daemon no longer connect to peers, each named as before. Connections stay.
func (c *Client) Forget(ctx context.Context, peers ...string) error {
	return c.call(ctx, http.MethodPost, "/forget?"+url.Values{"peer": peers}.Encode(), nil, nil)
}

// call sends in as JSON, if it is not nil, and reads JSON into out, if that is not nil.
func (c *Client) call(ctx context.Context, method, path string, in, out any) error {
	var body []byte
	if in != nil {
		var err error
		if body, err = json.Marshal(in); err != nil {
			return err
		}
	}
	answer, err := c.do(ctx, method, path, body)
	if err != nil || out == nil {
		return err
	}
	if err := json.Unmarshal(answer, out); err != nil {
		return fmt.Errorf("invalid answer of the daemon to %s: %w", path, err)
	}
	return nil
}

func (c *Client) do(ctx context.Context, method, path string, body []byte) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://weaver"+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/json")
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.explain(err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, c.explain(err)
	}
	if resp.StatusCode/100 != 2 {
		return nil, &Error{Status: resp.StatusCode, Text: strings.TrimSpace(string(answer))}
	}
	return answer, nil
}

// explain turns the usual failures to reach a daemon into a sentence that says what to do.
func (c *Client) explain(err error) error {
	switch {
	case errors.Is(err, os.ErrPermission):
		return fmt.Errorf("may not open the control socket %s: run this as the user who runs the daemon", c.address)
	case errors.Is(err, os.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("no daemon listens at %s: start one with `weaver launch`", c.address)
	}
	if inner := errors.Unwrap(err); inner != nil {
		err = inner // without the made-up URL
	}
	return fmt.Errorf("control socket %s: %w", c.address, err)
}
