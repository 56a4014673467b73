package istio

import (
	"fmt"
	"sort"
	"strings"
	"time"

	meshconfig "istio.io/api/mesh/v1alpha1"
	"istio.io/istio/pilot/pkg/config/kube/crd"
	"istio.io/istio/pilot/pkg/model"
	"istio.io/istio/pilot/pkg/networking/util"
	labelutil "istio.io/istio/pilot/pkg/serviceregistry/util/label"
	"istio.io/istio/pilot/test/xds"
	"istio.io/istio/pkg/config"
	"istio.io/istio/pkg/config/mesh"
	"istio.io/istio/pkg/test"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/tulle-mesh/tulle/internal/resource"
)

// theirs asks Istio's control plane what each proxy of the world is told.
// rejected is Istio's validation refusing the configuration; then nothing else
// is returned.
func theirs(t test.Failer, w *world) (out map[string]*envoy, rejected error) {
	configs, err := istioConfigs(w)
	if err != nil {
		return nil, err
	}
	m, err := istioMesh(w)
	if err != nil {
		return nil, err
	}
	server := xds.NewFakeDiscoveryServer(t, xds.FakeOptions{Configs: configs, KubernetesObjects: kubernetes(w.set), MeshConfig: m, DisableSecretAuthorization: true})
	out = map[string]*envoy{}
	for _, name := range w.nodes {
		i, err := w.workload(name)
		if err != nil {
			t.Fatal(err)
		}
		asked, err := proxyOf(i, m)
		if err != nil {
			return nil, err
		}
		p := server.SetupProxy(asked)
		e := &envoy{clusters: server.Clusters(p), listeners: server.Listeners(p), routes: server.Routes(p), endpoints: server.Endpoints(p)}
		out[name] = e
	}
	return out, nil
}

func proxyOf(i *resource.Workload, m *meshconfig.MeshConfig) (*model.Proxy, error) {
	p := &model.Proxy{Type: model.SidecarProxy, ID: i.Name + "." + i.Namespace, ConfigNamespace: i.Namespace, IPAddresses: []string{i.Address.String()},
		Labels: i.Labels, Locality: util.ConvertLocality(i.Locality),
		Metadata: &model.NodeMetadata{Namespace: i.Namespace, Labels: i.Labels, ServiceAccount: i.ServiceAccount, ClusterID: "Kubernetes", WorkloadName: i.Owner, IstioVersion: "1.31.0"}}
	if i.Gateway {
		p.Type = model.Router
	}
	if text := i.Annotations[resource.ProxyConfigAnnotation]; text != "" { // Istio's agent sends what comes of it
		merged, err := mesh.ApplyProxyConfig(text, m)
		if err != nil {
			return nil, err
		}
		p.Metadata.ProxyConfig = (*model.NodeMetaProxyConfig)(merged.DefaultConfig)
	}
	// What istiod adds when a proxy connects; the fake server leaves it out.
	p.Labels = labelutil.AugmentLabels(p.Labels, p.Metadata.ClusterID, i.Locality, "", "")
	return p, nil
}

// istioConfigs reads Istio's kinds with Istio's own reader and validation.
// Objects without a creation time get one in the order in which Tulle lets
// equals compete (name, then namespace): Istio's store would otherwise use the
// moment it received them.
func istioConfigs(w *world) ([]config.Config, error) {
	var out []config.Config
	for _, f := range w.files {
		var text []string
		for doc := range strings.SplitSeq("\n"+string(f.Data), "\n---") {
			if strings.Contains(doc, "istio.io/v1") {
				text = append(text, doc)
			}
		}
		configs, _, err := crd.ParseInputs(strings.Join(text, "\n---\n"))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", f.Name, err)
		}
		out = append(out, configs...)
	}
	sort.SliceStable(out, func(i, j int) bool {
		a, b := out[i], out[j]
		if a.Name != b.Name {
			return a.Name < b.Name
		}
		return a.Namespace < b.Namespace
	})
	for i := range out {
		out[i].Domain = "cluster.local" // short host names are completed with it
		if out[i].Namespace == "" {
			out[i].Namespace = "default"
		}
		if out[i].CreationTimestamp.IsZero() {
			out[i].CreationTimestamp = time.Unix(int64(i+1), 0)
		}
	}
	return out, nil
}

