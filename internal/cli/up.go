package cli

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tulle-mesh/tulle/internal/resource"
	"github.com/tulle-mesh/tulle/internal/up"
)

func upCommand() *cobra.Command {
	var (
		run, ports []string
		detach     bool
		o          = up.Options{Run: map[string][]string{}, Ports: map[string]int{}}
	)
	c := &cobra.Command{
		Use:   "up PATH...",
		Short: "Run manifests as a mesh on this machine",
		Long: `Up reads Kubernetes and Istio YAML and runs it on this machine: every replica
in a network namespace of its own with a sidecar, under a control plane and a
certificate authority of its own. It needs Linux, and neither root nor
containers. Files that change are applied at once. Ctrl-C ends everything and
leaves nothing behind.

A Local object (tulle.dev/v1alpha1) beside the manifests, or --run, says which
program stands for a workload; one that nobody maps gets a stand-in that
answers with what it received.

Host ports (--port NAME=NUMBER moves one, NAME=off leaves it out):
  gateway 8080, gateway-https 8443, opa 8181, opa-grpc 9191`,
		Example: `  tulle up examples/researchflow
  tulle up k8s/base k8s/istio --run worker='python3 worker.py' --port gateway=9080
  tulle up -f manifests --detach && tulle exec web -- curl -s http://worker:8000/; tulle down`,
		Args: usage(cobra.ArbitraryArgs),
		RunE: func(c *cobra.Command, args []string) error {
			o.Paths = append(o.Paths, args...)
			if len(o.Paths) == 0 {
				return &exitError{exitUsage, "give a file or folder of manifests, for example: tulle up examples/researchflow"}
			}
			for _, r := range run {
				name, command, ok := strings.Cut(r, "=")
				argv := strings.Fields(command)
				if strings.ContainsAny(command, "'\"\\$|&;<>()*?~`") {
					argv = []string{"sh", "-c", command}
				}
				if !ok || len(argv) == 0 {
					return &exitError{exitUsage, fmt.Sprintf("--run %s: want NAME=COMMAND, for example redis=redis-server", r)}
				}
				o.Run[name] = argv
			}
			for _, p := range ports {
				name, n, err := up.ParsePort(p)
				if err != nil {
					return &exitError{exitUsage, err.Error()}
				}
				o.Ports[name] = n
			}
			if err := compatible(o.CompatibilityVersion); err != nil {
				return err
			}
			if _, err := netip.ParseAddr(o.Address); err != nil && o.Address != "localhost" {
				return &exitError{exitUsage, fmt.Sprintf("--address %s: want an IP address of this machine", o.Address)}
			}
			if detach {
				return detached(os.Args[1:])
			}
			o.Out, o.Err = c.OutOrStdout(), c.ErrOrStderr()
			code, err := up.Run(c.Context(), o)
			if err == nil && code != 0 {
				err = &exitError{code, ""}
			}
			return err
		},
	}
	f := c.Flags()
	f.StringArrayVarP(&o.Paths, "filename", "f", nil, "file or folder of manifests (may be repeated)")
	f.StringArrayVar(&run, "run", nil, "NAME=COMMAND: the program that stands for a workload; sh runs it where it has quotes or other characters of the shell's")
	f.StringArrayVarP(&ports, "port", "p", nil, "NAME=NUMBER or NAME=off: move a host port")
	f.StringVar(&o.Address, "address", "127.0.0.1", "host address to listen on")
	f.BoolVarP(&detach, "detach", "d", false, "return when the mesh is ready and leave it running")
	f.StringVar(&o.CompatibilityVersion, "compatibility-version", "", "Istio version whose default retries are in force: latest or 1.20 (default: what Local says, else latest)")
	f.StringVar(&o.CA, "ca", "", "folder of a plugged-in authority, as Istio's cacerts (ca-cert.pem, ca-key.pem, cert-chain.pem, root-cert.pem); made where it is not there (default: an authority in memory)")
	f.BoolVarP(&o.Verbose, "verbose", "v", false, "show the control plane's log")
	return c
}

func compatible(version string) error {
	if version == "" || slices.Contains(resource.CompatibilityVersions(), version) {
		return nil
	}
	return &exitError{exitUsage, fmt.Sprintf("--compatibility-version %s: want one of %s", version, strings.Join(resource.CompatibilityVersions(), ", "))}
}

// detached starts the same command again without --detach.
func detached(args []string) error {
	var rest []string
	for _, a := range args {
		if a != "--detach" && a != "-d" && !strings.HasPrefix(a, "--detach=") {
			rest = append(rest, a)
		}
	}
	code, err := up.Detach(rest, os.Stdout)
	if err != nil {
		return err
	}
	if code != 0 {
		return &exitError{code, ""}
	}
	return nil
}

func downCommand() *cobra.Command {
	var timeout time.Duration
	c := &cobra.Command{
		Use:     "down",
		Short:   "End the mesh that runs on this machine",
		Example: `  tulle down`,
		Args:    usage(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			if err := up.Down(timeout); !errors.Is(err, up.ErrNotRunning) {
				return err
			}
			fmt.Fprintln(c.OutOrStdout(), "no mesh runs here")
			return nil
		},
	}
	c.Flags().DurationVar(&timeout, "timeout", 30*time.Second, "how long to wait for the end")
	return c
}
