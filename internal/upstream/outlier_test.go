package upstream

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/tulle-mesh/tulle/internal/ir"
)

func outlierConf(edit func(*ir.Outlier)) ir.Cluster {
	o := &ir.Outlier{Consecutive5xx: 3, Interval: ir.Duration(10 * time.Second), BaseEjection: ir.Duration(30 * time.Second),
		MaxEjection: ir.Duration(300 * time.Second), MaxEjectionPercent: 100}
	if edit != nil {
		edit(o)
	}
	return ir.Cluster{LB: ir.RoundRobin, Outlier: o}
}

func TestOutlierCounts(t *testing.T) {
	local := Outcome{Local: true}
	is := func(status int) Outcome { return Outcome{Status: status} }
	for _, tt := range []struct {
		name    string
		edit    func(*ir.Outlier)
		reports []Outcome
		ejected bool
	}{
		{"three errors", nil, []Outcome{is(500), is(501), is(599)}, true},
		{"two errors", nil, []Outcome{is(500), is(500)}, false},
		{"a success in between", nil, []Outcome{is(500), is(500), is(200), is(500)}, false},
		{"a 404 is a success", nil, []Outcome{is(500), is(500), is(404), is(500)}, false},
		{"lost connections count as errors", nil, []Outcome{local, local, is(500)}, true},
		{"5xx off", func(o *ir.Outlier) { o.Consecutive5xx = 0 }, []Outcome{is(500), is(500), is(500), is(500)}, false},
		{"gateway errors", func(o *ir.Outlier) { o.Consecutive5xx, o.ConsecutiveGateway = 0, 2 }, []Outcome{is(502), is(504)}, true},
		{"lost connections are gateway errors", func(o *ir.Outlier) { o.Consecutive5xx, o.ConsecutiveGateway = 0, 2 }, []Outcome{local, local}, true},
		{"a 500 is none", func(o *ir.Outlier) { o.Consecutive5xx, o.ConsecutiveGateway = 0, 2 }, []Outcome{is(502), is(500), is(502)}, false},
		{"split: local failures have their own number", func(o *ir.Outlier) { o.SplitLocal, o.ConsecutiveLocal = true, 2 }, []Outcome{local, local}, true},
		{"split: they are no 5xx", func(o *ir.Outlier) { o.SplitLocal, o.ConsecutiveLocal = true, 9 }, []Outcome{local, local, local, is(500)}, false},
		{"split: any response ends their row", func(o *ir.Outlier) { o.SplitLocal, o.ConsecutiveLocal = true, 2 }, []Outcome{local, is(500), local}, false},
		{"codes: what is named", func(o *ir.Outlier) { o.Codes = []uint32{429} }, []Outcome{is(429), is(429), is(429)}, true},
		{"codes: nothing else", func(o *ir.Outlier) { o.Codes = []uint32{429} }, []Outcome{is(500), is(500), is(500)}, false},
	} {
		c := cluster(t, outlierConf(tt.edit), plain(2)...)
		h := c.Hosts()[0]
		for _, o := range tt.reports {
			c.Report(h, o)
		}
		if h.Ejected() != tt.ejected {
			t.Errorf("%s: ejected %v", tt.name, h.Ejected())
		}
		if tt.ejected {
			if got := shares(c, 100); got[h.Address] != 0 || got["10.0.0.2:80"] < 99.9 {
				t.Errorf("%s: shares %v", tt.name, got)
			}
		}
	}
}

func fail(c *Cluster, h *Host) {
	for range 3 {
		c.Report(h, Outcome{Status: 500})
	}
}

func TestMaxEjectionPercent(t *testing.T) {
	for percent, want := range map[uint32]int{10: 1, 50: 2, 74: 2, 75: 3, 100: 4} {
		c := cluster(t, outlierConf(func(o *ir.Outlier) { o.MaxEjectionPercent = percent }), plain(4)...)
		ejected := 0
		for _, h := range c.Hosts() {
			fail(c, h)
			if h.Ejected() {
				ejected++
			}
		}
		if ejected != want {
			t.Errorf("%d %% of four: %d ejected, want %d", percent, ejected, want)
		}
	}
}

// Hosts return at the first sweep after their time is over; the time grows with
// each ejection in a row and shrinks again with each interval in health.
func TestReadmission(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(Options{})
		defer s.Close()
		c := put(t, s, outlierConf(nil), plain(2)...)
		h := c.Hosts()[0]
		out := func(want bool) {
			t.Helper()
			synctest.Wait()
			if h.Ejected() != want {
				t.Fatalf("ejected: %v", h.Ejected())
			}
		}
		fail(c, h)
		wait(29 * time.Second)
		out(true)
		wait(time.Second) // the sweep at 30 s
		out(false)
		fail(c, h) // the second time: 60 s
		wait(59 * time.Second)
		out(true)
		wait(11 * time.Second)
		out(false)
		wait(25 * time.Second) // two intervals in health: the first time again
		fail(c, h)
		wait(41 * time.Second)
		out(false)
	})
}

// Beyond MaxEjection the multiplier does not grow (Envoy): or a host that was
// bad for a day would be out for the longest time for another day of health.
func TestEjectionTimeIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(Options{})
		defer s.Close()
		c := put(t, s, outlierConf(nil), plain(2)...)
		h := c.Hosts()[0]
		for range 50 { // each time as soon as it is back
			fail(c, h)
			for h.Ejected() {
				wait(10 * time.Second)
			}
		}
		wait(120 * time.Second) // twelve intervals in health
		fail(c, h)
		wait(41 * time.Second)
		if h.Ejected() {
			t.Error("healthy for long, and not out for the base time")
		}
	})
}

// A shorter interval counts at once, also for who is out already.
func TestIntervalIsEdited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(Options{})
		defer s.Close()
		c := put(t, s, outlierConf(func(o *ir.Outlier) { o.Interval = ir.Duration(time.Hour) }), plain(2)...)
		h := c.Hosts()[0]
		fail(c, h)
		wait(time.Minute)
		put(t, s, outlierConf(nil), plain(2)...)
		wait(11 * time.Second)
		if h.Ejected() {
			t.Error("it waits for the old interval")
		}
	})
}

func TestOutlierSwitchedOff(t *testing.T) {
	s := New(Options{})
	t.Cleanup(s.Close)
	c := put(t, s, outlierConf(nil), plain(2)...)
	h := c.Hosts()[0]
	fail(c, h)
	put(t, s, ir.Cluster{LB: ir.RoundRobin}, plain(2)...)
	if h.Ejected() || shares(c, 100)[h.Address] != 50 {
		t.Error("without outlier detection the host stays out")
	}
}

// A request that ends just after its cluster's outlier detection was switched
// off ejects nobody: nobody would readmit the host.
func TestNoEjectionAfterOutlierDetection(t *testing.T) {
	s := New(Options{Resolver: &names{}})
	t.Cleanup(s.Close)
	detect := &ir.Outlier{Consecutive5xx: 1, MaxEjectionPercent: 100, Interval: ir.Duration(time.Hour), BaseEjection: ir.Duration(time.Hour)}
	c := put(t, s, ir.Cluster{Outlier: detect}, plain(1)...)
	h := c.Hosts()[0]
	c.Report(h, Outcome{Status: 200})
	put(t, s, ir.Cluster{}, plain(1)...)
	c.eject(h, detect) // where such a request's Report has got to
	if h.Ejected() {
		t.Error("ejected")
	}
}
