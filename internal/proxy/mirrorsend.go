package proxy

import (
	"net/netip"
	"time"

	"github.com/tulle-mesh/tulle/internal/header"
	"github.com/tulle-mesh/tulle/internal/upstream"
)

const mirrorConnect = 10 * time.Second // to get a connection

// take returns what has gathered of the body, waiting for some.
func (c *mirror) take() (b []byte, done bool, trailers []header.Field, ok bool) {
	for {
		c.mu.Lock()
		b, done, trailers, ok = c.pending, c.done, c.trailers, !c.broken
		c.pending = nil
		c.set.waiting.Add(-int64(len(b)))
		c.mu.Unlock()
		if len(b) > 0 || done || !ok {
			return b, done, trailers, ok
		}
		<-c.news
	}
}

// attach names the carrier that abort ends; false: the copy is given up.
func (c *mirror) attach(up upstream.Carrier) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.up = up
	return !c.broken
}

func (c *mirror) run() {
	ok := false
	defer func() { c.set.finish(c, ok) }()
	if !c.cluster.BeginRequest() {
		return
	}
	defer c.cluster.EndRequest()
	host := c.cluster.Pick(netip.AddrPort{}, nil, 0)
	if host == nil {
		return
	}
	host.Begin()
	defer host.End()
	up, err := c.cluster.Acquire(host, upstream.Want{Deadline: time.Now().Add(mirrorConnect), HTTP2: c.http2, Check: true})
	if err != nil {
		c.cluster.Report(host, upstream.Outcome{Local: true})
		return
	}
	status := 0
	if c.attach(up) {
		status = c.exchange(up)
	}
	if !c.attach(nil) || status == 0 || !up.Complete() {
		up.Close()
		return
	}
	ok = true
	c.cluster.Report(host, upstream.Outcome{Status: status})
	up.Release(time.Now())
}

// exchange sends the copy and reads its response over; 0: it failed.
func (c *mirror) exchange(up upstream.Carrier) int {
	if up.First() && up.Secure() && c.intro != "" {
		c.head.Fields.Add(peerHeader, c.intro)
	}
	if !c.send(up) {
		return 0
	}
	var res header.Head
	limit := streamIdle
	if c.limit > 0 {
		limit = min(limit, c.limit)
	}
	up.SetReadBy(time.Now().Add(limit), 0)
	for res.Status < 200 {
		if up.ReadHead(&res) != nil {
			return 0
		}
	}
	for !up.Complete() {
		if !up.ReadyNow() {
			up.SetReadBy(time.Now().Add(streamIdle), deadlineSlack)
		}
		if _, _, err := up.Next(); err != nil {
			return 0
		}
	}
	if !res.KeepAlive {
		return 0 // the answer is whole, but its connection is of no more use
	}
	return res.Status
}

func (c *mirror) send(up upstream.Carrier) bool {
	for first := true; ; first = false {
		b, done, trailers, ok := c.take()
		if !ok {
			return false
		}
		last := done && len(trailers) == 0
		up.SetWriteBy(time.Now().Add(streamIdle))
		if first && up.WriteHead(&c.head, last && len(b) == 0) != nil {
			return false
		}
		if len(b) > 0 && up.WriteData(b, last) != nil || len(b) == 0 && last && !first && up.WriteData(nil, true) != nil {
			return false
		}
		if len(trailers) > 0 && up.WriteTrailers(trailers) != nil {
			return false
		}
		if up.Flush() != nil {
			return false
		}
		if done {
			return true
		}
	}
}
