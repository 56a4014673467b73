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

// SidecarSpec is what a sidecar on one machine is told. Its token comes by an
// inherited file, because the environment of a process is no place for secrets.
type SidecarSpec struct {
	Node      ir.Node
	Discovery string
	RootCA    string
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
	mark := capture.Mark
	if s.Node.Type == ir.Router {
		mark = 0 // a gateway's namespace has no redirection
	}
	return agent.Run(ctx, agent.Options{
		Node: s.Node, Discovery: s.Discovery, RootCA: []byte(s.RootCA), Token: func() string { return string(token) }, Mark: mark,
		Ports: agent.DefaultPorts, Log: slog.New(slog.NewTextHandler(os.Stderr, nil)),
	})
}
