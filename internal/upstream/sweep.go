package upstream

import "time"

// closeIdle closes idle connections that match. One whose idleSince is zero
// carries requests: it closes with the last of them.
func (c *Cluster) closeIdle(match func(*Conn) bool) {
	for _, h := range c.Hosts() {
		for _, conn := range h.takeIdle(match) {
			conn.Close()
		}
		h.closeShared(match)
	}
}

// scheduleSweep makes sure that idle connections are closed when their time
// is over; it keeps one timer per cluster, armed only while something idles.
func (c *Cluster) scheduleSweep(idle time.Duration) {
	if idle == 0 {
		return // for ever
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.sweeper != nil || c.closed {
		return
	}
	c.sweeper = time.AfterFunc(idle+idle/16+time.Millisecond, c.sweep)
}

// rescheduleSweep has another idle timeout count for what idles already.
func (c *Cluster) rescheduleSweep() {
	c.mu.Lock()
	if c.sweeper != nil {
		c.sweeper.Stop()
		c.sweeper = nil
	}
	c.mu.Unlock()
	c.scheduleSweep(c.idleTimeout())
}

func (c *Cluster) sweep() {
	now, limit := time.Now(), c.idleTimeout()
	oldest := now
	c.closeIdle(func(conn *Conn) bool {
		if conn.idleSince.IsZero() {
			return false
		}
		if limit > 0 && now.Sub(conn.idleSince) >= limit {
			return true
		}
		if conn.idleSince.Before(oldest) {
			oldest = conn.idleSince
		}
		return false
	})
	busy := false
	for _, h := range c.Hosts() {
		busy = busy || h.hasShared()
	}
	c.mu.Lock()
	c.sweeper = nil
	c.mu.Unlock()
	if limit > 0 && (c.idle.Load() > 0 || busy) {
		c.scheduleSweep(limit - now.Sub(oldest))
	}
}
