package up

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/tulle-mesh/tulle/internal/agent"
	"github.com/tulle-mesh/tulle/internal/capture"
	"github.com/tulle-mesh/tulle/internal/ir"
)

const sidecarEnv = "TULLE_SIDECAR"

// Command is the sidecar's command line and environment, for the binary self.
// The caller hands it the token as file descriptor 3.
func (s *SidecarSpec) Command(self string) (argv, env []string) {
	b, _ := json.Marshal(s) // plain data
	return []string{self, "proxy"}, []string{sidecarEnv + "=" + string(b)}
}

// SidecarSpec is what a sidecar on one machine is told. Its token comes by an
// inherited file, because the environment of a process is no place for secrets.
type SidecarSpec struct {
	Node      ir.Node
	Discovery string
	RootCA    string
	// Shared is for several sidecars in one network without redirection, as
	// benchmarks have them: no socket mark, and these ports instead of Istio's.
	Shared bool
	Ports  agent.Ports
}

const tokenFile = 3 // file descriptor

// Sidecar runs one workload's proxy until it is told to stop.
func Sidecar() error {
	var s SidecarSpec
	if err := json.Unmarshal([]byte(os.Getenv(sidecarEnv)), &s); err != nil {
		return fmt.Errorf("this command is for tulle's own use: %w", err)
	}
	token, err := io.ReadAll(io.LimitReader(os.NewFile(tokenFile, "token"), 4<<10))
	if err != nil {
		return fmt.Errorf("read the workload's token: %w", err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	mark, ports := capture.Mark, agent.DefaultPorts
	if s.Shared {
		mark, ports = 0, s.Ports
	}
	if s.Node.Type == ir.Router {
		mark = 0 // a gateway's namespace has no redirection
	}
	return agent.Run(ctx, agent.Options{
		Node: s.Node, Discovery: s.Discovery, RootCA: []byte(s.RootCA), Token: func() string { return string(token) }, Mark: mark,
		Ports: ports, Log: slog.New(slog.NewTextHandler(os.Stderr, nil)),
	})
}
