package h2

import (
	"sync/atomic"
	"time"
)

// timer is the connection's one timer for all deadlines. Deadlines are far
// away and seldom reached, so a wait only compares its own with the one that
// is armed; when the timer fires it looks at who is waiting and arms the next.
// Guarded by Conn.mu, but for reads.
type timer struct {
	c     *Conn
	t     *time.Timer
	at    time.Time // zero: not armed
	ended bool

	reads   atomic.Uint64 // how often something arrived
	checked uint64        // reads when the last PING check ran
	asked   bool          // a PING is unanswered
	pingAt  time.Time     // next check, zero without keepalive
	drainAt time.Time     // the second GOAWAY waits no longer
}

func (t *timer) init(c *Conn) { t.c = c }

// arm makes the timer fire at a time or earlier.
func (t *timer) arm(at time.Time) {
	if t.ended || !t.at.IsZero() && !at.Before(t.at) {
		return
	}
	t.at = at
	if t.t == nil {
		t.t = time.AfterFunc(time.Until(at), t.fire)
	} else {
		t.t.Reset(time.Until(at))
	}
}

func (t *timer) stop() {
	t.ended = true
	if t.t != nil {
		t.t.Stop()
	}
}

func (t *timer) fire() {
	c := t.c
	c.mu.Lock()
	defer c.unlock()
	if t.ended || c.err != nil {
		return
	}
	t.at = time.Time{}
	now := time.Now()
	room := false
	for _, s := range c.streams {
		if due(s.reading, s.readBy, now, t) {
			s.readExpired = true
			s.readable.Signal()
		}
		if due(s.writing, s.waitBy, now, t) {
			s.writeExpired, room = true, true
			s.writable.Signal()
		}
	}
	if room {
		c.output.room.Broadcast()
	}
	t.checkWrite(now)
	t.checkPing(now)
	t.checkDrain(now)
}

// checkDrain ends the wait for a client that does not answer the drain's PING.
func (t *timer) checkDrain(now time.Time) {
	switch {
	case !t.c.drainPing:
	case now.Before(t.drainAt):
		t.arm(t.drainAt)
	default:
		t.c.drained()
		t.c.flushAsync()
	}
}

// due reports whether a wait is over its deadline, and arms the timer if it
// is not yet.
func due(waiting bool, by, now time.Time, t *timer) bool {
	if !waiting || by.IsZero() {
		return false
	}
	if now.Before(by) {
		t.arm(by)
		return false
	}
	return true
}

// checkWrite ends a connection whose peer does not read.
func (t *timer) checkWrite(now time.Time) {
	o := &t.c.output
	if o.started.IsZero() {
		return
	}
	by := o.started.Add(t.c.opts.WriteTimeout)
	if now.Before(by) {
		t.arm(by)
		return
	}
	t.c.stats.WriteStalls++
	t.c.fail(&ConnError{Reason: "the peer does not read", Err: errStalled})
	t.c.nc.Close()
}

// startPings begins the keepalive; it counts from now.
func (c *Conn) startPings() {
	if c.opts.PingInterval > 0 {
		c.timer.pingAt = time.Now().Add(c.opts.PingInterval)
		c.timer.arm(c.timer.pingAt)
	}
}

// checkPing asks a peer that was silent for an interval, and ends the
// connection when the answer is overdue.
func (t *timer) checkPing(now time.Time) {
	if t.pingAt.IsZero() {
		return
	}
	if now.Before(t.pingAt) {
		t.arm(t.pingAt)
		return
	}
	c := t.c
	reads := t.reads.Load()
	wait := c.opts.PingInterval
	switch {
	case reads != t.checked:
		t.checked, t.asked = reads, false
	case t.asked:
		c.stats.PingTimeouts++
		c.fail(&ConnError{Reason: "no answer to a PING", Err: errStalled})
		c.nc.Close()
		return
	default:
		t.asked = true
		wait = c.opts.PingTimeout
		c.output.buf = appendPing(c.output.buf, false, keepPing)
		c.flushAsync()
	}
	t.pingAt = now.Add(wait)
	t.arm(t.pingAt)
}
