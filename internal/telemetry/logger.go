package telemetry

import (
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

const (
	logFlushBytes    = 64 << 10
	logFlushInterval = 100 * time.Millisecond
	logMaxBuffered   = 4 << 20 // beyond it lines are dropped and counted: a stuck disk must not stop requests
)

// Logger writes access-log lines to one place, batched. Any goroutine may log;
// Close flushes and waits.
type Logger struct {
	mu      sync.Mutex
	buf     []byte
	spare   []byte
	out     io.Writer
	wake    chan struct{}
	done    chan struct{}
	stop    chan struct{}
	dropped atomic.Int64
}

// OpenLogger opens path (/dev/stdout and /dev/stderr are the process's own).
func OpenLogger(path string) (*Logger, error) {
	switch path {
	case "/dev/stdout":
		return NewLogger(os.Stdout), nil
	case "/dev/stderr":
		return NewLogger(os.Stderr), nil
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o640)
	if err != nil {
		return nil, fmt.Errorf("access log: %w", err)
	}
	return NewLogger(f), nil
}

// NewLogger starts a logger that writes to out; if out is an io.Closer other
// than the standard streams, Close closes it.
func NewLogger(out io.Writer) *Logger {
	l := &Logger{out: out, wake: make(chan struct{}, 1), done: make(chan struct{}), stop: make(chan struct{})}
	go l.run()
	return l
}

// Log appends one formatted record. It never blocks on the output.
func (l *Logger) Log(f *Format, r *Record) {
	l.mu.Lock()
	was := len(l.buf)
	if was > logMaxBuffered {
		l.mu.Unlock()
		l.dropped.Add(1)
		return
	}
	l.buf = f.Append(l.buf, r)
	now := len(l.buf)
	l.mu.Unlock()
	// Wake the writer for the first line of a batch and when a batch is full.
	if was == 0 || was < logFlushBytes && now >= logFlushBytes {
		select {
		case l.wake <- struct{}{}:
		default:
		}
	}
}

// Dropped is the number of lines lost because the output was stuck.
func (l *Logger) Dropped() int64 { return l.dropped.Load() }

// Close writes what is buffered and stops the writer. No Log may follow.
func (l *Logger) Close() error {
	close(l.stop)
	<-l.done
	if c, ok := l.out.(io.Closer); ok && l.out != os.Stdout && l.out != os.Stderr {
		return c.Close()
	}
	return nil
}

func (l *Logger) run() {
	defer close(l.done)
	timer := time.NewTimer(logFlushInterval)
	defer timer.Stop()
	for {
		select {
		case <-l.stop:
			l.flush()
			return
		case <-l.wake:
		}
		// The batch has its first line: give it a moment to fill.
		timer.Reset(logFlushInterval)
	fill:
		for {
			select {
			case <-l.stop:
				l.flush()
				return
			case <-timer.C:
				break fill
			case <-l.wake:
				if l.size() >= logFlushBytes {
					break fill
				}
			}
		}
		l.flush()
	}
}

func (l *Logger) size() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.buf)
}

func (l *Logger) flush() {
	l.mu.Lock()
	full := l.buf
	l.buf = l.spare[:0]
	l.mu.Unlock()
	if len(full) > 0 {
		// A failing log is not a reason to fail requests; the loss is visible.
		if _, err := l.out.Write(full); err != nil {
			l.dropped.Add(1)
		}
	}
	if cap(full) > 4*logFlushBytes {
		full = nil
	}
	l.mu.Lock()
	l.spare = full
	l.mu.Unlock()
}
