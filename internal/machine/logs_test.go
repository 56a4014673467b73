package machine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func shown(t *testing.T, l *logFile, o LogOptions) string {
	t.Helper()
	var out strings.Builder
	if err := l.copyTo(t.Context(), &out, o); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// What a container wrote comes back byte for byte, and each line knows when it
// came: the moment of its first byte.
func TestLogLines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLogFile(filepath.Join(t.TempDir(), "app.log"))
		defer l.Close()
		if got := shown(t, l, LogOptions{Tail: -1}); got != "" {
			t.Errorf("before the first line: %q", got)
		}
		start := time.Now().UTC()
		io.WriteString(l, "one\n\ntw")
		<-time.NewTimer(time.Minute).C
		io.WriteString(l, "o\nthree\n")
		<-time.NewTimer(time.Minute).C
		io.WriteString(l, "no end")
		l.say("web ended")
		stamp := func(after time.Duration) string { return start.Add(after).Format(stampLayout) + " " }
		for _, tc := range []struct {
			name string
			o    LogOptions
			want string
		}{
			{"all", LogOptions{Tail: -1}, "one\n\ntwo\nthree\nno end\ntulle: web ended\n"},
			{"tail", LogOptions{Tail: 2}, "no end\ntulle: web ended\n"},
			{"tail 0", LogOptions{Tail: 0}, ""},
			{"since", LogOptions{Tail: -1, Since: start.Add(time.Minute)}, "three\nno end\ntulle: web ended\n"},
			{"since in another zone", LogOptions{Tail: -1, Since: start.Add(time.Minute).In(time.FixedZone("", 7200))}, "three\nno end\ntulle: web ended\n"},
			{"the fewer of tail and since", LogOptions{Tail: 3, Since: start.Add(2 * time.Minute)}, "no end\ntulle: web ended\n"},
			{"since later than all", LogOptions{Tail: -1, Since: start.Add(time.Hour)}, ""},
			{"timestamps", LogOptions{Tail: 4, Timestamps: true}, stamp(0) + "two\n" + stamp(time.Minute) + "three\n" + stamp(2*time.Minute) + "no end\n" + stamp(2*time.Minute) + "tulle: web ended\n"},
		} {
			if got := shown(t, l, tc.o); got != tc.want {
				t.Errorf("%s: %q, want %q", tc.name, got, tc.want)
			}
		}
	})
}

// A log may be read in pieces of any size, and what is no stamp is text.
func TestLogPieces(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
	log := string(appendStamped(nil, []byte("first\n\nsecond\n"), at, false)) + "2026-01-0\nhalf a stamp, and a line that is longer than one\n" + string(appendStamped(nil, []byte("last"), at, false))
	const want = "first\n\nsecond\n2026-01-0\nhalf a stamp, and a line that is longer than one\nlast"
	for size := 1; size <= len(log); size++ {
		var out strings.Builder
		r := &lineReader{w: &out}
		if _, err := io.CopyBuffer(struct{ io.Writer }{r}, struct{ io.Reader }{strings.NewReader(log)}, make([]byte, size)); err != nil {
			t.Fatal(err)
		}
		if out.String() != want {
			t.Errorf("in pieces of %d: %q", size, out.String())
		}
	}
}

// A follower misses nothing when the log is turned over, and ends with it.
func TestFollowLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLogFile(filepath.Join(t.TempDir(), "app.log"))
		var got, want strings.Builder
		done := make(chan error)
		go func() { done <- l.copyTo(context.Background(), &got, LogOptions{Follow: true, Tail: -1}) }()
		write := func(text string) {
			synctest.Wait()
			want.WriteString(text)
			io.WriteString(l, text)
		}
		for i := range 12 {
			write(fmt.Sprintf("%d%s\n", i, strings.Repeat("x", 1<<20)))
		}
		write("end\n")
		synctest.Wait()
		l.Close()
		if err := <-done; err != nil || got.String() != want.String() {
			t.Errorf("%v, %d bytes, want %d", err, got.Len(), want.Len())
		}
		if _, err := io.WriteString(l, "late\n"); err != nil || l.Close() != nil {
			t.Error("a container that writes after the end must not notice")
		}
	})
}

// When the older half is dropped within a line, the rest of the line has a
// moment of its own.
func TestLogTurnedOverWithinLine(t *testing.T) {
	l := newLogFile(filepath.Join(t.TempDir(), "app.log"))
	defer l.Close()
	for range 3 {
		io.WriteString(l, strings.Repeat("x", maxLog+1))
	}
	io.WriteString(l, "\nafter\n")
	if got := shown(t, l, LogOptions{Tail: -1}); got != strings.Repeat("x", maxLog+1)+"\n\nafter\n" {
		t.Errorf("%d bytes that end %q", len(got), got[max(0, len(got)-10):])
	}
}

// A reader who is gone ends the copy.
func TestFollowerGone(t *testing.T) {
	l := newLogFile(filepath.Join(t.TempDir(), "app.log"))
	defer l.Close()
	io.WriteString(l, "line\n")
	if err := l.copyTo(t.Context(), brokenWriter{}, LogOptions{Follow: true, Tail: -1}); !errors.Is(err, io.ErrClosedPipe) {
		t.Error(err)
	}
}

type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }
