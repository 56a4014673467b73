package e2e

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"
)

// The address of a service leads to all its replicas, from a workload without
// a sidecar and from a sidecar that passes on what it cannot resolve; without
// endpoints it refuses at once.
func TestServiceAddresses(t *testing.T) {
	m := startOwn(t, shop)
	for _, tc := range []struct {
		from, url, host string
		want            string // status and curl's exit code: 7 is refused, 35 no TLS, 28 would be a time-out
	}{
		{"web", "http://api/x", "elsewhere.example", "200 0"},
		{"web", "https://api:80/x", "", "000 35"},
		{"web", "http://nobody/x", "elsewhere.example", "503 0"},
		{"web", "https://nobody:80/x", "", "000 35"},
		{"legacy", "http://nobody/x", "", "000 7"},
		{"legacy", "http://api:99/x", "", "000 7"},
	} {
		out, code := m.tulle("exec", tc.from, "--", "curl", "-sk", "-m", "5", "-o", "/dev/null", "-H", "Host: "+tc.host, "-w", "%{http_code}", tc.url)
		if got := fmt.Sprint(strings.TrimSpace(out), " ", code); got != tc.want {
			t.Errorf("%s -> %s (Host: %s): %s; want %s", tc.from, tc.url, tc.host, got, tc.want)
		}
	}
	whyFailed(m)
	seen := map[string]bool{}
	m.eventually(10*time.Second, func() error {
		out, _ := m.tulle("exec", "legacy", "--", "curl", "-s", "-m", "5", "http://api/x")
		seen[regexp.MustCompile(`"workload":"[^"]*"`).FindString(out)] = true
		if !seen[`"workload":"api-0"`] || !seen[`"workload":"api-1"`] {
			return fmt.Errorf("one address of two replicas is answered by %v only", seen)
		}
		return nil
	})
}

// whyFailed: a 503 of the mesh can be asked about by the id in its response's
// access log line, and by no other.
func whyFailed(m *mesh) {
	m.t.Helper()
	const id = "6d1f0a8e-0000-4000-8000-000000000503"
	if out, _ := m.tulle("exec", "web", "--", "curl", "-s", "-m", "5", "-H", "x-request-id: "+id, "http://nobody/x"); out != "no healthy upstream" {
		m.t.Errorf("a service that nobody is behind answers %q", out)
	}
	out, code := m.tulle("why", id)
	for _, want := range []string{"GET nobody/x", "503 UH no_healthy_upstream", "no endpoint is ready", "service: Service shop/nobody (", "tulle explain --from web-0 --to nobody:80 --path /x"} {
		if code != 0 || !strings.Contains(out, want) {
			m.t.Errorf("why (exit %d) does not say %q:\n%s", code, want, out)
		}
	}
	// A connection has no request's id: the list gives it one.
	m.tulle("exec", "web", "--", "curl", "-sk", "-m", "5", "https://nobody:80/x")
	listed := regexp.MustCompile(`(?m)^.* TCP \S+ .* (\S+)$`)
	m.eventually(10*time.Second, func() error {
		out, _ := m.tulle("why")
		row := listed.FindStringSubmatch(out)
		if row == nil {
			return fmt.Errorf("no connection is listed:\n%s", out)
		}
		if page, code := m.tulle("why", row[1]); code != 0 || !strings.Contains(page, "failed") || !strings.Contains(page, "TCP ") {
			return fmt.Errorf("why %s: exit %d\n%s", row[1], code, page)
		}
		return nil
	})
	if out, code := m.tulle("why", id+"x"); code != 3 {
		m.t.Errorf("why of an unknown id: exit %d\n%s", code, out)
	}
}
