package upstream

import (
	"slices"
	"sync/atomic"
	"time"

	"github.com/tulle-mesh/tulle/internal/ir"
)

// outlier is one host's passive health (Envoy's outlier detection, without
// success rates, which Istio never enables). Most hosts never fail and have
// none.
type outlier struct {
	consecutive5xx, consecutiveGateway, consecutiveLocal atomic.Uint32

	// Guarded by the cluster's mu.
	times     int // ejections in a row; the ejection time is multiplied by it
	since     time.Time
	ejections uint64
}

// Outcome is what one try showed of a host.
type Outcome struct {
	Status int  // of the response; 0 without one
	Local  bool // no response: connect failure, reset, timeout
}

// Report feeds outlier detection. Call once per try.
func (c *Cluster) Report(h *Host, o Outcome) {
	conf := c.conf.Load().Outlier
	if conf == nil {
		return
	}
	out := h.outlier.Load()
	if out == nil {
		if !o.Local && !counts(conf, o.Status) {
			return // the usual case: nothing to remember, nothing to forget
		}
		h.outlier.CompareAndSwap(nil, &outlier{})
		out = h.outlier.Load()
	}
	if conf.SplitLocal {
		if o.Local {
			c.count(h, &out.consecutiveLocal, conf.ConsecutiveLocal, conf)
			return
		}
		reset(&out.consecutiveLocal) // there was a response, so it was reached
	}
	if !o.Local && !counts(conf, o.Status) {
		reset(&out.consecutive5xx)
		reset(&out.consecutiveGateway)
		return
	}
	// Without the split, Envoy counts a local failure as a 503 or 504.
	if o.Local || o.Status >= 502 && o.Status <= 504 {
		c.count(h, &out.consecutiveGateway, conf.ConsecutiveGateway, conf)
	} else {
		reset(&out.consecutiveGateway)
	}
	c.count(h, &out.consecutive5xx, conf.Consecutive5xx, conf)
}

// counts reports whether a response is an error to outlier detection.
func counts(o *ir.Outlier, status int) bool {
	if len(o.Codes) > 0 {
		return slices.Contains(o.Codes, uint32(status))
	}
	return status >= 500
}

func reset(n *atomic.Uint32) {
	if n.Load() != 0 {
		n.Store(0)
	}
}

// count adds a failure; the limit-th in a row ejects. 0: off.
func (c *Cluster) count(h *Host, n *atomic.Uint32, limit uint32, conf *ir.Outlier) {
	if n.Add(1) >= limit && limit > 0 {
		n.Store(0) // whether or not the share of ejected hosts allows the ejection
		c.eject(h, conf)
	}
}

// eject takes the host out if the share of ejected hosts allows it. One host
// may always be ejected.
func (c *Cluster) eject(h *Host, conf *ir.Outlier) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if h.ejected.Load() || c.closed || h.removed.Load() || c.conf.Load().Outlier == nil { // the last: switched off since the request began
		return
	}
	all := c.hosts.Load().all
	ejected, members := 0, 0
	for _, other := range all {
		if other.endpoint.Load().Health == ir.Healthy {
			members++
		}
		if other.ejected.Load() {
			ejected++
		}
	}
	if ejected > 0 && (ejected+1)*100 > int(conf.MaxEjectionPercent)*members || conf.MaxEjectionPercent == 0 {
		c.stats.ejectionOverflow.Add(1)
		return
	}
	out := h.outlier.Load()
	out.lengthen(conf)
	out.ejections++
	out.since = time.Now()
	h.ejected.Store(true)
	c.stats.ejections.Add(1)
	c.scheduleReadmission(conf)
	c.rebuildLocked(all)
}

// lengthen makes the next ejection one step longer, up to the longest there is:
// every step more would take an interval in health to come back from.
func (out *outlier) lengthen(conf *ir.Outlier) {
	base := conf.BaseEjection.D()
	if limit := conf.MaxEjection.D(); limit <= 0 || base*time.Duration(out.times) < max(limit, base)+base { // Envoy's condition
		out.times++
	}
}

// ejectionTime grows with the ejections in a row.
func (out *outlier) ejectionTime(conf *ir.Outlier) time.Duration {
	d := conf.BaseEjection.D() * time.Duration(out.times)
	if limit := conf.MaxEjection.D(); limit > 0 {
		d = min(d, max(limit, conf.BaseEjection.D()))
	}
	return d
}

// scheduleReadmission arms the sweep, which runs every interval as long as
// there is anybody to forgive. c.mu is held.
func (c *Cluster) scheduleReadmission(conf *ir.Outlier) {
	if c.outliers != nil || c.closed {
		return
	}
	c.outliers = time.AfterFunc(max(conf.Interval.D(), time.Millisecond), c.readmit)
}

// rescheduleReadmission has another interval count for the sweep that is armed.
func (c *Cluster) rescheduleReadmission(conf *ir.Outlier) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.outliers != nil && c.outliers.Stop() {
		c.outliers = nil
		c.scheduleReadmission(conf)
	}
}

// readmit is the sweep: a host returns at the first interval after its time is
// over, with a clean slate; each interval in health takes back one step of the
// multiplier.
func (c *Cluster) readmit() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.outliers = nil
	conf := c.conf.Load().Outlier
	if conf == nil || c.closed {
		return
	}
	now := time.Now()
	waiting, changed := false, false
	all := c.hosts.Load().all
	for _, h := range all {
		out := h.outlier.Load()
		if out == nil {
			continue
		}
		switch {
		case !h.ejected.Load():
			out.times = max(0, out.times-1)
		case now.Sub(out.since) >= out.ejectionTime(conf):
			h.returnLocked()
			changed = true
		}
		waiting = waiting || out.times > 0
	}
	if waiting {
		c.scheduleReadmission(conf)
	}
	if changed {
		c.rebuildLocked(all)
	}
}

// returnLocked ends an ejection. The cluster's mu is held.
func (h *Host) returnLocked() {
	out := h.outlier.Load()
	reset(&out.consecutive5xx)
	reset(&out.consecutiveGateway)
	reset(&out.consecutiveLocal)
	h.ejected.Store(false)
}

func (c *Cluster) unejectAll() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, h := range c.hosts.Load().all {
		if h.ejected.Load() {
			h.returnLocked()
		}
		if h.outlier.Load() != nil { // no more nil: requests may be about to count
			h.outlier.Store(&outlier{})
		}
	}
}
