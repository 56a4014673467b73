package compile

import (
	"strconv"
	"strings"

	"github.com/tulle-mesh/tulle/internal/ir"
	"github.com/tulle-mesh/tulle/internal/resource"
)

// regoSource is a ConfigMap that decides for a provider in the sidecars.
type regoSource struct {
	meta *resource.Meta
	rego *ir.Rego // nil: it is broken
}

func (x *Index) indexRego() {
	x.regos = map[string][]regoSource{}
	add := func(m *resource.Meta, r *ir.Rego) {
		name := m.Annotations[resource.RegoProvider]
		x.regos[name] = append(x.regos[name], regoSource{m, r})
	}
	for i := range x.set.BrokenRego { // first: what is broken refuses
		add(&x.set.BrokenRego[i], nil)
	}
	for _, c := range x.set.ConfigMaps {
		if r := resource.RegoOf(c); r != nil {
			add(&c.Meta, r)
		}
	}
	for _, name := range sortedKeys(x.regos) {
		known := false
		for _, e := range x.mesh.ExtensionProviders {
			known = known || e.Name == name
		}
		for _, s := range x.regos[name] {
			if !known {
				x.report(resource.Error, s.meta, "metadata.annotations."+resource.RegoProvider, "MeshConfig.extensionProviders does not define "+strconv.Quote(name)+": the policy decides nothing", "")
			}
		}
	}
}

// fillRego makes a provider decide in the sidecar where a ConfigMap says so.
// Only a ConfigMap of the provider's own namespace or of the root namespace has
// a say: another team's must not decide who may come in.
func (b *builder) fillRego(step *ir.ExtAuthz, service, namespace string) (broken string) {
	host := service
	if _, after, ok := strings.Cut(host, "/"); ok {
		host = after
	}
	own := namespaceOf(fqdn(host, namespace))
	for _, s := range b.regos[step.Provider] {
		switch {
		case s.meta.Namespace != own && s.meta.Namespace != b.rootNamespace():
			b.report(resource.Error, s.meta, "metadata.namespace", "a policy for provider "+strconv.Quote(step.Provider)+" must be in its service's namespace or in "+b.rootNamespace()+"; this one decides nothing", "")
		case step.Rego != nil:
			b.report(resource.Error, s.meta, "metadata.annotations."+resource.RegoProvider, step.Rego.Name+" decides for provider "+strconv.Quote(step.Provider)+" already; this one decides nothing", "put all policy files into one ConfigMap")
		case s.rego == nil:
			return "the policy in ConfigMap " + s.meta.Namespace + "/" + s.meta.Name + " has errors"
		default:
			step.Rego = s.rego
		}
	}
	return ""
}

// namespaceOf is that of a service's full name; "" for other hosts.
func namespaceOf(host string) string {
	parts := strings.SplitN(host, ".", 4)
	if len(parts) == 4 && parts[2] == "svc" {
		return parts[1]
	}
	return ""
}
