package h2

import (
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

const (
	Preface       = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
	frameHeader   = 9
	ourFrameSize  = 16384 // the protocol's default and least; larger frames only make others wait
	defaultWindow = 65535
	maxWindow     = 1<<31 - 1
	maxStreamID   = 1<<31 - 1
)

// Conn is one HTTP/2 connection.
type Conn struct {
	nc   net.Conn
	opts Options
	in   input // the reading goroutine's

	mu      sync.Mutex // guards everything below, and all of every Stream that does not say otherwise
	output  output
	enc     *encoder
	streams map[uint32]*Stream // open in at least one direction
	free    []*Stream
	held    int    // streams whose owner has not closed them
	nextID  uint32 // client: of the next stream
	lastID  uint32 // the highest stream the peer opened
	stats   Stats
	err     error // set once: why the connection ended
	timer   timer
	due     hooks // to call once the lock is gone

	peer       peerSettings
	settled    chan struct{} // closed with the peer's first SETTINGS, or the end
	sendWindow int64         // the connection's, to send
	blocked    int           // streams that wait for sendWindow
	recvWindow int64         // what the peer may still send
	recvCredit int64         // consumed and not yet given back
	budget     int           // WINDOW_UPDATEs still accepted
	pings      int           // PINGs that what we sent has earned

	draining  bool // we take or open no new streams
	drainPing bool // the second GOAWAY waits for this PING's answer
	sentLast  uint32
	peerGone  bool // the peer sent GOAWAY
	peerCode  Code // and why
	acked     bool // the peer knows our SETTINGS
	reset     resetIDs
}

type peerSettings struct {
	streams         uint32 // MAX_CONCURRENT_STREAMS
	window          int64  // INITIAL_WINDOW_SIZE
	frame           int    // MAX_FRAME_SIZE, as far as we use it
	extendedConnect bool
	seen            bool // the first SETTINGS has arrived
}

// resetIDs remembers streams we reset, whose frames may still be under way and
// are no fault of the peer's (RFC 9113 section 5.4.2).
type resetIDs struct {
	ids [256]uint32
	n   int
}

func (r *resetIDs) add(id uint32) {
	r.ids[r.n%len(r.ids)] = id
	r.n++
}

func (r *resetIDs) has(id uint32) bool {
	for _, x := range r.ids {
		if x == id {
			return true
		}
	}
	return false
}

// NewConn returns a connection on nc, with preface and SETTINGS queued; Serve
// sends them.
func NewConn(nc net.Conn, o Options) *Conn {
	o.defaults()
	c := &Conn{nc: nc, opts: o, streams: map[uint32]*Stream{}, settled: make(chan struct{}), enc: newEncoder(), nextID: 1, budget: windowBurst}
	c.in.init(o.Buffered)
	c.output.room = sync.NewCond(&c.mu)
	c.peer = peerSettings{streams: 100, window: defaultWindow, frame: ourFrameSize}
	c.sendWindow = defaultWindow
	c.recvWindow = int64(max(o.ConnWindow, defaultWindow))
	c.sentLast = maxStreamID
	c.timer.init(c)
	if !o.Server {
		c.output.buf = append(c.output.buf, Preface...)
	}
	c.appendSettings()
	return c
}

// Serve reads until the connection ends and returns why; io.EOF when the peer
// closed it between streams. It must be called once. After it has returned
// every stream has an error and the connection is closed.
func (c *Conn) Serve() error {
	c.mu.Lock()
	c.startPings()
	c.flushAsync()
	c.mu.Unlock()
	err := c.readLoop()
	c.mu.Lock()
	c.fail(err)
	for _, s := range c.in.fresh { // a fault behind them came first
		s.release()
	}
	err = c.err
	c.unlock()
	c.finish()
	return err
}

// finish closes the socket once a GOAWAY that explains the end has had its chance.
func (c *Conn) finish() {
	c.mu.Lock()
	c.timer.stop()
	err := c.err
	c.mu.Unlock()
	var ce *ConnError
	if errors.As(err, &ce) && !ce.Remote && ce.Err == nil {
		c.explain(ce)
	}
	c.nc.Close()
}

// explain sends GOAWAY behind what was queued, and waits a moment for the peer
// to go: closing a socket with unread bytes in it would make the kernel reset
// the connection, and the GOAWAY might never be read.
func (c *Conn) explain(ce *ConnError) {
	c.nc.SetDeadline(time.Now().Add(goAwayTimeout)) // for a writer at work too
	c.mu.Lock()
	for c.output.writing {
		c.output.room.Wait()
	}
	b := appendGoAway(c.output.buf, c.lastID, ce.Code, ce.Reason)
	c.output.buf = nil
	c.mu.Unlock()
	if _, err := c.nc.Write(b); err != nil {
		return
	}
	if half, ok := c.nc.(interface{ CloseWrite() error }); ok {
		half.CloseWrite()
	}
	for n := 0; n < maxDiscard; {
		m, err := c.nc.Read(c.in.buf)
		if err != nil {
			return
		}
		n += m
	}
}

// maxDiscard bounds what is read from a peer that has been told to go.
const maxDiscard = 1 << 20

// goAwayTimeout bounds the last write of a connection that ends.
const goAwayTimeout = time.Second

// fail ends the connection: every stream learns err. With mu held; only the
// first call counts.
func (c *Conn) fail(err error) {
	if c.err != nil {
		return
	}
	if errors.Is(err, io.EOF) && len(c.streams) > 0 {
		err = io.ErrUnexpectedEOF
	}
	var ce *ConnError
	switch {
	case errors.As(err, &ce):
		if !ce.Remote && ce.Err == nil && ce.Code != NoError && ce.Code != EnhanceYourCalm {
			c.stats.ProtocolErrors++
		}
	case err != io.EOF && err != ErrClosed:
		err = &ConnError{Code: c.peerCode, Remote: c.peerCode != NoError, Err: err}
	}
	c.err = err
	if !c.peer.seen {
		close(c.settled)
	}
	for id, s := range c.streams {
		delete(c.streams, id)
		s.fail(streamEnd(err))
	}
	c.output.room.Broadcast()
}

func streamEnd(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// Close ends the connection now.
func (c *Conn) Close() error {
	c.mu.Lock()
	c.fail(ErrClosed)
	c.timer.stop()
	c.mu.Unlock()
	return c.nc.Close()
}

// Shutdown begins the end: no new streams, those that are open go on; when the
// last is closed the connection closes. A server sends GOAWAY twice, so that
// requests on their way are not lost (RFC 9113 section 6.8): the second follows
// the client's answer to a PING, or drainWait. An owner whose patience is bounded
// calls Close afterwards: the streams may never end.
func (c *Conn) Shutdown() {
	c.mu.Lock()
	defer c.unlock()
	if c.draining || c.err != nil {
		return
	}
	c.draining = true
	if c.opts.Server {
		c.drainPing = true
		c.output.buf = appendGoAway(c.output.buf, maxStreamID, NoError, "")
		c.output.buf = appendPing(c.output.buf, false, drainPing)
		c.flushAsync()
		c.timer.drainAt = time.Now().Add(drainWait)
		c.timer.arm(c.timer.drainAt)
		return
	}
	c.closeDrained()
}

// drainWait bounds the wait for the answer to the PING between the two GOAWAYs
// (Envoy's drain_timeout).
const drainWait = 5 * time.Second

// drained sends the second GOAWAY: what the client sent before it heard the
// first is here now. With mu held.
func (c *Conn) drained() {
	c.drainPing = false
	c.finalGoAway(NoError)
	c.closeDrained()
}

// GoAway tells the peer at once that no stream after the last seen will be
// served, with a reason code. Open streams go on.
func (c *Conn) GoAway(code Code) {
	c.mu.Lock()
	defer c.unlock()
	if c.err != nil {
		return
	}
	c.draining, c.drainPing = true, false
	c.finalGoAway(code)
	c.flushAsync()
	c.closeDrained()
}

func (c *Conn) finalGoAway(code Code) {
	c.sentLast = c.lastID
	c.output.buf = appendGoAway(c.output.buf, c.lastID, code, "")
}

// closeDrained ends a draining connection that has nothing left to do.
func (c *Conn) closeDrained() {
	if !c.draining || c.drainPing || c.held > 0 || c.err != nil {
		return
	}
	c.flushAsync()
	if c.output.writing { // the writer looks again when it is through
		c.output.thenClose = true
		return
	}
	c.hangUp()
}

// hangUp says that nothing more comes, and lets the reading goroutine wait a
// moment for the peer to do the same: see explain. With mu held.
func (c *Conn) hangUp() {
	c.fail(ErrClosed)
	half, ok := c.nc.(interface{ CloseWrite() error })
	if !ok {
		c.nc.Close()
		return
	}
	c.nc.SetDeadline(time.Now().Add(goAwayTimeout))
	half.CloseWrite()
}

// CanOpen reports whether Open would succeed.
func (c *Conn) CanOpen() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.mayOpen() == nil
}

// Choked reports whether streams wait because the peer has closed the
// connection's window: a body on a further stream would wait as well, maybe for
// as long as somebody else's consumer does not read.
func (c *Conn) Choked() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.sendWindow <= 0 && c.blocked > 0
}

