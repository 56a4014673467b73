package machine

import (
	"bytes"
	"io"
	"time"
)

// A log keeps each line behind the moment it came at, always as long, so that
// it is cut off without being read.
const (
	stampLayout = "2006-01-02T15:04:05.000000000Z"
	stampLen    = len(stampLayout) + 1 // and a space
)

// appendStamped appends text to out with a stamp before every line that begins
// in it; midLine: its first one began before.
func appendStamped(out, text []byte, at time.Time, midLine bool) []byte {
	at = at.UTC()
	for line := range bytes.Lines(text) {
		if !midLine {
			out = append(at.AppendFormat(out, stampLayout), ' ')
		}
		midLine = false
		out = append(out, line...)
	}
	return out
}

// LogOptions say what of a log is shown, as the flags of kubectl logs.
type LogOptions struct {
	Follow     bool
	Tail       int       // only the last lines; below 0: all
	Since      time.Time // only lines that came at that moment or later; zero: all
	Timestamps bool      // each line behind when it came: RFC 3339, UTC
}

// lineReader passes a stamped log on as LogOptions ask. It may be cut anywhere
// between two writes.
type lineReader struct {
	w       io.Writer
	since   string // a stamp: they sort as text
	stamps  bool
	head    []byte // of a line whose stamp is not complete yet
	midLine bool   // past the stamp
	drop    bool   // the line is older than since
}

// Write implements io.Writer.
func (r *lineReader) Write(b []byte) (int, error) {
	out := make([]byte, 0, len(b))
	for part := range bytes.Lines(b) {
		if !r.midLine {
			n := min(stampLen-len(r.head), len(part))
			r.head, part = append(r.head, part[:n]...), part[n:]
			if len(r.head) < stampLen && r.head[len(r.head)-1] != '\n' {
				continue
			}
			out = r.begin(out)
			if len(part) == 0 {
				continue
			}
		}
		if !r.drop {
			out = append(out, part...)
		}
		r.midLine = part[len(part)-1] != '\n'
	}
	if len(out) > 0 {
		if _, err := r.w.Write(out); err != nil {
			return 0, err
		}
	}
	return len(b), nil
}

// begin decides about the line whose head is complete. A head that is no stamp
// is what a full disk left of one: text like any other.
func (r *lineReader) begin(out []byte) []byte {
	stamped := len(r.head) == stampLen && r.head[10] == 'T' && r.head[stampLen-2] == 'Z' && r.head[stampLen-1] == ' '
	r.drop = stamped && string(r.head[:stampLen-1]) < r.since
	if !r.drop && (r.stamps || !stamped) {
		out = append(out, r.head...)
	}
	r.midLine = r.head[len(r.head)-1] != '\n'
	r.head = r.head[:0]
	return out
}

// lastLines is the part of a log from its nth line from the end; n < 0: all.
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
