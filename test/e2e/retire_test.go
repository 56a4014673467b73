package e2e

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/workloadapi"
)

// TestRetire ends the overlap of two roots by hand, a day before the last
// certificate of the old one ends. Whoever kept such a certificate is refused
// from then on, and the log says why.
func TestRetire(t *testing.T) {
	m := start(t)
	if out, code := m.tulle("ca", "retire"); code != 1 || !strings.Contains(out, "there is no old root to retire: the authority is stable") {
		t.Errorf("before a change: %d %s", code, out)
	}
	before := m.authority()
	m.inOrchestrator("app", "keep")
	if out := m.inOrchestrator("istio-proxy", "show"); !strings.Contains(out, "peer answers") {
		t.Errorf("a certificate of the root in force: %s", out)
	}
	if out, code := m.tulle("ca", "rotate"); code != 0 {
		t.Fatalf("tulle ca rotate: %d %s", code, out)
	}
	m.eventually(30*time.Second, func() error {
		if now := m.authority(); now.Phase != "overlapping" {
			return fmt.Errorf("the authority: %+v", now)
		}
		return nil
	})
	if out := m.inOrchestrator("istio-proxy", "show"); !strings.Contains(out, "peer answers") {
		t.Errorf("a certificate of the old root while both are trusted: %s", out)
	}
	m.retire(before.Roots[0])
	if now := m.authority(); now.Phase != "stable" || len(now.Roots) != 1 || now.Roots[0] == before.Roots[0] {
		t.Errorf("the authority: %+v", now)
	}
	m.rootFile()
	if status, body := m.call("viewer", "GET", "http://"+m.gateway+"/api/work", ""); status != 200 {
		t.Errorf("after it: %d %s", status, body)
	}
	if out := m.inOrchestrator("istio-proxy", "show"); !strings.Contains(out, "peer refuses") {
		t.Errorf("a certificate of the retired root: %s", out)
	}
	log, _ := m.tulle("logs", "-n", "researchflow", "-l", "app.kubernetes.io/component=worker", "-c", "istio-proxy")
	if !strings.Contains(log, "refused=withdrawn_authority") || !strings.Contains(log, "spiffe://cluster.local/ns/researchflow/sa/orchestrator: certificate is signed by a root that was removed from the trust bundle") {
		t.Errorf("the log does not say why: %s", log)
	}
}

// retire asks until no certificate of the old root is in use: sidecars take a
// few seconds to renew theirs.
func (m *mesh) retire(root string) {
	m.t.Helper()
	m.eventually(30*time.Second, func() error {
		out, code := m.tulle("ca", "retire", "-o", "json")
		var r struct {
			Retired    bool
			Roots      []string
			Dependents []struct{ Workload, User, Identity, Unknown string }
		}
		if err := json.Unmarshal([]byte(out), &r); err != nil || len(r.Roots) != 1 || r.Roots[0] != root {
			m.t.Fatalf("tulle ca retire: %d %v %s", code, err, out)
		}
		if r.Retired != (len(r.Dependents) == 0) || r.Retired != (code == 0) || !r.Retired && code != 3 {
			m.t.Fatalf("tulle ca retire: %d %+v", code, r)
		}
		for _, d := range r.Dependents {
			if d.Unknown == "" && !strings.HasPrefix(d.Identity, "spiffe://cluster.local/ns/") {
				m.t.Errorf("%+v", d)
			}
		}
		if !r.Retired {
			return fmt.Errorf("in use: %+v", r.Dependents)
		}
		return nil
	})
}

// inOrchestrator runs a part of TestKeptSVID in a container of orchestrator.
func (m *mesh) inOrchestrator(container, part string) string {
	m.t.Helper()
	self, err := os.Executable()
	if err != nil {
		m.t.Fatal(err)
	}
	out, code := m.tulle("exec", "orchestrator", "-c", container, "--", "sh", "-c",
		fmt.Sprintf("TULLE_KEPT_SVID=%s TULLE_KEPT_PART=%s %s -test.run '^TestKeptSVID$' -test.v", filepath.Join(m.dir, "kept.pem"), part, self))
	if code != 0 {
		m.t.Fatalf("%s: %d %s", part, code, out)
	}
	return out
}

// TestKeptSVID is what inOrchestrator runs: an application that keeps the SVID that it
// has read once, and shows it to worker past its own sidecar.
func TestKeptSVID(t *testing.T) {
	file := os.Getenv("TULLE_KEPT_SVID")
	if file == "" {
		t.Skip("runs inside a workload")
	}
	if os.Getenv("TULLE_KEPT_PART") == "keep" {
		svid, err := workloadapi.FetchX509SVID(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		chain, key, err := svid.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, append(chain, key...), 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := tls.X509KeyPair(text, text)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := tls.Dial("tcp", "worker:8000", &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"istio"}, InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err = conn.Write([]byte("GET /healthz HTTP/1.1\r\nHost: worker\r\nConnection: close\r\n\r\n")); err == nil {
		_, err = conn.Read(make([]byte, 1)) // with TLS 1.3 the refusal comes with the first read
	}
	if err != nil {
		fmt.Println("peer refuses:", err)
		return
	}
	fmt.Println("peer answers")
}
