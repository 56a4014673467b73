package machine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"
)

// execRequest asks for a process in a workload's place. The caller's standard
// streams come with it as file descriptors.
type execRequest struct {
	Workload, Container string
	Argv                []string
	Env                 []string
}

type execResult struct {
	Code  int
	Error string
}

const maxExecRequest = 1 << 20

// ServeExec answers ExecClient on a socket that only its owner can open, until
// the listener is closed.
func (r *Room) ServeExec(l *net.UnixListener) {
	for {
		c, err := l.AcceptUnix()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			res := r.serveExec(c)
			_ = json.NewEncoder(c).Encode(res) // the caller may have gone
		}()
	}
}

func (r *Room) serveExec(c *net.UnixConn) execResult {
	buf, oob := make([]byte, maxExecRequest), make([]byte, unix.CmsgSpace(3*4))
	n, oobn, _, _, err := c.ReadMsgUnix(buf, oob)
	if err != nil {
		return execResult{1, err.Error()}
	}
	files, err := receivedFiles(oob[:oobn])
	if err != nil {
		return execResult{1, err.Error()}
	}
	defer func() {
		for _, f := range files {
			f.Close()
		}
	}()
	var req execRequest
	if err := json.Unmarshal(buf[:n], &req); err != nil || len(req.Argv) == 0 {
		return execResult{1, "bad exec request"}
	}
	p, err := r.find(req.Workload)
	if err != nil {
		return execResult{1, err.Error()}
	}
	code, err := p.exec(c, &req, files)
	if err != nil {
		return execResult{code, err.Error()}
	}
	return execResult{Code: code}
}

func receivedFiles(oob []byte) ([]*os.File, error) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil || len(messages) != 1 {
		return nil, errors.New("the request lacks its standard streams")
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil {
		return nil, err
	}
	var files []*os.File
	for _, fd := range fds {
		unix.CloseOnExec(fd)
		files = append(files, os.NewFile(uintptr(fd), "stdio"))
	}
	if len(files) != 3 {
		return files, errors.New("the request lacks its standard streams")
	}
	return files, nil
}

// exec runs the command and waits. When the caller goes away or sends a
// signal number, the command gets it.
func (p *pod) exec(c *net.UnixConn, req *execRequest, files []*os.File) (int, error) {
	ns, env := p.ns, append(p.appEnv(), req.Env...)
	if req.Container == ProxyContainer {
		env = append(env, p.room.opts.ProxyEnv...)
		var err error
		if ns, err = p.proxyPlace(); err != nil {
			return 1, err
		}
	}
	cmd := p.command(ns, req.Argv, env, false)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = files[0], files[1], files[2]
	if err := p.launch(ns, cmd); err != nil {
		return 126, err
	}
	go func() {
		b := make([]byte, 1)
		for {
			if _, err := io.ReadFull(c, b); err != nil {
				_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGHUP) // the caller has gone
				return
			}
			_ = syscall.Kill(-cmd.Process.Pid, syscall.Signal(b[0])) // ended: nothing to do
		}
	}()
	err := cmd.Wait()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit) && exit.ExitCode() >= 0:
		return exit.ExitCode(), nil
	case errors.As(err, &exit):
		return 128 + int(exit.Sys().(syscall.WaitStatus).Signal()), nil
	}
	return 0, err
}

// adminPorts of the sidecar are answered in its place too.
var adminPorts = []int{15000, 15020, 15021, 15090}

// proxyPlace is where commands for the container istio-proxy run: a network
// beside the pod's, on the same bridge, without redirection. In Istio the
// proxy's user id exempts such commands; an unprivileged user has only one id
// here, so that the network itself must make the difference. Service addresses
// lead to ready replicas, as in every pod, and the sidecar's admin ports answer
// on localhost.
func (p *pod) proxyPlace() (*netns, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.sibling == nil {
		p.room.mu.Lock()
		addr := p.room.freeAddr()
		p.room.mu.Unlock()
		b := addr.As4()
		ns, err := newNetNS(fmt.Sprintf("tullex%d.%d", b[2], b[3]), addr)
		if err != nil {
			return nil, err
		}
		for _, port := range adminPorts {
			l, err := ns.listen(fmt.Sprintf("127.0.0.1:%d", port))
			if err != nil {
				ns.close()
				return nil, err
			}
			p.wg.Go(func() {
				<-p.ctx.Done()
				l.Close()
			})
			p.wg.Go(func() {
				Relay(l, func(ctx context.Context) (net.Conn, error) {
					return p.ns.dial(ctx, fmt.Sprintf("127.0.0.1:%d", port))
				})
			})
		}
		p.sibling = ns
	}
	return p.sibling, p.sibling.translate(p.room.forwards())
}

// ExecClient runs a command in a workload's place with this process's
// standard streams and returns its exit code.
func ExecClient(socket, workload, container string, argv []string, signals <-chan os.Signal) (int, error) {
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		return 1, err
	}
	defer c.Close()
	b, err := json.Marshal(execRequest{workload, container, argv, []string{"TERM=" + os.Getenv("TERM")}})
	if err != nil {
		return 1, err
	}
	if len(b) > maxExecRequest {
		return 1, errors.New("the command is too long")
	}
	if _, _, err := c.WriteMsgUnix(b, unix.UnixRights(0, 1, 2), nil); err != nil {
		return 1, err
	}
	done := make(chan struct{})
	defer close(done)
	go func() {
		for {
			select {
			case s := <-signals:
				if n, ok := s.(syscall.Signal); ok {
					_, _ = c.Write([]byte{byte(n)}) // ended: the answer is on its way
				}
			case <-done:
				return
			}
		}
	}()
	var res execResult
	if err := json.NewDecoder(c).Decode(&res); err != nil {
		return 1, fmt.Errorf("the room went away: %w", err)
	}
	if res.Error != "" {
		return max(res.Code, 1), errors.New(res.Error)
	}
	return res.Code, nil
}
