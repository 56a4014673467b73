package up

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Detach starts `tulle up` with the same arguments in the background and
// shows what it prints until it is ready or has failed.
func Detach(args []string, out io.Writer) (int, error) {
	if pid, f := running(); f != nil {
		f.Close()
		return 1, fmt.Errorf("tulle up runs already (process %d): end it with \"tulle down\"", pid)
	}
	dir := stateDir()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return 1, err
	}
	path := filepath.Join(dir, upLogFile)
	log, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return 1, err
	}
	defer log.Close()
	self, err := os.Executable()
	if err != nil {
		return 1, err
	}
	cmd := exec.Command(self, args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return 1, err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	return follow(path, out, ended)
}

// follow copies the log until the line that ends a start.
func follow(path string, out io.Writer, ended <-chan error) (int, error) {
	f, err := os.Open(path)
	if err != nil {
		return 1, err
	}
	defer f.Close()
	r := bufio.NewReader(f)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	var line string
	var over error
	gone := false
	for {
		part, err := r.ReadString('\n')
		line += part
		switch {
		case err == nil:
			fmt.Fprint(out, line)
			if strings.HasPrefix(line, "ready in ") {
				return 0, nil
			}
			line = ""
		case !errors.Is(err, io.EOF):
			return 1, err
		case gone:
			if over == nil {
				over = errors.New("it ended")
			}
			return 1, fmt.Errorf("the mesh did not come up: %w", over)
		default:
			select {
			case over = <-ended:
				gone = true // read what it wrote last
			case <-tick.C:
			}
		}
	}
}