func (c *Conn) mayOpen() error {
	switch {
	case c.err != nil:
		return c.err
	case c.draining || c.peerGone || c.nextID > maxStreamID-2:
		return ErrGoingAway
	case c.held >= int(min(c.peer.streams, maxStreamID)):
		return ErrNoStreams
	}
	return nil
}

// ActiveStreams is the number of streams whose owner has not closed them.
func (c *Conn) ActiveStreams() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.held
}

// Err is why the connection ended; nil while it lives.
func (c *Conn) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Settled is closed when the peer's SETTINGS have arrived or the connection has
// ended: from then on Ready tells what the peer accepts.
func (c *Conn) Settled() <-chan struct{} { return c.settled }

// Ready reports whether the peer's SETTINGS have arrived, and with them
// whether it accepts extended CONNECT.
func (c *Conn) Ready() (ready, extendedConnect bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.peer.seen, c.peer.extendedConnect
}

// Draining reports whether the connection takes no new streams.
func (c *Conn) Draining() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.draining || c.peerGone || c.err != nil
}

// Stats returns the counters.
func (c *Conn) Stats() Stats {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.stats
}

// NetConn returns the connection below.
func (c *Conn) NetConn() net.Conn { return c.nc }

// unlock gives the lock up and calls the hooks that became due.
func (c *Conn) unlock() {
	due := c.due
	c.due = hooks{}
	c.mu.Unlock()
	for _, gone := range due.gone {
		gone()
	}
	if due.active && c.opts.OnActive != nil {
		c.opts.OnActive()
	}
	if due.goAway && c.opts.OnGoAway != nil {
		c.opts.OnGoAway()
	}
	if due.idle && c.opts.OnIdle != nil {
		c.opts.OnIdle()
	}
}

type hooks struct {
	active, idle, goAway bool
	gone                 []func() // of streams that failed
}

func (c *Conn) hold() {
	c.held++
	if c.held == 1 {
		c.due.active, c.due.idle = true, false
	}
}

func (c *Conn) letGo() {
	c.held--
	if c.held == 0 {
		c.due.idle = true
		c.closeDrained()
	}
}
