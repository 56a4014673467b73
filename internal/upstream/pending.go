package upstream

import "time"

// waiter is a request in the pending queue.
type waiter struct {
	host  *Host
	takes bool       // an HTTP/1.1 connection can be handed to it
	got   chan grant // capacity 1
}

// grant ends a wait: with a connection, with the error of the dial it waited
// for, or with neither, which means "look again".
type grant struct {
	conn *Conn
	err  error
}

// lookInterval is how often who waits looks after its caller, and whether there
// is a connection that nobody told it of.
const lookInterval = 2 * time.Second

// wait queues until try succeeds or fails; try returns neither carrier nor
// error as long as there is nothing to be had.
func (c *Cluster) wait(w *waiter, want Want, try func() (Carrier, error)) (Carrier, error) {
	if n := c.pending.Add(1); n > int64(c.conf.Load().Breaker.MaxPendingRequests) {
		c.pending.Add(-1)
		c.stats.pendingOverflow.Add(1)
		return nil, ErrOverflow
	}
	defer c.pending.Add(-1)
	timer := time.NewTimer(want.nextLook())
	defer timer.Stop()
	w.got = make(chan grant, 1)
	c.enqueue(w)
	for {
		if got, err := try(); got != nil || err != nil {
			c.leave(w)
			return got, err
		}
		select {
		case g := <-w.got:
			switch {
			case g.err != nil:
				return nil, g.err
			case g.conn != nil:
				g.conn.reused = true
				return g.conn, nil
			}
			c.enqueue(w)
		case <-timer.C:
			if err := want.over(); err != nil {
				c.leave(w)
				return nil, err
			}
			timer.Reset(want.nextLook())
		}
	}
}

func (w *Want) nextLook() time.Duration {
	if w.Deadline.IsZero() {
		return lookInterval
	}
	return min(lookInterval, time.Until(w.Deadline))
}

// over is why there is nobody to wait for, nil if there is.
func (w *Want) over() error {
	switch {
	case !w.Deadline.IsZero() && !time.Now().Before(w.Deadline):
		return ErrDeadline
	case w.Caller != nil && w.Caller.Gone():
		return ErrGone
	}
	return nil
}

func (c *Cluster) enqueue(w *waiter) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.waiters = append(c.waiters, w)
}

// leave takes the waiter off the queue and passes on what it was given.
func (c *Cluster) leave(w *waiter) {
	c.mu.Lock()
	for i, x := range c.waiters {
		if x == w {
			c.waiters = append(c.waiters[:i], c.waiters[i+1:]...)
			c.mu.Unlock()
			return
		}
	}
	c.mu.Unlock()
	if g := <-w.got; g.conn != nil {
		g.conn.Release(time.Now())
	} else {
		c.wakeOne(nil, nil)
	}
}

// wakeOne gives conn to the first waiter that can take it and reports whether
// there was one; with a nil host it tells the first waiter to look again.
func (c *Cluster) wakeOne(h *Host, conn *Conn) bool {
	if c.pending.Load() == 0 {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, w := range c.waiters {
		if h == nil || w.host == h && w.takes {
			c.waiters = append(c.waiters[:i], c.waiters[i+1:]...)
			w.got <- grant{conn: conn}
			return true
		}
	}
	return false
}

// wakeHost tells everybody who waits for a stream of the host. One stream that
// came free wakes them all: they are few, and each looks again by itself.
func (c *Cluster) wakeHost(h *Host, g grant) {
	if c.pending.Load() == 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	kept := c.waiters[:0]
	for _, w := range c.waiters {
		if w.host == h && !w.takes {
			w.got <- g
		} else {
			kept = append(kept, w)
		}
	}
	clear(c.waiters[len(kept):])
	c.waiters = kept
}

func (c *Cluster) wakeAll() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, w := range c.waiters {
		w.got <- grant{}
	}
	c.waiters = nil
}
