package machine

import (
	"context"
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

// copyTo writes the log to w, and with follow what comes until ctx ends.
func (l *logFile) copyTo(ctx context.Context, w io.Writer, follow bool) error {
	var at int64
	if !follow {
		if b, err := os.ReadFile(l.path + ".1"); err == nil {
			if _, err := w.Write(b); err != nil {
				return err
			}
		}
	}
	for {
		l.mu.Lock()
		changed, size := l.changed, l.size
		l.mu.Unlock()
		if size < at {
			at = 0 // turned over
		}
		f, err := os.Open(l.path)
		if err == nil {
			_, err = f.Seek(at, io.SeekStart)
			var n int64
			if err == nil {
				n, err = io.Copy(w, f)
			}
			at += n
			f.Close()
			if err != nil {
				return err
			}
		}
		if !follow {
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
	}
}

// Logs writes a container's log of a workload to w.
func (r *Room) Logs(ctx context.Context, workload, container string, follow bool, w io.Writer) error {
	p, err := r.find(workload)
	if err != nil {
		return err
	}
	l := p.logs[container]
	if l == nil {
		l = p.logs[AppContainer]
	}
	return l.copyTo(ctx, w, follow)
}
