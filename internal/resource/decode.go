package resource

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"gopkg.in/yaml.v3"
	meshv1 "istio.io/api/mesh/v1alpha1"
	networking "istio.io/api/networking/v1alpha3"
	security "istio.io/api/security/v1beta1"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	kjson "sigs.k8s.io/json"
)

// Versions of Istio's groups that are read; the schema is the same in each.
var groupVersions = map[string][]string{
	"networking.istio.io": {"v1", "v1beta1", "v1alpha3"},
	"security.istio.io":   {"v1", "v1beta1"},
	"tulle.dev":           {"v1alpha1"},
}

// refused are Istio's kinds that a mesh would have to obey and this one does
// not yet: passing over them would change what the user asked for.
var refused = []string{"EnvoyFilter", "WasmPlugin", "TrafficExtension", "Telemetry", "ProxyConfig",
	"HTTPRoute", "GRPCRoute", "TCPRoute", "TLSRoute", "GatewayClass", "IstioOperator"}

const defaultRootNamespace = "istio-system"

// decode turns the document into its typed object.
func (o *object) decode() {
	group, version, _ := strings.Cut(o.APIVersion, "/")
	if version == "" {
		group, version = "", group
	}
	if o.Namespace == "" && o.Kind != "Namespace" {
		o.Namespace = "default"
	}
	if versions, ok := groupVersions[group]; ok && !slices.Contains(versions, version) {
		o.fail("apiVersion", fmt.Sprintf("version %q of %s is not known", version, group), "known: "+strings.Join(versions, ", "))
		o.deny()
		return
	}
	gatewayAPI := strings.HasPrefix(group, "gateway.networking.k8s.io")
	if slices.Contains(refused, o.Kind) && (strings.Contains(group, "istio.io") || gatewayAPI) || gatewayAPI && o.Kind == "Gateway" {
		o.fail("kind", "kind "+o.Kind+" is not supported yet", "remove it, or run without what it asks for knowingly")
		return
	}
	s := o.p.set
	switch group + "/" + o.Kind {
	case "networking.istio.io/VirtualService":
		istio(o, &s.VirtualServices, &networking.VirtualService{}, validateVirtualService)
	case "networking.istio.io/DestinationRule":
		istio(o, &s.DestinationRules, &networking.DestinationRule{}, validateDestinationRule)
	case "networking.istio.io/Gateway":
		istio(o, &s.Gateways, &networking.Gateway{}, validateGateway)
	case "networking.istio.io/ServiceEntry":
		istio(o, &s.ServiceEntries, &networking.ServiceEntry{}, validateServiceEntry)
	case "networking.istio.io/Sidecar":
		istio(o, &s.Sidecars, &networking.Sidecar{}, validateSidecar)
	case "networking.istio.io/WorkloadEntry":
		istio(o, &s.WorkloadEntries, &networking.WorkloadEntry{}, validateWorkloadEntry)
	case "networking.istio.io/WorkloadGroup":
		istio(o, &s.WorkloadGroups, &networking.WorkloadGroup{}, validateWorkloadGroup)
	case "security.istio.io/PeerAuthentication":
		istio(o, &s.PeerAuthentications, &security.PeerAuthentication{}, validatePeerAuthentication)
	case "security.istio.io/AuthorizationPolicy":
		istio(o, &s.AuthorizationPolicies, &security.AuthorizationPolicy{}, validateAuthorizationPolicy)
	case "security.istio.io/RequestAuthentication":
		istio(o, &s.RequestAuths, &security.RequestAuthentication{}, validateRequestAuthentication)
	case "/Namespace":
		kubernetes(o, &s.Namespaces, &corev1.Namespace{})
	case "/Service":
		kubernetes(o, &s.Services, &corev1.Service{})
	case "/ServiceAccount":
		kubernetes(o, &s.ServiceAccounts, &corev1.ServiceAccount{})
	case "/ConfigMap":
		kubernetes(o, &s.ConfigMaps, &corev1.ConfigMap{})
		o.meshConfig()
		o.checkRego(&s.ConfigMaps)
	case "/Secret":
		kubernetes(o, &s.Secrets, &corev1.Secret{})
	case "apps/Deployment":
		o.checkProxyConfig()
		kubernetes(o, &s.Deployments, &appsv1.Deployment{})
	case "apps/StatefulSet":
		o.checkProxyConfig()
		kubernetes(o, &s.StatefulSets, &appsv1.StatefulSet{})
	case "batch/Job":
		o.checkProxyConfig()
		kubernetes(o, &s.Jobs, &batchv1.Job{})
	case "tulle.dev/Local":
		o.local()
	default:
		if strings.HasSuffix(group, "istio.io") || group == "tulle.dev" {
			o.fail("kind", "kind "+o.Kind+" is not known in "+group)
			o.deny()
			return
		}
		if o.Kind != "Kustomization" {
			s.PassedOver = append(s.PassedOver, o.Meta)
		}
	}
}

