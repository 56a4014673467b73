// Command researchflow is the demo application of the mesh: the services of a
// small job runner in one binary, one role per process.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
)

const usage = `usage: researchflow ROLE

roles:
  web           the page, port 80
  orchestrator  REST and GraphQL API, port 3001
  worker        runs jobs, port 8000 (admin on loopback, port 8001)
  collab        WebSocket rooms, port 1234
  redis         a small Redis, port 6379
  postgres      enough of PostgreSQL for a health check, port 5432
  load          load generator; researchflow load -h lists its flags

The port of a role is the environment variable PORT; README.md lists the others.
`

// A role runs until ctx ends or it cannot go on, and returns nil after a clean
// stop.
type role func(ctx context.Context, env environ, log *slog.Logger) error

func roleNamed(name string) role {
	switch name {
	case "web":
		return runWeb
	case "orchestrator":
		return runOrchestrator
	case "worker":
		return runWorker
	case "collab":
		return runCollab
	case "redis":
		return runRedis
	case "postgres":
		return runPostgres
	}
	return nil
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// After the first signal the default action is back: a second one kills.
	context.AfterFunc(ctx, stop)
	code := run(ctx, os.Args[1:], os.Getenv, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run is main without the process: it returns the exit status, 2 for a wrong
// command line.
func run(ctx context.Context, args []string, getenv func(string) string, stdout, stderr io.Writer) int {
	if len(args) > 0 && args[0] == "load" {
		return runLoad(ctx, args[1:], stdout, stderr)
	}
	if len(args) == 1 && (args[0] == "-h" || args[0] == "--help" || args[0] == "help") {
		fmt.Fprint(stdout, usage)
		return 0
	}
	if len(args) != 1 || roleNamed(args[0]) == nil {
		fmt.Fprint(stderr, usage)
		return 2
	}
	env := environ(getenv)
	log, err := newLogger(stdout, env, args[0])
	if err != nil {
		fmt.Fprintln(stderr, "researchflow:", err)
		return 2
	}
	if err := roleNamed(args[0])(ctx, env, log); err != nil && !errors.Is(err, context.Canceled) {
		log.Error("stopped", "error", err.Error())
		return 1
	}
	log.Info("stopped")
	return 0
}
