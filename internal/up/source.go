package up

import (
	"context"
	"fmt"
	"sync"

	corev1 "k8s.io/api/core/v1"

	"github.com/tulle-mesh/tulle/internal/resource"
	"github.com/tulle-mesh/tulle/internal/source"
)

// roomSource is what the control plane sees of this machine: the files'
// objects, addresses for services, certificates for gateways that lack one,
// and the workloads that run. It keeps the machine in step with the files.
type roomSource struct {
	files   *source.Files
	room    *room
	changed chan struct{} // workloads are not what was last emitted
	applied chan struct{} // closed after the first Apply
	done    chan struct{} // closed by stop: nothing is started any more
	idle    sync.Mutex    // held while the machine is being changed
	secrets map[string]*resource.Secret
	signer  string // whoever signed them
}

func newRoomSource(f *source.Files, r *room) *roomSource {
	return &roomSource{files: f, room: r, changed: make(chan struct{}, 1), applied: make(chan struct{}), done: make(chan struct{}), secrets: map[string]*resource.Secret{}}
}

// Name implements source.Source.
func (s *roomSource) Name() string { return s.files.Name() }

// poke says that workloads have changed.
func (s *roomSource) poke() {
	select {
	case s.changed <- struct{}{}:
	default: // one is waiting already
	}
}

// stop returns when the machine is not being changed and will not be.
func (s *roomSource) stop() {
	close(s.done)
	s.idle.Lock()
	defer s.idle.Unlock()
}

// Run implements source.Source.
func (s *roomSource) Run(ctx context.Context, emit func(source.Update)) error {
	updates := make(chan source.Update)
	failed := make(chan error, 1)
	go func() {
		failed <- s.files.Run(ctx, func(u source.Update) {
			select {
			case updates <- u:
			case <-ctx.Done():
			}
		})
	}()
	var now *source.Update
	var read *resource.Set // now's, as the files say
	var first sync.Once
	for {
		select {
		case <-ctx.Done():
			return <-failed
		case err := <-failed:
			return err
		case u := <-updates:
			read, u.Set = u.Set, s.complete(u.Set)
			u.Problems = append(u.Problems, s.apply(ctx, u.Set)...)
			now = &u
			first.Do(func() { close(s.applied) })
		case <-s.changed:
		}
		if now == nil {
			continue
		}
		if s.signer != s.room.authority.Status().Issuer { // the root has changed
			now.Set = s.complete(read)
		}
		out := *now.Set
		out.Roots = s.room.authority.Roots()
		out.Workloads = append(out.Workloads[:len(out.Workloads):len(out.Workloads)], s.room.machine.Workloads()...)
		emit(source.Update{Set: &out, Problems: now.Problems})
	}
}

func (s *roomSource) apply(ctx context.Context, set *resource.Set) []resource.Problem {
	s.idle.Lock()
	defer s.idle.Unlock()
	select {
	case <-s.done:
		return nil
	default:
		return s.room.machine.Apply(ctx, set)
	}
}

// complete adds what a cluster would have: addresses of services, and a
// certificate for every gateway server that names a Secret which is not there.
func (s *roomSource) complete(set *resource.Set) *resource.Set {
	set = s.room.machine.AssignAddresses(set)
	if signer := s.room.authority.Status().Issuer; signer != s.signer {
		s.secrets, s.signer = map[string]*resource.Secret{}, signer
	}
	set.Secrets = withCredentials(set, func(g *resource.Gateway, name string, hosts []string) *resource.Secret {
		secret, err := s.credential(g, name, hosts)
		if err != nil {
			s.room.log.Error("gateway certificate", "secret", name, "err", err)
		}
		return secret
	})
	return set
}

// withCredentials are the set's Secrets and one that issue makes for every
// gateway server whose credential is none of them; nil: it cannot.
func withCredentials(set *resource.Set, issue func(g *resource.Gateway, name string, hosts []string) *resource.Secret) []*resource.Secret {
	out, have := set.Secrets[:len(set.Secrets):len(set.Secrets)], map[string]bool{}
	for _, x := range out {
		have[x.Namespace+"/"+x.Name] = true
	}
	for _, g := range set.Gateways {
		for _, server := range g.Spec.Servers {
			name := server.GetTls().GetCredentialName()
			if name == "" || have[g.Namespace+"/"+name] || have[gatewayNamespace+"/"+name] {
				continue
			}
			if secret := issue(g, name, server.Hosts); secret != nil {
				have[g.Namespace+"/"+name] = true
				out = append(out, secret)
			}
		}
	}
	return out
}

// credential makes a Secret with a certificate of the mesh's own authority,
// once per name.
func (s *roomSource) credential(g *resource.Gateway, name string, hosts []string) (*resource.Secret, error) {
	key := g.Namespace + "/" + name
	if x := s.secrets[key]; x != nil {
		return x, nil
	}
	names := []string{"localhost"}
	for _, h := range hosts {
		if h != "*" {
			names = append(names, h)
		}
	}
	chain, private, err := s.room.authority.ServerPEM(names...)
	if err != nil {
		return nil, fmt.Errorf("certificate for %v: %w", names, err)
	}
	x := tlsSecret(g.Namespace, name, chain, private)
	s.secrets[key] = x
	s.room.printer.step("no Secret %s in the manifests: a certificate of this mesh's own authority stands in for it", name)
	return x, nil
}

func tlsSecret(namespace, name string, chain, private []byte) *resource.Secret {
	x := &resource.Secret{Meta: resource.Meta{Kind: "Secret", APIVersion: "v1", Namespace: namespace, Name: name}}
	x.Spec = &corev1.Secret{Type: corev1.SecretTypeTLS, Data: map[string][]byte{"tls.crt": chain, "tls.key": private}}
	return x
}

// newProblems returns what now says and before did not.
func newProblems(before map[string]bool, now []resource.Problem) (fresh []resource.Problem, all map[string]bool) {
	all = map[string]bool{}
	for _, p := range now {
		key := p.String()
		if !before[key] && !all[key] {
			fresh = append(fresh, p)
		}
		all[key] = true
	}
	return fresh, all
}