// istio decodes an Istio kind strictly and validates it.
func istio[S proto.Message](o *object, list *[]*Object[S], spec S, validate func(*object, S)) {
	defer func() {
		if o.bad {
			o.deny()
		}
	}()
	for i := 0; i+1 < len(o.node.Content); i += 2 {
		if key := o.node.Content[i].Value; !slices.Contains([]string{"apiVersion", "kind", "metadata", "spec", "status"}, key) {
			o.fail(key, "unknown field", didYouMean(key, []string{"metadata", "spec"}))
		}
	}
	if n := child(o.node, "spec"); n != nil && n.Tag != "!!null" {
		o.checkMessage(n, spec.ProtoReflect().Descriptor(), "spec")
		if o.bad {
			return
		}
		b, err := toJSON(n)
		if err == nil {
			err = protojson.Unmarshal(b, spec)
		}
		if err != nil {
			o.fail("spec", err.Error())
			return
		}
	}
	if validate != nil {
		validate(o, spec)
	}
	if !o.bad && o.unique() {
		*list = append(*list, &Object[S]{Meta: o.Meta, Spec: spec})
	}
}

// deny marks what an unusable security object would have protected.
func (o *object) deny() {
	if o.Kind != "AuthorizationPolicy" && o.Kind != "PeerAuthentication" && o.Kind != "RequestAuthentication" {
		return
	}
	if dry, _ := strconv.ParseBool(o.Annotations["istio.io/dry-run"]); dry && o.Kind == "AuthorizationPolicy" {
		return // it would not have been in force
	}
	d := Denied{Meta: o.Meta, Reason: "the object has errors"}
	if d.Namespace == "" {
		d.Namespace = "default"
	}
	if labels := child(child(child(o.node, "spec"), "selector"), "matchLabels"); labels != nil && labels.Kind == yaml.MappingNode {
		d.MatchLabels = map[string]string{}
		for i := 0; i+1 < len(labels.Content); i += 2 {
			// A label that is itself the fault selects nothing: without it the mark is wider.
			if k, v := labels.Content[i], labels.Content[i+1]; v.Kind == yaml.ScalarNode && v.Tag != "!!null" && !strings.Contains(k.Value+v.Value, "*") {
				d.MatchLabels[k.Value] = v.Value
			}
		}
	}
	o.p.set.Denied = append(o.p.set.Denied, d)
}

// kubernetes decodes a Kubernetes kind. Fields we do not know are a warning:
// the API server is their judge, and we look at a part of them only.
func kubernetes[S any](o *object, list *[]*Object[S], spec S) {
	b, err := toJSON(o.node)
	if err != nil {
		o.fail("", err.Error())
		return
	}
	strict, err := kjson.UnmarshalStrict(b, spec)
	if err != nil {
		o.fail("", strings.TrimPrefix(err.Error(), "json: "))
		return
	}
	for _, e := range strict {
		path := ""
		if f, ok := e.(kjson.FieldError); ok {
			path = f.FieldPath()
		}
		o.warn(path, e.Error())
	}
	if !o.bad && o.unique() {
		*list = append(*list, &Object[S]{Meta: o.Meta, Spec: spec})
	}
}

