package machine

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// maxLog bounds a container's log; the older half is kept beside it until the
// next turn.
const maxLog = 5 << 20

// logFile is a container's output, its lines stamped. Writers and followers may
// be concurrent.
type logFile struct {
	path    string
	mu      sync.Mutex
	file    *os.File
	size    int64
	turns   int           // how often it was turned over
	midLine bool          // the last line has not ended
	closed  bool          // nothing more will come
	changed chan struct{} // closed and replaced at each write, closed by Close
}

func newLogFile(path string) *logFile { return &logFile{path: path, changed: make(chan struct{})} }

// Write implements io.Writer. It never fails: a container must not die of its
// log.
func (l *logFile) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.append(b)
	return len(b), nil
}

// say writes a line of ours, on a line of its own wherever the container left
// off.
func (l *logFile) say(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.midLine {
		l.append([]byte("\n"))
	}
	l.append(fmt.Appendf(nil, "tulle: "+format+"\n", args...))
}

// append is Write; l.mu is held.
func (l *logFile) append(b []byte) {
	if len(b) == 0 || l.closed {
		return
	}
	if l.file == nil || l.size > maxLog {
		l.rotate()
	}
	if l.file != nil {
		n, _ := l.file.Write(appendStamped(nil, b, time.Now(), l.midLine)) // a full disk loses lines, not workloads
		l.size += int64(n)
	}
	l.midLine = b[len(b)-1] != '\n'
	close(l.changed)
	l.changed = make(chan struct{})
}

// rotate keeps what is there as the older half and begins anew. A line that has
// not ended is cut in two, so that the newer half begins with a stamp.
func (l *logFile) rotate() {
	if l.file != nil {
		if l.midLine {
			_, _ = l.file.WriteString("\n") // or the disk is full
			l.midLine = false
		}
		l.file.Close()
		l.turns++
		_ = os.Rename(l.path, l.path+".1") // the old half
	}
	_ = ensureDir(filepath.Dir(l.path))
	l.file, _ = os.OpenFile(l.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	l.size = 0
}

// Close closes the file and ends its followers.
func (l *logFile) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil
	}
	l.closed = true
	close(l.changed)
	if l.file == nil {
		return nil
	}
	return l.file.Close()
}

// logReader is a log as it was when it was opened. What it opened it can read
// to the end, even when it is turned over.
type logReader struct {
	file    *os.File // nil: nothing was written yet
	turns   int
	closed  bool
	changed <-chan struct{} // closed when there is more, or no more to come
}

// next opens the log anew where the last reader's file is no longer its file.
func (l *logFile) next(last logReader) logReader {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := logReader{last.file, l.turns, l.closed, l.changed}
	if r.file == nil || r.turns != last.turns {
		r.file, _ = os.Open(l.path)
	}
	return r
}

// copyTo writes what the options ask for to w; it follows until ctx ends or the
// log is closed.
func (l *logFile) copyTo(ctx context.Context, w io.Writer, o LogOptions) error {
	lines := &lineReader{w: w, stamps: o.Timestamps}
	if !o.Since.IsZero() {
		lines.since = o.Since.UTC().Format(stampLayout)
	}
	old, _ := os.ReadFile(l.path + ".1") // the older half, if there is one
	r := l.next(logReader{})
	defer func() { r.file.Close() }()
	now, _ := io.ReadAll(r.file) // none yet: nothing
	if _, err := lines.Write(lastLines(append(old, now...), o.Tail)); err != nil || !o.Follow {
		return err
	}
	for !r.closed {
		select {
		case <-ctx.Done():
			return nil
		case <-r.changed:
		}
		last := r
		r = l.next(last)
		if err := last.rest(lines); err != nil {
			return err
		}
		if r.file != last.file {
			last.file.Close()
			if err := r.rest(lines); err != nil {
				return err
			}
		}
	}
	return nil
}

// rest writes what of the file has not been read.
func (r *logReader) rest(w io.Writer) error {
	if r.file == nil {
		return nil
	}
	_, err := io.Copy(w, r.file)
	return err
}

// Logs writes a container's log to w. It follows until ctx ends or the workload
// does.
func (r *Room) Logs(ctx context.Context, workload, container string, o LogOptions, w io.Writer) error {
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
	return l.copyTo(ctx, w, o)
}