func istioMesh(w *world) (*meshconfig.MeshConfig, error) {
	m := mesh.DefaultMeshConfig()
	for _, c := range w.set.ConfigMaps {
		if c.Name == "istio" && c.Namespace == "istio-system" {
			return mesh.ApplyMeshConfig(c.Spec.Data["mesh"], m)
		}
	}
	return m, nil
}

// kubernetes is what the API server would hold: services, the pods behind them
// and the endpoint slices that Kubernetes would make.
func kubernetes(set *resource.Set) []runtime.Object {
	var out []runtime.Object
	for _, n := range set.Namespaces {
		out = append(out, n.Spec)
	}
	for _, s := range set.Secrets {
		c := s.Spec.DeepCopy()
		c.Namespace = s.Namespace
		out = append(out, c)
	}
	for _, i := range set.Workloads {
		out = append(out, pod(i))
	}
	for _, s := range set.Services {
		c := s.Spec.DeepCopy()
		c.Namespace = s.Namespace
		c.CreationTimestamp = metav1.Time{}
		for j := range c.Spec.Ports {
			if p := &c.Spec.Ports[j]; p.Protocol == "" {
				p.Protocol = corev1.ProtocolTCP
			}
		}
		out = append(out, c)
		for _, i := range set.Workloads {
			if slice := endpointSlice(s, i); slice != nil {
				out = append(out, slice)
			}
		}
	}
	return out
}

func pod(i *resource.Workload) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: i.Name, Namespace: i.Namespace, Labels: i.Labels, Annotations: i.Annotations}}
	p.Spec.ServiceAccountName = i.ServiceAccount
	c := corev1.Container{Name: "app"}
	for _, port := range i.Ports {
		c.Ports = append(c.Ports, corev1.ContainerPort{Name: port.Name, ContainerPort: int32(port.Port), Protocol: corev1.ProtocolTCP})
	}
	p.Spec.Containers = []corev1.Container{c}
	p.Status = corev1.PodStatus{Phase: corev1.PodRunning, PodIP: i.Address.String(), PodIPs: []corev1.PodIP{{IP: i.Address.String()}},
		Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}}
	return p
}

// endpointSlice is one instance behind a service; nil when the service does
// not select it.
func endpointSlice(s *resource.Service, i *resource.Workload) *discoveryv1.EndpointSlice {
	selector := s.Spec.Spec.Selector
	if len(selector) == 0 || s.Namespace != i.Namespace {
		return nil
	}
	for k, v := range selector {
		if i.Labels[k] != v {
			return nil
		}
	}
	ready, tcp := true, corev1.ProtocolTCP
	out := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: s.Name + "-" + i.Name, Namespace: s.Namespace, Labels: map[string]string{discoveryv1.LabelServiceName: s.Name}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Endpoints: []discoveryv1.Endpoint{{Addresses: []string{i.Address.String()}, Conditions: discoveryv1.EndpointConditions{Ready: &ready},
			TargetRef: &corev1.ObjectReference{Kind: "Pod", Name: i.Name, Namespace: i.Namespace}}},
	}
	for _, p := range s.Spec.Spec.Ports {
		if number := targetPort(p, i); number != 0 {
			out.Ports = append(out.Ports, discoveryv1.EndpointPort{Name: &p.Name, Port: &number, Protocol: &tcp})
		}
	}
	return out
}

func targetPort(p corev1.ServicePort, i *resource.Workload) int32 {
	switch {
	case p.TargetPort.Type == intstr.Int && p.TargetPort.IntVal != 0:
		return p.TargetPort.IntVal
	case p.TargetPort.StrVal == "":
		return p.Port
	}
	for _, w := range i.Ports {
		if w.Name == p.TargetPort.StrVal {
			return int32(w.Port)
		}
	}
	return 0
}
