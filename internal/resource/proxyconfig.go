package resource

import (
	"maps"
	"slices"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"gopkg.in/yaml.v3"
	meshv1 "istio.io/api/mesh/v1alpha1"
)

// ProxyConfigAnnotation of a pod changes MeshConfig.defaultConfig for its own
// proxy. Its text is a ProxyConfig, as YAML or JSON.
const ProxyConfigAnnotation = "proxy.istio.io/config"

// templates is the annotation by which a pod is a gateway.
const templates = "inject.istio.io/templates"

// The fields of a ProxyConfig that are in force here, for gateways, for
// sidecars, or for both.
var (
	gatewayFields = []string{"gatewayTopology.numTrustedProxies", "gatewayTopology.forwardClientCertDetails"}
	sidecarFields = []string{"proxyHeaders.forwardedClientCert", "proxyMetadata.ISTIO_META_DNS_CAPTURE"}
	bothFields    = []string{"proxyHeaders.xForwardedHost"}
)

// checkProxyConfig checks what a workload's pods say of their proxies. A text
// that cannot be read refuses the workload, as Istio's webhook does: the pods
// were not meant to run with the mesh's defaults.
func (o *object) checkProxyConfig() {
	const base = "spec.template.metadata.annotations."
	annotations := child(child(child(child(o.node, "spec"), "template"), "metadata"), "annotations")
	text := child(annotations, ProxyConfigAnnotation)
	if text == nil {
		return
	}
	path := base + ProxyConfigAnnotation
	n := o.embedded(text, path)
	if n == nil {
		return
	}
	if o.checkMessage(n, (*meshv1.ProxyConfig)(nil).ProtoReflect().Descriptor(), path); o.bad {
		return
	}
	gateway := slices.Contains(strings.Split(scalar(annotations, templates), ","), "gateway")
	for _, field := range writtenFields(n) {
		switch at := path + "." + field; {
		case slices.Contains(bothFields, field):
		case slices.Contains(gatewayFields, field):
			if !gateway {
				o.warn(at, "has an effect at gateways only, and this pod is none", "pods with the annotation "+templates+": gateway are")
			}
		case slices.Contains(sidecarFields, field):
			if gateway {
				o.warn(at, "has no effect at a gateway")
			}
		default:
			o.warn(at, unsupportedField)
		}
	}
}

const unsupportedField = "not supported yet; this part is not in force"

// checkDefaultConfig names the fields of MeshConfig.defaultConfig that are not
// in force; compile itself refuses those that others of them depend on.
func (o *object) checkDefaultConfig(n *yaml.Node) {
	known := slices.Concat(gatewayFields, sidecarFields, bothFields, []string{"proxyHeaders.setCurrentClientCertDetails"})
	for _, field := range writtenFields(n) {
		if !slices.Contains(known, field) {
			o.warn("data.mesh.defaultConfig."+field, unsupportedField)
		}
	}
}

// writtenFields are the fields of a ProxyConfig that somebody wrote, one level
// down where some of the siblings are supported and others are not.
func writtenFields(n *yaml.Node) []string {
	var out []string
	for key, value := range written(n, (*meshv1.ProxyConfig)(nil).ProtoReflect().Descriptor()) {
		switch key {
		case "gatewayTopology", "proxyHeaders":
			md := (*meshv1.ProxyConfig)(nil).ProtoReflect().Descriptor().Fields().ByJSONName(key).Message()
			for sub := range written(value, md) {
				out = append(out, key+"."+sub)
			}
		case "proxyMetadata":
			for i := 0; i+1 < len(value.Content); i += 2 {
				out = append(out, key+"."+value.Content[i].Value)
			}
		default:
			out = append(out, key)
		}
	}
	slices.Sort(out)
	return out
}

// written maps the JSON names of the fields of n to what stands there; nulls
// say nothing.
func written(n *yaml.Node, md protoreflect.MessageDescriptor) map[string]*yaml.Node {
	out := map[string]*yaml.Node{}
	if n == nil {
		return out
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if fd := fieldNamed(md, n.Content[i].Value); fd != nil && n.Content[i+1].Tag != "!!null" {
			out[fd.JSONName()] = n.Content[i+1]
		}
	}
	return out
}

// MergeProxyConfig is base with what a pod's annotation says, merged as Istio
// merges it: a field that is written replaces the whole field, but for
// proxyMetadata, which is joined, and proxyHeaders.forwardedClientCert, which
// stays where the annotation does not say. base may be nil and is not changed.
// Unlike Istio's, it takes no field that there is not: somebody thinks that it
// is in force.
func MergeProxyConfig(base *meshv1.ProxyConfig, annotation string) (*meshv1.ProxyConfig, error) {
	var doc yaml.Node
	if err := yaml.Unmarshal([]byte(annotation), &doc); err != nil || len(doc.Content) == 0 {
		return base, err
	}
	n, err := expand(doc.Content[0], 0, ptr(maxNodes), 0)
	if err != nil {
		return nil, err
	}
	if n.Tag == "!!null" {
		return base, nil
	}
	text, err := toJSON(n)
	if err != nil {
		return nil, err
	}
	given := &meshv1.ProxyConfig{}
	if err := protojson.Unmarshal(text, given); err != nil {
		return nil, err
	}
	out := &meshv1.ProxyConfig{}
	if base != nil {
		out = proto.Clone(base).(*meshv1.ProxyConfig)
	}
	replaceFields(out.ProtoReflect(), given.ProtoReflect(), n)
	metadata := maps.Clone(base.GetProxyMetadata())
	if metadata == nil {
		metadata = map[string]string{}
	}
	maps.Copy(metadata, given.GetProxyMetadata())
	out.ProxyMetadata = metadata
	if h := out.ProxyHeaders; h != nil && h.ForwardedClientCert == meshv1.ForwardClientCertDetails_UNDEFINED {
		h.ForwardedClientCert = base.GetProxyHeaders().GetForwardedClientCert()
	}
	return out, nil
}
