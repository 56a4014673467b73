// Package up is `tulle up`: the whole mesh on one machine. The outer process
// (Run) prepares what belongs to the machine: builds, host ports, the folder
// of this run. The inner one (Room) lives in namespaces of its own and holds
// control plane, certificate authority, workloads and their sidecars. Other
// commands reach it through a socket in the run's folder (Client).
package up

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/tulle-mesh/tulle/internal/machine"
	"github.com/tulle-mesh/tulle/internal/resource"
	"github.com/tulle-mesh/tulle/internal/source"
)

// Options of Run.
type Options struct {
	Paths   []string            // files and folders of YAML
	Run     map[string][]string // workload or component → command; wins over Local objects
	Address string              // host address to listen on, default 127.0.0.1
	Ports   map[string]int      // by name (see Ports), moved from their defaults; 0 turns one off
	Verbose bool                // the control plane's log on standard error too
	// CompatibilityVersion is the Istio whose defaults are meant ("latest",
	// "1.20"); "" leaves it to Local objects.
	CompatibilityVersion string
	// CA is a folder with a plugged-in authority (Istio's cacerts); one that is
	// not there is made with a new authority in it. "": an authority in memory.
	CA  string
	Out io.Writer
	Err io.Writer
}

// spec is what the inner process is told.
type spec struct {
	Paths       []string
	Run         map[string][]string
	Dir         string // the run's folder
	BuildDir    string
	Self        string
	TrustDomain string
	Started     time.Time
	Listeners   []hostPort // in the order of the inherited files, after the lock
	Tokens      []token
	Try         []resource.LocalTry
	Verbose     bool

	CompatibilityVersion string
	CA                   string
}

// Run brings the mesh up and returns when it has ended, with the exit code; the
// end of ctx stops it.
func Run(ctx context.Context, o Options) (int, error) {
	started := time.Now()
	dir, lock, err := lockState()
	if err != nil {
		return 1, err
	}
	defer removeState(dir, lock)
	step := func(format string, args ...any) { fmt.Fprintf(o.Out, "• "+format+"\n", args...) }

	step("reading %s", strings.Join(o.Paths, " "))
	files := &source.Files{Paths: o.Paths, Log: slog.New(slog.DiscardHandler)}
	update := files.Load()
	set := update.Set
	if len(set.Deployments)+len(set.StatefulSets)+len(set.Jobs) == 0 {
		for _, p := range update.Problems {
			fmt.Fprintln(o.Err, p)
		}
		return 1, fmt.Errorf("no Deployment, StatefulSet or Job in %s: nothing to run", strings.Join(o.Paths, " "))
	}
	s := &spec{Paths: o.Paths, Run: o.Run, Dir: dir, BuildDir: filepath.Join(dir, "build"), Started: started, TrustDomain: set.Mesh.GetTrustDomain(), Verbose: o.Verbose, CompatibilityVersion: o.CompatibilityVersion}
	if s.TrustDomain == "" {
		s.TrustDomain = "cluster.local"
	}
	if s.CA, err = prepareCA(o.CA, s.TrustDomain); err != nil {
		return 1, err
	}
	if s.Self, err = os.Executable(); err != nil {
		return 1, err
	}
	for name := range o.Run {
		if !known(set, name) {
			return 1, fmt.Errorf("--run %s: no Deployment, StatefulSet, Job or component of that name in %s", name, strings.Join(o.Paths, " "))
		}
	}
	ports, listeners, err := listen(set, o)
	if err != nil {
		return 1, err
	}
	s.Listeners = ports
	if err := build(ctx, set, s, step); err != nil {
		return 1, err
	}
	if s.Tokens, err = mint(set); err != nil {
		return 1, err
	}
	for _, l := range set.Local {
		s.Try = append(s.Try, l.Spec.Try...)
	}
	code, err := machine.Enter(ctx, s, append([]*os.File{lock}, listeners...))
	if signal := syscall.Signal(code - 128); code > 128 && ctx.Err() == nil {
		fmt.Fprintf(o.Err, "tulle: the control plane was ended by a signal (%s), and the mesh with it\n", signal)
	}
	return code, err
}

func known(set *resource.Set, name string) bool {
	match := func(m *resource.Meta, labels map[string]string) bool {
		return m.Name == name || labels["app.kubernetes.io/component"] == name
	}
	for _, d := range set.Deployments {
		if match(&d.Meta, d.Spec.Spec.Template.Labels) {
			return true
		}
	}
	for _, d := range set.StatefulSets {
		if match(&d.Meta, d.Spec.Spec.Template.Labels) {
			return true
		}
	}
	for _, d := range set.Jobs {
		if match(&d.Meta, d.Spec.Spec.Template.Labels) {
			return true
		}
	}
	return false
}

// build runs what Local objects want built, on the machine itself.
func build(ctx context.Context, set *resource.Set, s *spec, step func(string, ...any)) error {
	for _, l := range set.Local {
		for _, c := range l.Spec.Build {
			if len(c.Command) == 0 {
				continue
			}
			if err := os.MkdirAll(s.BuildDir, 0o700); err != nil {
				return err
			}
			argv := make([]string, len(c.Command))
			for i, a := range c.Command {
				argv[i] = strings.ReplaceAll(a, "$(BUILD)", s.BuildDir)
			}
			step("building: %s", strings.Join(c.Command, " "))
			cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
			cmd.Dir = filepath.Join(filepath.Dir(l.Pos.File), c.Dir)
			cmd.Env = os.Environ()
			for k, v := range c.Env {
				cmd.Env = append(cmd.Env, k+"="+v)
			}
			if out, err := cmd.CombinedOutput(); err != nil {
				return fmt.Errorf("%s: build %q: %w\n%s", l.At("spec.build").Place(), strings.Join(c.Command, " "), err, out)
			}
		}
	}
	return nil
}
