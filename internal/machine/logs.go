package machine

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
)

// maxLog bounds a container's log; the older half is kept beside it until the
// next turn.
const maxLog = 5 << 20

// logFile is a container's output. Writers and followers may be concurrent.
type logFile struct {
	path    string
	mu      sync.Mutex
	file    *os.File
	size    int64
	changed chan struct{} // closed and replaced at each write
}

func newLogFile(path string) *logFile { return &logFile{path: path, changed: make(chan struct{})} }

// Write implements io.Writer. It never fails: a container must not die of its
// log.
func (l *logFile) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil || l.size > maxLog {
		l.rotate()
	}
	if l.file != nil {
		n, _ := l.file.Write(b) // a full disk loses lines, not workloads
		l.size += int64(n)
	}
	close(l.changed)
	l.changed = make(chan struct{})
	return len(b), nil
}

func (l *logFile) rotate() {
	if l.file != nil {
		l.file.Close()
		_ = os.Rename(l.path, l.path+".1") // the old half
	}
	_ = ensureDir(filepath.Dir(l.path))
	l.file, _ = os.OpenFile(l.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	l.size = 0
}

// Close closes the file.
func (l *logFile) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil {
		return nil
	}
	return l.file.Close()
}

// copyTo writes the log's last lines (tail < 0: all) to w, and with follow what
// comes until ctx ends.
func (l *logFile) copyTo(ctx context.Context, w io.Writer, follow bool, tail int) error {
	l.mu.Lock()
	changed, at := l.changed, l.size
	l.mu.Unlock()
	old, _ := os.ReadFile(l.path + ".1") // the older half, if there is one
	now, _ := os.ReadFile(l.path)        // nothing was written yet: empty
	now = now[:min(int64(len(now)), at)]
	if _, err := w.Write(lastLines(append(old, now...), tail)); err != nil || !follow {
		return err
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
		l.mu.Lock()
		size := l.size
		changed = l.changed
		l.mu.Unlock()
		if size < at {
			at = 0 // turned over
		}
		n, err := copyFrom(l.path, at, w)
		if err != nil {
			return err
		}
		at += n
	}
}

func copyFrom(path string, at int64, w io.Writer) (int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, nil // turned over just now: the next write brings it back
	}
	defer f.Close()
	if _, err := f.Seek(at, io.SeekStart); err != nil {
		return 0, err
	}
	return io.Copy(w, f)
}

func lastLines(b []byte, n int) []byte {
	if n < 0 {
		return b
	}
	i := len(b)
	if i > 0 && b[i-1] == '\n' {
		i--
	}
	for ; n > 0 && i > 0; n-- {
		if i = bytes.LastIndexByte(b[:i], '\n'); i < 0 {
			return b
		}
	}
	return b[min(i+1, len(b)):]
}

// Logs writes the last lines (tail < 0: all) of a container's log to w, and
// with follow what comes.
func (r *Room) Logs(ctx context.Context, workload, container string, follow bool, tail int, w io.Writer) error {
	p, err := r.find(workload)
	if err != nil {
		return err
	}
	l := p.logs[container]
	if l == nil {
		if container != p.spec.Owner && container != p.spec.Labels["app.kubernetes.io/component"] {
			return fmt.Errorf("%s has no container %q; there are %s and %s", workload, container, AppContainer, ProxyContainer)
		}
		l = p.logs[AppContainer] // the container's name in the manifest
	}
	return l.copyTo(ctx, w, follow, tail)
}
