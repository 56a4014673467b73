// Command memory measures what a sidecar occupies: with ResearchFlow's
// configuration, with a large one, and for each idle mutual TLS connection.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/tulle-mesh/tulle/bench/rig"
	"github.com/tulle-mesh/tulle/internal/compile"
	"github.com/tulle-mesh/tulle/internal/ir"
	"github.com/tulle-mesh/tulle/internal/resource"
)

func main() {
	conns := flag.Int("conns", 10_000, "idle connections")
	services := flag.Int("services", 1000, "services of the large mesh, with 5 endpoints each")
	manifests := flag.String("manifests", "examples/researchflow", "ResearchFlow's manifests")
	binary := flag.String("proxy", "", "tulle-proxy to measure (default: build it)")
	file := flag.String("json", "", "write the results to this file")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *binary, *manifests, *services, *conns, *file); err != nil {
		fmt.Fprintln(os.Stderr, "memory:", err)
		os.Exit(1)
	}
}

// row is one figure beside its bar, in bytes.
type row struct {
	Name string `json:"name"`
	Got  int64  `json:"bytes"`
	Bar  int64  `json:"bar"`
}

func run(ctx context.Context, binary, manifests string, services, conns int, file string) error {
	dir, err := os.MkdirTemp("", "tulle-memory")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	m := &meter{dir: dir, binary: binary}
	flow, err := researchFlow(manifests)
	if err != nil {
		return err
	}
	if err := m.configuration(ctx, "researchflow", flow, "orchestrator", 30<<20, 12<<20); err != nil {
		return err
	}
	large, err := largeMesh(services)
	if err != nil {
		return err
	}
	if err := m.configuration(ctx, fmt.Sprintf("%d services x 5 endpoints", services), large, "caller", 60<<20, 0); err != nil {
		return err
	}
	for _, resumed := range []bool{false, true} {
		if err := m.connections(ctx, conns, resumed, 16<<10); err != nil {
			return err
		}
	}
	missed := 0
	for _, r := range m.rows {
		verdict := "within"
		switch {
		case r.Bar == 0:
			verdict = "no"
		case r.Got > r.Bar:
			verdict = "OVER"
			missed++
		}
		fmt.Printf("%-52s %9.1f KB  %s bar %.0f KB\n", r.Name, float64(r.Got)/1024, verdict, float64(r.Bar)/1024)
	}
	fmt.Printf("memory: %d figures, %d over their bar\n", len(m.rows), missed)
	if file == "" {
		return nil
	}
	text, err := json.MarshalIndent(m.rows, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(text, '\n'), 0o644)
}

type meter struct {
	dir, binary string
	rows        []row
}

// configuration measures the sidecar of the workload owner once it has its
// configuration and has come to rest.
func (m *meter) configuration(ctx context.Context, name string, set *resource.Set, owner string, resident, anonymous int64) error {
	index := compile.Prepare(set)
	var node ir.Node
	for _, w := range set.Workloads {
		if w.Owner == owner {
			node = index.Node(w)
		}
	}
	if node.Name == "" {
		return fmt.Errorf("%s: no workload %s", name, owner)
	}
	control, err := rig.NewControl(ctx, m.dir, m.binary, map[string]*ir.Snapshot{node.Name: index.Snapshot(node)})
	if err != nil {
		return err
	}
	defer control.Stop()
	m.binary = control.Binary()
	sidecar, err := control.Sidecar(ctx, node, firstPort)
	if err != nil {
		return err
	}
	defer sidecar.Stop()
	rss, anon, err := settled(ctx, sidecar)
	if err != nil {
		return err
	}
	m.rows = append(m.rows, row{name + ", resident", rss, resident}, row{name + ", anonymous", anon, anonymous})
	return nil
}

const firstPort = 18520 // of debug ports

// settled reads the memory after the garbage of the start has been collected:
// a sidecar gives memory back some seconds after it has become free.
func settled(ctx context.Context, p *rig.Process) (resident, anonymous int64, err error) {
	timer := time.NewTimer(16 * time.Second)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return 0, 0, ctx.Err()
	case <-timer.C:
		return p.Memory()
	}
}
