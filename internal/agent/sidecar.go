package agent

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/tulle-mesh/tulle/internal/capture"
	"github.com/tulle-mesh/tulle/internal/ir"
)

const (
	specEnv = "TULLE_SIDECAR"
	apiEnv  = "TULLE_WORKLOAD_API" // path of the application's Workload API socket; unset: none
)

// TTLEnv is the variable of a sidecar's environment that says how long its
// certificates are asked for: Istio's name, a duration; unset: the CA's default.
const TTLEnv = "SECRET_TTL"

// Command is the sidecar's command line and environment, for the binary self.
// The caller hands it the token as file descriptor 3.
func (s *Spec) Command(self string) (argv, env []string) {
	b, _ := json.Marshal(s) // plain data
	return []string{self, "proxy"}, []string{specEnv + "=" + string(b)}
}

// Spec is what a sidecar on one machine is told. Its token comes by an
// inherited file, because the environment of a process is no place for secrets.
type Spec struct {
	Node      ir.Node
	Discovery string
	RootCA    string
	// DebugKey is the SHA-256 of the debug credential, hexadecimal; "": none.
	DebugKey string
	// Shared is for several sidecars in one network without redirection, as
	// benchmarks have them: no socket mark, and these ports instead of Istio's.
	Shared bool
	Ports  Ports
}

const tokenFile = 3 // file descriptor

// Main runs the sidecar that a Spec in the environment describes, until the
// process is told to stop. It is what cmd/tulle-proxy and "tulle proxy" do; the
// latter brings rego, which is too large for the former (docs/opa.md).
func Main(rego func(*slog.Logger) Rego) error {
	var s Spec
	if err := json.Unmarshal([]byte(os.Getenv(specEnv)), &s); err != nil {
		return fmt.Errorf("a sidecar is started by tulle, with %s in its environment: %w", specEnv, err)
	}
	token, err := io.ReadAll(io.LimitReader(os.NewFile(tokenFile, "token"), 4<<10))
	if err != nil {
		return fmt.Errorf("read the workload's token: %w", err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	mark, ports := capture.Mark, DefaultPorts
	if s.Shared {
		mark, ports = 0, s.Ports
	}
	if s.Node.Type == ir.Router {
		mark = 0 // a gateway's namespace has no redirection
	}
	var ttl time.Duration
	if text := os.Getenv(TTLEnv); text != "" {
		if ttl, err = time.ParseDuration(text); err != nil || ttl <= 0 {
			return fmt.Errorf("%s: %q is no duration", TTLEnv, text)
		}
	}
	var debug [sha256.Size]byte
	if key, err := hex.DecodeString(s.DebugKey); err != nil || len(key) != 0 && copy(debug[:], key) != len(debug) {
		return fmt.Errorf("debug key %q is no SHA-256 in hexadecimal", s.DebugKey)
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	var decider Rego
	if rego != nil {
		decider = rego(log)
	}
	return Run(ctx, Options{
		Node: s.Node, Discovery: s.Discovery, RootCA: []byte(s.RootCA), Token: func() string { return string(token) }, Mark: mark,
		Ports: ports, CertificateTTL: ttl, WorkloadAPI: os.Getenv(apiEnv), SameNetwork: true, DebugKey: debug, Rego: decider, Log: log,
	})
}
