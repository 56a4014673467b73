package up

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/tulle-mesh/tulle/internal/machine"
)

// ErrNotRunning: no `tulle up` of this user runs.
var ErrNotRunning = errors.New(`no mesh runs here: start one with "tulle up DIR" (as the same user)`)

// Client talks to the run of this user. Safe for concurrent use.
type Client struct {
	http *http.Client
	dir  string
}

// Connect finds the run. It fails with ErrNotRunning.
func Connect() (*Client, error) {
	pid, f := running()
	if f != nil {
		f.Close()
	}
	if pid == 0 {
		return nil, ErrNotRunning
	}
	c := &Client{dir: stateDir()}
	c.http = &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", filepath.Join(c.dir, apiSocket))
	}}}
	return c, nil
}

// Get reads a document of the API into out.
func (c *Client) Get(ctx context.Context, path string, out any) error {
	return c.do(ctx, http.MethodGet, path, nil, out)
}

// Post sends a document and reads the answer into out.
func (c *Client) Post(ctx context.Context, path string, in, out any) error {
	b, err := json.Marshal(in)
	if err != nil {
		return err
	}
	return c.do(ctx, http.MethodPost, path, bytes.NewReader(b), out)
}

func (c *Client) do(ctx context.Context, method, path string, body io.Reader, out any) error {
	resp, err := c.open(ctx, method, path, body)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	return json.NewDecoder(resp.Body).Decode(out)
}

func (c *Client) open(ctx context.Context, method, path string, body io.Reader) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://tulle"+path, body)
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("the mesh does not answer: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		b, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
		resp.Body.Close()
		return nil, errors.New(strings.TrimSpace(string(b)))
	}
	return resp, nil
}

// Copy streams an answer to w until it ends.
func (c *Client) Copy(ctx context.Context, path string, w io.Writer) error {
	resp, err := c.open(ctx, http.MethodGet, path, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, err = io.Copy(w, resp.Body)
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// Exec runs a command in a workload's place, see machine.ExecClient.
func (c *Client) Exec(workload, container string, argv []string, signals <-chan os.Signal) (int, error) {
	return machine.ExecClient(filepath.Join(c.dir, execSocket), workload, container, argv, signals)
}

// Down ends the run of this user and waits until nothing of it is left.
func Down(timeout time.Duration) error {
	pid, f := running()
	if f == nil {
		return ErrNotRunning
	}
	defer f.Close()
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("stop process %d: %w", pid, err)
	}
	deadline := time.Now().Add(timeout)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for syscall.Flock(int(f.Fd()), syscall.LOCK_SH|syscall.LOCK_NB) != nil {
		if time.Now().After(deadline) {
			return fmt.Errorf("process %d has not ended in %s", pid, timeout)
		}
		<-tick.C
	}
	return nil
}
