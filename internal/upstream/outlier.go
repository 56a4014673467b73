package upstream

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/tulle-mesh/tulle/internal/ir"
)

// outlier is one host's passive health (Envoy's outlier detection, without
// success rates, which Istio never enables).
type outlier struct {
	consecutive5xx, consecutiveGateway, consecutiveLocal atomic.Uint32
	ejected                                              atomic.Bool

	mu        sync.Mutex
	times     int // ejections in a row; the ejection time is multiplied by it
	returned  time.Time
	readmit   *time.Timer
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
	out := &h.outlier
	if o.Local && conf.SplitLocal {
		if n := out.consecutiveLocal.Add(1); conf.ConsecutiveLocal > 0 && n >= conf.ConsecutiveLocal {
			c.eject(h, conf)
		}
		return
	}
	bad := o.Local || o.Status >= 500
	if !bad {
		if out.consecutive5xx.Load() != 0 {
			out.consecutive5xx.Store(0)
		}
		if out.consecutiveGateway.Load() != 0 {
			out.consecutiveGateway.Store(0)
		}
		if out.consecutiveLocal.Load() != 0 {
			out.consecutiveLocal.Store(0)
		}
		return
	}
	n := out.consecutive5xx.Add(1)
	gateway := uint32(0)
	if o.Local || o.Status >= 502 && o.Status <= 504 {
		gateway = out.consecutiveGateway.Add(1)
	} else {
		out.consecutiveGateway.Store(0)
	}
	if conf.Consecutive5xx > 0 && n >= conf.Consecutive5xx || conf.ConsecutiveGateway > 0 && gateway >= conf.ConsecutiveGateway {
		c.eject(h, conf)
	}
}

// eject takes the host out if the share of ejected hosts allows it. At least
// one host may always be ejected.
func (c *Cluster) eject(h *Host, conf *ir.Outlier) {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := &h.outlier
	if out.ejected.Load() || c.closed {
		return
	}
	all := c.hosts.Load().all
	ejected := 0
	for _, other := range all {
		if other.outlier.ejected.Load() {
			ejected++
		}
	}
	if ejected > 0 && (ejected+1)*100 > int(conf.MaxEjectionPercent)*len(all) {
		c.stats.ejectionOverflow.Add(1)
		return
	}
	out.mu.Lock()
	// Each interval in health takes back one step of the multiplier.
	if interval := conf.Interval.D(); interval > 0 && !out.returned.IsZero() {
		out.times = max(0, out.times-int(time.Since(out.returned)/interval))
	}
	out.times++
	out.ejections++
	d := conf.BaseEjection.D() * time.Duration(out.times)
	if limit := conf.MaxEjection.D(); limit > 0 {
		d = min(d, max(limit, conf.BaseEjection.D()))
	}
	out.ejected.Store(true)
	out.readmit = time.AfterFunc(d, func() { c.uneject(h) })
	out.mu.Unlock()
	c.stats.ejections.Add(1)
	c.rebuildLocked(all)
}

// uneject returns the host with a clean slate.
func (c *Cluster) uneject(h *Host) {
	out := &h.outlier
	out.mu.Lock()
	if out.readmit != nil {
		out.readmit.Stop()
	}
	out.consecutive5xx.Store(0)
	out.consecutiveGateway.Store(0)
	out.consecutiveLocal.Store(0)
	out.returned = time.Now()
	out.ejected.Store(false)
	out.mu.Unlock()
	c.rebuild()
	c.wakeAll()
}

func (c *Cluster) unejectAll() {
	for _, h := range c.hosts.Load().all {
		if h.outlier.ejected.Load() {
			c.uneject(h)
		}
	}
}
