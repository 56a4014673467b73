package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"

	"github.com/tulle-mesh/tulle/internal/ca"
)

// TestRotation runs ResearchFlow under load with certificates that live for ten
// seconds, and changes the mesh's root meanwhile: no request fails. It takes
// about half a minute; TULLE_ROTATION makes it longer (make rotation).
func TestRotation(t *testing.T) {
	d := 20 * time.Second
	if text := os.Getenv("TULLE_ROTATION"); text != "" {
		var err error
		if d, err = time.ParseDuration(text); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("SECRET_TTL", "10s")
	m := start(t)
	before := m.authority()
	stop := m.load()
	began := time.Now()
	pause := time.NewTimer(d / 4)
	defer pause.Stop()
	<-pause.C
	if out, code := m.tulle("ca", "rotate"); code != 0 {
		t.Fatalf("tulle ca rotate: %d %s", code, out)
	}
	// Old certificates end within ten seconds; then the old root is gone.
	m.eventually(d+30*time.Second, func() error {
		if now := m.authority(); now.Phase != "stable" || len(now.Roots) != 1 || now.Roots[0] == before.Roots[0] {
			return fmt.Errorf("the authority: %+v", now)
		}
		return nil
	})
	rest := time.NewTimer(d - time.Since(began))
	defer rest.Stop()
	<-rest.C
	good, bad := stop()
	if len(bad) > 0 {
		t.Errorf("%d requests failed, %d did not; the first: %s", len(bad), good, bad[0])
	}
	if good < int64(d/time.Second) {
		t.Errorf("only %d requests in %s", good, d)
	}
	t.Logf("%d requests", good)
	m.rootFile()
}

// TestPluggedIn brings the mesh up with an authority of its own folder, which
// tulle up makes; other files in it are another root. Applications find their
// Workload API.
func TestPluggedIn(t *testing.T) {
	t.Setenv("SECRET_TTL", "10s")
	dir := filepath.Join(t.TempDir(), "cacerts")
	m := start(t, "--ca", dir)
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("%s: %v %v", dir, info, err)
	}
	before := m.authority()
	if out, code := m.tulle("ca", "rotate"); code == 0 || !strings.Contains(out, "put the new one's files into "+dir) {
		t.Errorf("tulle ca rotate: %d %s", code, out)
	}
	m.workloadAPI()
	next, err := ca.NewIssuer("cluster.local")
	if err != nil {
		t.Fatal(err)
	}
	if err := next.Save(dir); err != nil {
		t.Fatal(err)
	}
	m.eventually(time.Minute, func() error {
		if now := m.authority(); now.Phase != "stable" || len(now.Roots) != 1 || now.Roots[0] == before.Roots[0] {
			return fmt.Errorf("the authority: %+v", now)
		}
		return nil
	})
	m.rootFile()
	if status, body := m.call("viewer", "GET", "http://"+m.gateway+"/api/work", ""); status != 200 {
		t.Errorf("after the change: %d %s", status, body)
	}
}

// TestFetchSVID is what workloadAPI runs in a workload's place.
func TestFetchSVID(t *testing.T) {
	if os.Getenv("TULLE_FETCH_SVID") == "" {
		t.Skip("runs inside a workload")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	svid, err := workloadapi.FetchX509SVID(ctx)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Println("SVID of", svid.ID)
	token, err := workloadapi.FetchJWTSVID(ctx, jwtsvid.Params{Audience: "orchestrator"})
	if err != nil {
		t.Fatal(err)
	}
	if token, err = workloadapi.ValidateJWTSVID(ctx, token.Marshal(), "orchestrator"); err != nil {
		t.Fatal(err)
	}
	fmt.Println("JWT-SVID of", token.ID)
}

// workloadAPI: an application gets its own identity, and from another
// workload's socket nothing.
func (m *mesh) workloadAPI() {
	m.t.Helper()
	self, err := os.Executable()
	if err != nil {
		m.t.Fatal(err)
	}
	fetch := fmt.Sprintf("TULLE_FETCH_SVID=1 %s -test.run '^TestFetchSVID$' -test.v", self)
	out, code := m.tulle("exec", "worker", "--", "sh", "-c", "echo at $SPIFFE_ENDPOINT_SOCKET; "+fetch)
	socket := regexp.MustCompile(`(?m)^at (unix://.+)$`).FindStringSubmatch(out)
	if code != 0 || socket == nil || !strings.Contains(out, "\nSVID of spiffe://cluster.local/ns/researchflow/sa/worker") || !strings.Contains(out, "JWT-SVID of spiffe://cluster.local/ns/researchflow/sa/worker") {
		m.t.Fatalf("worker's own SVIDs: %d %s", code, out)
	}
	out, code = m.tulle("exec", "orchestrator", "--", "sh", "-c", "SPIFFE_ENDPOINT_SOCKET="+socket[1]+" "+fetch)
	if code == 0 || strings.Contains(out, "SVID of") {
		m.t.Errorf("worker's SVID for orchestrator: %d %s", code, out)
	}
}

// authority is what "tulle ca" says.
func (m *mesh) authority() (s struct {
	Phase string
	Roots []string
}) {
	m.t.Helper()
	out, code := m.tulle("ca", "-o", "json")
	if code != 0 {
		m.t.Fatalf("tulle ca: %d %s", code, out)
	}
	if err := json.Unmarshal([]byte(out), &s); err != nil {
		m.t.Fatalf("tulle ca: %v in %s", err, out)
	}
	return s
}

// rootFile: the root that the run's folder shows is the one in force, and its
// owner's only.
func (m *mesh) rootFile() {
	m.t.Helper()
	root := filepath.Join(m.state(), "root-cert.pem")
	if info, err := os.Stat(root); err != nil || info.Mode().Perm() != 0o600 {
		m.t.Errorf("root-cert.pem: %v %v", info, err)
	}
	text, err := os.ReadFile(root)
	if n := strings.Count(string(text), "BEGIN CERTIFICATE"); err != nil || n != 1 {
		m.t.Errorf("root-cert.pem: %d roots, %v", n, err)
	}
}
