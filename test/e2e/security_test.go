package e2e

import (
	"encoding/json"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// meantForTheNetwork are the ports that may listen beyond loopback inside the
// room, and who needs them. Everything else is for its own network namespace.
var meantForTheNetwork = map[uint16]string{
	15001: "redirected connections of the application",
	15006: "redirected connections to the application",
	15020: "metrics and health, for scrapers",
	15021: "readiness, for probes",
	15090: "metrics, for scrapers",
	15012: "the control plane: xDS and certificates, TLS and a token",
	53:    "the room's name server",
	80:    "web", 3001: "orchestrator", 8000: "worker", 1234: "collab", 6379: "redis", 5432: "postgres", 8181: "OPA", 9191: "OPA",
	8080: "gateway", 8443: "gateway",
}

// listeners looks at every listening socket of the run: on the host they are
// on loopback, in the room only what is meant for its network is not.
func listeners(m *mesh) {
	seen := map[uint16]bool{}
	for _, p := range processes(m.dir) {
		pid, _, _ := strings.Cut(p, " ")
		host := sameNetwork(pid)
		for _, at := range listening(pid) {
			ours := strings.HasSuffix(m.gateway, ":"+strconv.Itoa(int(at.Port()))) || strings.HasSuffix(m.https, ":"+strconv.Itoa(int(at.Port())))
			switch {
			case at.Addr().IsLoopback():
				seen[at.Port()] = true
			case host && ours:
				m.t.Errorf("host port %v is not on loopback", at)
			case !host && meantForTheNetwork[at.Port()] == "":
				m.t.Errorf("%s listens on %v", p, at)
			case !host:
				seen[at.Port()] = true
			}
		}
	}
	for _, port := range []uint16{15000, 15001, 15006, 15012, 15021} {
		if !seen[port] {
			m.t.Errorf("nobody listens on %d: did the test look in the right place?", port)
		}
	}
}

// sameNetwork reports whether a process has the test's own network.
func sameNetwork(pid string) bool {
	a, err := os.ReadFile("/proc/self/net/dev")
	b, err2 := os.ReadFile("/proc/" + pid + "/net/dev")
	names := func(b []byte) (out []string) {
		for _, line := range strings.Split(string(b), "\n") {
			if name, _, ok := strings.Cut(line, ":"); ok {
				out = append(out, strings.TrimSpace(name))
			}
		}
		return out
	}
	return err == nil && err2 == nil && slices.Equal(names(a), names(b)) && hasDefaultRoute(pid) == hasDefaultRoute("self") && inode("self") == inode(pid)
}

func hasDefaultRoute(pid string) bool {
	b, _ := os.ReadFile("/proc/" + pid + "/net/route")
	return strings.Contains(string(b), "\t00000000\t")
}

// inode of a process's network namespace; "" where it may not be seen.
func inode(pid string) string {
	s, _ := os.Readlink("/proc/" + pid + "/ns/net")
	return s
}

// listening reads what the kernel lists for a process's network.
func listening(pid string) (out []netip.AddrPort) {
	for name, state := range map[string]string{"tcp": "0A", "tcp6": "0A", "udp": "07", "udp6": "07"} {
		b, _ := os.ReadFile("/proc/" + pid + "/net/" + name)
		for _, line := range strings.Split(string(b), "\n") {
			f := strings.Fields(line)
			if len(f) < 4 || f[3] != state {
				continue
			}
			if at, ok := kernelAddress(f[1]); ok {
				out = append(out, at)
			}
		}
	}
	return out
}

// kernelAddress reads "0100007F:3A98": words of the host's byte order (little
// endian where these tests run), and a port.
func kernelAddress(s string) (netip.AddrPort, bool) {
	word, port, ok := strings.Cut(s, ":")
	n, err := strconv.ParseUint(port, 16, 16)
	if !ok || err != nil || len(word)%8 != 0 {
		return netip.AddrPort{}, false
	}
	var raw []byte
	for i := 0; i < len(word); i += 8 {
		w, err := strconv.ParseUint(word[i:i+8], 16, 32)
		if err != nil {
			return netip.AddrPort{}, false
		}
		raw = append(raw, byte(w), byte(w>>8), byte(w>>16), byte(w>>24))
	}
	a, ok := netip.AddrFromSlice(raw)
	return netip.AddrPortFrom(a.Unmap(), uint16(n)), ok
}

// applicationsReach is what an application that turned hostile gets at: each
// attempt runs in web's place, without capabilities as web itself.
func applicationsReach(m *mesh) {
	m.need("curl")
	state := m.state()
	for _, c := range []struct{ what, script, want string }{
		{"the run's folder", "ls " + state + " | grep -v -e build -e pods", "root-cert.pem"}, // no sockets, no credential
		{"other workloads' folders", "ls " + filepath.Join(state, "pods"), "web-0.researchflow"},
		{"uncovering them", "umount " + state + " 2>/dev/null; ls " + filepath.Join(state, "api.sock") + " 2>/dev/null || echo hidden", "hidden"},
		{"the environment of sidecars and control plane", "grep -l TULLE_SIDECAR /proc/[0-9]*/environ 2>/dev/null || echo hidden", "hidden"},
		{"the memory of pid 1", "head -c1 /proc/1/mem 2>/dev/null || ls /proc/1/root/ 2>/dev/null || echo hidden", "hidden"},
		{"capabilities", "grep CapEff /proc/self/status | cut -f2", "0000000000000000"},
		{"keys on its own admin port", "curl -s localhost:15000/config_dump localhost:15000/certs | grep -c 'PRIVATE KEY'", "0"},
		{"another sidecar's admin port", "curl -s -m 2 http://worker:15000/config_dump || echo refused", "refused"},
	} {
		out, _ := m.tulle("exec", "web", "--", "sh", "-c", c.script)
		if strings.TrimSpace(out) != c.want {
			m.t.Errorf("%s: %q, want %q", c.what, out, c.want)
		}
	}
	if out, code := m.tulle("exec", "web", "--", "curl", "-s", "-m", "2", "-k", "https://10.244.0.1:15012/"); code == 0 && out != "" {
		m.t.Errorf("the control plane's port answers HTTP: %q", out)
	}
}

// evidence: what connections proved, and why a request was refused.
func evidence(m *mesh) {
	if status, _ := m.call("viewer", "GET", "http://"+m.gateway+"/api/jobs", ""); status != http.StatusOK { // a connection to be proved
		m.t.Errorf("a viewer is answered %d", status)
	}
	out, code := m.tulle("mtls", "edges", "-o", "json")
	var edges []struct {
		From, To, Peer, Mode, TLS, PeerSerial, LocalSerial string
		Policy                                             struct{ File string }
	}
	if err := json.Unmarshal([]byte(out), &edges); err != nil {
		m.t.Fatalf("exit %d: %v\n%s", code, err, out)
	}
	found := false
	for _, e := range edges {
		if e.From == "istio-ingressgateway" && strings.HasPrefix(e.To, "orchestrator-") {
			found = e.Mode == "mutual" && e.TLS == "TLSv1.3" && e.PeerSerial != "" && e.LocalSerial != "" && strings.HasSuffix(e.Policy.File, "peer-authentication.yaml") &&
				e.Peer == "spiffe://cluster.local/ns/istio-system/sa/istio-ingressgateway-service-account"
		}
	}
	if !found {
		m.t.Errorf("no proof of the gateway's calls to the orchestrator in %s", out)
	}

	header, code := m.tulle("why", "--header")
	name, value, ok := strings.Cut(strings.TrimSpace(header), ": ")
	if !ok || code != 0 {
		m.t.Fatalf("why --header: exit %d %q", code, header)
	}
	id := m.refusedWith(name, value)
	if id == "" {
		m.t.Fatal("a refused request with the debug credential gets no decision id")
	}
	if got := m.refusedWith(name, "guessed"); got != "" {
		m.t.Errorf("a wrong credential gets %s", got)
	}
	out, code = m.tulle("why", id)
	for _, want := range []string{"orchestrator-", "/api/jobs", "ext_authz_denied", "opa-envoy-plugin", "authorization-policy.yaml:", "istio-ingressgateway-service-account",
		"its input", `"parsed_path"`, "its result"} {
		if code != 0 || !strings.Contains(out, want) {
			m.t.Errorf("why (exit %d) does not name %s:\n%s", code, want, out)
		}
	}
	if strings.Contains(out, "secret-of-mine") {
		m.t.Errorf("why shows a secret:\n%s", out)
	}
}

// refusedWith asks without a token and returns the decision's id.
func (m *mesh) refusedWith(name, value string) string {
	m.t.Helper()
	req, err := http.NewRequestWithContext(m.t.Context(), http.MethodGet, "http://"+m.gateway+"/api/jobs", nil)
	if err != nil {
		m.t.Fatal(err)
	}
	req.Header.Set(name, value)
	req.Header.Set("Cookie", "session=secret-of-mine")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		m.t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusForbidden {
		m.t.Errorf("a request without a token is answered %s", resp.Status)
	}
	return resp.Header.Get("x-tulle-decision")
}
