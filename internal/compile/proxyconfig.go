package compile

import (
	meshv1 "istio.io/api/mesh/v1alpha1"

	"github.com/tulle-mesh/tulle/internal/ir"
	"github.com/tulle-mesh/tulle/internal/resource"
)

// proxyKey names an instance.
type proxyKey struct{ namespace, name string }

// indexProxies reads what workloads say of their own proxies. Replicas say the
// same: each text is read once.
func (x *Index) indexProxies() {
	x.proxies = map[proxyKey]*meshv1.ProxyConfig{}
	read := map[string]*meshv1.ProxyConfig{}
	for _, w := range x.set.Workloads {
		text := w.Annotations[resource.ProxyConfigAnnotation]
		if text == "" {
			continue
		}
		merged, ok := read[text]
		if !ok {
			var err error
			if merged, err = resource.MergeProxyConfig(x.mesh.GetDefaultConfig(), text); err != nil { // of a pod that no file described
				owner := resource.Meta{Kind: w.OwnerKind, Namespace: w.Namespace, Name: w.Owner}
				x.report(resource.Error, &owner, "spec.template.metadata.annotations."+resource.ProxyConfigAnnotation, err.Error()+"; MeshConfig.defaultConfig is in force", "")
				continue
			}
			read[text] = merged
		}
		x.proxies[proxyKey{w.Namespace, w.Name}] = merged
	}
}

// proxyConfig is MeshConfig.defaultConfig, with what the node's workload says
// instead.
func (x *Index) proxyConfig(n ir.Node) *meshv1.ProxyConfig {
	if own, ok := x.proxies[proxyKey{n.Namespace, n.Name}]; ok {
		return own
	}
	return x.mesh.GetDefaultConfig()
}
