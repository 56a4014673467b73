package proxy

import (
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// Above the first threshold requests are answered 503 with the flag OM and
// reach nobody; above the second, connections are closed; below, all is well
// again.
func TestOverloadSheds(t *testing.T) {
	reached := 0
	m := newMesh(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { reached++ }), nil)
	o := &m.a.overload
	used := 0.0
	o.limit, o.used = 100, func() float64 { return used }
	status := func() int {
		resp, _ := m.get("/")
		return resp.StatusCode
	}
	for _, step := range []struct {
		used float64
		want int
	}{{94, 200}, {95, 503}, {97, 503}, {50, 200}} {
		used = step.used
		o.look()
		if got := status(); got != step.want {
			t.Errorf("at %v%%: %d, want %d", step.used, got, step.want)
		}
	}
	if reached != 2 {
		t.Errorf("%d requests reached the application, want 2", reached)
	}
	m.logA.wait(t, " 503 OM overload ")
	if got := m.a.stats.requestsShed.Value(); got != 2 {
		t.Errorf("%d requests counted as shed, want 2", got)
	}
	used = 98
	o.look()
	c, err := net.Dial("tcp", strings.TrimPrefix(m.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := c.Read(make([]byte, 1)); err == nil || strings.Contains(err.Error(), "timeout") {
		t.Errorf("a connection under overload: %v, want it closed", err)
	}
	if got := m.a.stats.connectionsOverload.Value(); got != 1 {
		t.Errorf("%d connections counted as rejected, want 1", got)
	}
}

// The watch sees the process's real memory.
func TestOverloadWatches(t *testing.T) {
	var o overload
	o.watch(1) // one byte: over it at once
	tick, limit := time.NewTicker(time.Millisecond), time.NewTimer(10*time.Second)
	defer tick.Stop()
	defer limit.Stop()
	for !o.requests.Load() || !o.connections.Load() {
		select {
		case <-tick.C:
		case <-limit.C:
			t.Fatal("memory beyond the limit goes unnoticed")
		}
	}
	o.close()
	var none overload
	none.watch(0)
	none.close()
	if used := memoryUsed()(); used < 1<<20 {
		t.Errorf("%v bytes are used", used)
	}
}