// meshConfig reads MeshConfig from the ConfigMap that Istio reads it from.
func (o *object) meshConfig() {
	if o.bad || o.Name != "istio" {
		return
	}
	text := child(child(o.node, "data"), "mesh")
	if text == nil {
		return
	}
	n, mesh := o.embedded(text, "data.mesh"), DefaultMesh()
	if n != nil {
		o.checkMessage(n, mesh.ProtoReflect().Descriptor(), "data.mesh")
	}
	if o.bad {
		return
	}
	if n != nil {
		o.checkDefaultConfig(written(n, mesh.ProtoReflect().Descriptor())["defaultConfig"])
		b, err := toJSON(n)
		given := &meshv1.MeshConfig{}
		if err == nil {
			err = protojson.Unmarshal(b, given)
		}
		if err != nil {
			o.fail("data.mesh", err.Error())
			return
		}
		replaceFields(mesh.ProtoReflect(), given.ProtoReflect(), n)
	}
	if mesh.RootNamespace == "" {
		mesh.RootNamespace = defaultRootNamespace
	}
	if o.Namespace != defaultRootNamespace {
		o.warn("metadata.namespace", "the ConfigMap istio is read from "+defaultRootNamespace+" only")
		return
	}
	o.p.set.Mesh, o.p.set.MeshFrom = mesh, o.Meta
}

// embedded reads the YAML that a string holds, so that problems name lines of
// the file; nil where there is none, or it is no YAML, which is reported.
func (o *object) embedded(text *yaml.Node, path string) *yaml.Node {
	var doc yaml.Node
	if err := yaml.Unmarshal([]byte(text.Value), &doc); err != nil {
		o.fail(path, strings.TrimPrefix(err.Error(), "yaml: "))
		return nil
	}
	if len(doc.Content) == 0 {
		return nil
	}
	before := text.Line - 1
	if text.Style&(yaml.LiteralStyle|yaml.FoldedStyle) != 0 {
		before++ // the text begins on the line after "|"
	}
	n, err := expand(doc.Content[0], 0, ptr(maxNodes), before)
	if err != nil {
		o.fail(path, err.Error())
		return nil
	}
	lines := maps.Clone(o.Pos.lines)
	if lines == nil {
		lines = map[string]int{}
	}
	positions(n, path, lines)
	o.Pos = o.p.positions(o.Pos.File, lines)
	return n
}

// replaceFields sets the fields of mesh that n names to what given has. A merge
// of messages would lose zeros (REGISTRY_ONLY is one) and add up durations.
func replaceFields(mesh, given protoreflect.Message, n *yaml.Node) {
	for key := range written(n, mesh.Descriptor()) {
		fd := fieldNamed(mesh.Descriptor(), key)
		mesh.Clear(fd)
		if given.Has(fd) {
			mesh.Set(fd, given.Get(fd))
		}
	}
}

func ptr[T any](v T) *T { return &v }

// local decodes tulle.dev/v1alpha1 Local.
func (o *object) local() {
	l := &Local{Meta: o.Meta}
	if n := child(o.node, "spec"); n != nil {
		b, err := toJSON(n)
		if err != nil {
			o.fail("spec", err.Error())
			return
		}
		strict, err := kjson.UnmarshalStrict(b, &l.Spec)
		if err != nil {
			o.fail("spec", strings.TrimPrefix(err.Error(), "json: "))
			return
		}
		for _, e := range strict {
			path := "spec"
			if f, ok := e.(kjson.FieldError); ok {
				path = "spec." + f.FieldPath()
			}
			o.fail(path, "unknown field")
		}
	}
	for name, w := range l.Spec.Workloads {
		if (len(w.Command) > 0) == (w.Builtin != "") {
			o.fail("spec.workloads."+name, "exactly one of command and builtin is needed")
		}
		if w.Builtin != "" && w.Builtin != "standin" && w.Builtin != "opa" {
			o.fail("spec.workloads."+name+".builtin", fmt.Sprintf("%q is not built in", w.Builtin), "standin and opa are")
		}
	}
	if v := l.Spec.CompatibilityVersion; v != "" && !slices.Contains(CompatibilityVersions(), v) {
		o.fail("spec.compatibilityVersion", fmt.Sprintf("%q is not one of %s", v, strings.Join(CompatibilityVersions(), ", ")))
	}
	if !o.bad && o.unique() {
		o.p.set.Local = append(o.p.set.Local, l)
	}
}
