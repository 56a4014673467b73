package up

import (
	"log/slog"
	"slices"

	"github.com/tulle-mesh/tulle/internal/control"
	"github.com/tulle-mesh/tulle/internal/machine"
	"github.com/tulle-mesh/tulle/internal/resource"
	"github.com/tulle-mesh/tulle/internal/source"
)

// Check returns what Run would find wrong with the configuration at paths, and
// starts nothing. Where workloads are among the manifests their proxies'
// configurations are compiled too: only they show a destination that is not
// there, or a rule that is never reached.
func Check(paths []string) []resource.Problem {
	update := (&source.Files{Paths: paths, Log: slog.New(slog.DiscardHandler)}).Load()
	set, problems := machine.Planned(update.Set)
	if len(set.Workloads) > 0 && len(set.Gateways) > 0 { // without workloads it is a part: what it names may be elsewhere
		set.Workloads = append(set.Workloads, ingressGateway())
	}
	set.Secrets = withCredentials(set, func(g *resource.Gateway, name string, _ []string) *resource.Secret {
		return tlsSecret(g.Namespace, name, []byte("chain"), []byte("key")) // they are passed on, not read
	})
	return slices.Concat(update.Problems, problems, control.Check(set))
}
