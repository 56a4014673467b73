package upstream

import (
	"math"
	"time"

	"github.com/tulle-mesh/tulle/internal/ir"
)

// warmth is the share of its weight that a host may have by its age (Envoy's
// slow start).
func (h *Host) warmth(w *ir.Warmup) float64 {
	age := time.Since(h.created)
	if age >= w.Duration.D() {
		return 1
	}
	progress := max(float64(age)/float64(w.Duration), 1e-3)
	aggression := w.Aggression
	if aggression <= 0 {
		aggression = 1
	}
	return max(w.MinPercent/100, math.Pow(progress, 1/aggression))
}

// warming reports whether any of hosts is new. The set is rebuilt when the
// newest has warmed up, so that the plain way of drawing comes back.
func (c *Cluster) warming(conf *config, hosts []*Host) bool {
	w := conf.Warmup
	if w == nil || conf.LB == ir.Random {
		return false
	}
	var newest time.Time
	for _, h := range hosts {
		if h.created.After(newest) {
			newest = h.created
		}
	}
	left := time.Until(newest.Add(w.Duration.D()))
	if left <= 0 {
		return false
	}
	if c.warmer == nil {
		c.warmer = time.AfterFunc(left, func() {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.warmer = nil
			if !c.closed {
				c.rebuildLocked(c.hosts.Load().all)
			}
		})
	}
	return true
}
