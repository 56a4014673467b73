package h2

import "time"

// Stats count what a peer did wrong on one connection; read with Conn.Stats.
type Stats struct {
	RapidResets     uint64 // resets beyond the allowed rate: connection ended
	ControlFlood    uint64 // PING, SETTINGS, PRIORITY, unknown or empty frames beyond the allowed rate: ended
	WindowFlood     uint64 // WINDOW_UPDATEs out of proportion: ended
	HeaderFlood     uint64 // header blocks too long or in too many pieces: ended
	OutputFlood     uint64 // answers to control frames pile up unread: ended
	ProtocolErrors  uint64 // other connection errors
	StreamErrors    uint64 // streams reset for what the peer sent
	HeadersTooLarge uint64 // requests answered 431 and responses refused
	Refused         uint64 // streams over the limit
	ResetsReceived  uint64
	WriteStalls     uint64 // the peer read nothing for WriteTimeout: ended
	PingTimeouts    uint64
}

// Numbers a peer is held to. The bursts are far above what browsers, gRPC and
// proxies do; a flood needs orders of magnitude more to cost us anything.
const (
	resetBurst, resetRate     = 1000, 100 // per second; nghttp2 has 1000 and 33
	controlBurst, controlRate = 1000, 200
	windowBurst               = 10000 // WINDOW_UPDATEs, plus windowPerFrame per DATA frame and stream
	windowPerFrame            = 10
	pingsPerFrame             = 2 // gRPC measures the path with a PING for what it receives
	maxBlockFactor            = 2 // of MaxHeaderBytes: an encoded header block's length
	maxContinuations          = 64
	maxControlOutput          = 1 << 20 // bytes waiting that no stream wrote
	maxInterim                = 16      // 1xx responses nobody has read yet
)

// earn lets the peer send more control frames, in proportion to the DATA and
// streams that call for them. With mu held.
func (c *Conn) earn() {
	c.budget = min(c.budget+windowPerFrame, windowBurst)
	c.pings = min(c.pings+pingsPerFrame, controlBurst)
}

// earnedPing reports whether a PING is one of those.
func (c *Conn) earnedPing() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.pings == 0 {
		return false
	}
	c.pings--
	return true
}

// bucket is a token bucket that looks at the clock only when it is empty.
type bucket struct {
	tokens      int
	burst, rate int
	since       time.Time
}

func newBucket(burst, rate int) bucket {
	return bucket{tokens: burst, burst: burst, rate: rate, since: time.Now()}
}

// take reports whether one more is within the rate.
func (b *bucket) take() bool {
	if b.tokens > 0 {
		b.tokens--
		return true
	}
	now := time.Now()
	gained := int(min(now.Sub(b.since).Seconds()*float64(b.rate), float64(b.burst)))
	if gained < 1 {
		return false
	}
	b.since = now
	b.tokens = gained - 1
	return true
}
