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
