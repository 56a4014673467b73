package h2

import (
	"runtime"
	"sync"
	"time"
)

const (
	// flushAt is how much gathers before a stream's data is written without
	// anybody having asked: two TLS records.
	flushAt = 32 << 10
	// outputLimit is how much may wait behind a write that is going on.
	outputLimit = 128 << 10
	// keepOutput is the largest buffer kept for reuse.
	keepOutput = 256 << 10
)

// output is what waits to be written. Guarded by Conn.mu.
type output struct {
	buf, spare []byte
	writing    bool // somebody is the writer and will take what is in buf
	started    time.Time
	thenClose  bool       // the drained connection closes when all is written
	room       *sync.Cond // broadcast when a write is through
}

// flush makes sure that what is in the buffer gets written: by this goroutine,
// or by the one that is writing already. mu is held on entry and on return,
// not in between.
func (c *Conn) flush() error {
	if c.output.writing || len(c.output.buf) == 0 || c.err != nil {
		return c.err
	}
	c.output.writing = true
	if c.held > 1 {
		// Others are about to write as well: one system call and one TLS
		// record for all of them.
		c.mu.Unlock()
		runtime.Gosched()
		c.mu.Lock()
	}
	c.write()
	return c.err
}

// flushAsync does the same without blocking, for the reading goroutine: were
// it to wait for the peer to read while the peer does the same, neither would
// ever read again. Only control frames come this way, and seldom.
func (c *Conn) flushAsync() {
	if c.output.writing || len(c.output.buf) == 0 || c.err != nil {
		return
	}
	c.output.writing = true
	go func() {
		c.mu.Lock()
		c.write()
		c.mu.Unlock()
	}()
}

// write is the writer: until nothing is left.
func (c *Conn) write() {
	o := &c.output
	for len(o.buf) > 0 && c.err == nil {
		b := o.buf
		o.buf, o.spare = o.spare[:0], nil
		o.started = time.Now()
		c.timer.arm(o.started.Add(c.opts.WriteTimeout))
		c.mu.Unlock()
		_, err := c.nc.Write(b)
		c.mu.Lock()
		if cap(b) <= keepOutput {
			o.spare = b[:0]
		}
		if err != nil {
			c.fail(err)
			c.nc.Close() // wakes the reading goroutine
		}
		o.room.Broadcast()
	}
	o.writing, o.started = false, time.Time{}
	o.room.Broadcast()
	if o.thenClose && c.err == nil && c.held == 0 {
		c.hangUp()
	}
}

// checkControl bounds what a peer makes us answer without reading it.
func (c *Conn) checkControl() error {
	if len(c.output.buf) > maxControlOutput {
		c.stats.OutputFlood++
		return &ConnError{Code: EnhanceYourCalm, Reason: "answers pile up unread"}
	}
	return nil
}
