package machine

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/tulle-mesh/tulle/internal/resource"
)

// podSpec is one replica to run. Two equal specs need no restart.
type podSpec struct {
	from                              *resource.Meta // its Deployment, StatefulSet or Job
	Name, Namespace, Owner, OwnerKind string
	Labels, Annotations               map[string]string
	ServiceAccount                    string
	Ports                             []resource.WorkloadPort
	UDPPorts                          []resource.WorkloadPort // of which only service addresses know
	Argv                              []string
	Dir                               string
	Env                               []string // NAME=value, in order
	Volumes                           map[string]volume
	Ready, Live, Startup              *corev1.Probe
	Sidecar                           bool
	Gateway                           bool // a proxy without application and redirection
	Once                              bool // a Job: not restarted after success
	Grace                             int64
}

// volume is a folder with files, from a ConfigMap or Secret; Files nil: empty.
type volume struct {
	MountPath string
	Files     map[string]string
}

func (s *podSpec) hash() string {
	c := *s
	c.Volumes = map[string]volume{} // content is updated live; only the places count
	for k, v := range s.Volumes {
		c.Volumes[k] = volume{MountPath: v.MountPath}
	}
	b, _ := json.Marshal(c) // plain data
	return string(b)
}

// key is what no other replica has: its name is free in every namespace.
func (s *podSpec) key() string { return s.Name + "." + s.Namespace }

func (s *podSpec) naming() resource.Naming {
	return resource.Naming{Name: s.Name, Namespace: s.Namespace, Owner: s.Owner, Labels: s.Labels}
}

// workload is the replica as the mesh sees it.
func (s *podSpec) workload(addr netip.Addr, ready bool) *resource.Workload {
	return &resource.Workload{Name: s.Name, Namespace: s.Namespace, Owner: s.Owner, OwnerKind: s.OwnerKind, Labels: s.Labels, Annotations: s.Annotations,
		ServiceAccount: s.ServiceAccount, Address: addr, Ports: s.Ports, Ready: ready, Sidecar: s.Sidecar, Gateway: s.Gateway, ClusterID: "Kubernetes", Locality: resource.PodLocality(s.Labels)}
}

// PlanOptions say how workloads become processes.
type PlanOptions struct {
	// Run maps a workload (Deployment, StatefulSet or Job) to a command; it
	// wins over Local objects.
	Run map[string][]string
	// Self is this binary, for what is built in.
	Self string
	// BuildDir is $(BUILD).
	BuildDir string
}

// plan lists the replicas that a set asks for.
func plan(set *resource.Set, o PlanOptions) ([]*podSpec, []resource.Problem) {
	p := &planner{set: set, opts: o}
	for _, d := range set.Deployments {
		n := 1
		if d.Spec.Spec.Replicas != nil {
			n = int(*d.Spec.Spec.Replicas)
		}
		p.workload(&d.Meta, &d.Spec.Spec.Template, n, false)
	}
	for _, s := range set.StatefulSets {
		n := 1
		if s.Spec.Spec.Replicas != nil {
			n = int(*s.Spec.Spec.Replicas)
		}
		p.workload(&s.Meta, &s.Spec.Spec.Template, n, false)
	}
	for _, j := range set.Jobs {
		p.workload(&j.Meta, &j.Spec.Spec.Template, 1, true)
	}
	p.outside()
	return p.pods, p.problems
}

type planner struct {
	set      *resource.Set
	opts     PlanOptions
	pods     []*podSpec
	problems []resource.Problem
}

func (p *planner) warn(m *resource.Meta, path, reason, hint string) {
	p.problems = append(p.problems, resource.Problem{Severity: resource.Warning, Origin: m.At(path), Path: path, Reason: reason, Hint: hint})
}

// maxReplicas keeps a slip in a manifest from filling the machine.
const maxReplicas = 50

func (p *planner) workload(m *resource.Meta, t *corev1.PodTemplateSpec, n int, once bool) {
	const base = "spec.template.spec"
	if len(t.Spec.Containers) == 0 {
		p.warn(m, base+".containers", "no container: nothing runs", "")
		return
	}
	if n > maxReplicas {
		p.warn(m, "spec.replicas", fmt.Sprintf("%d replicas are too many for one machine; %d run", n, maxReplicas), "")
		n = maxReplicas
	}
	for i := range t.Spec.InitContainers {
		p.warn(m, fmt.Sprintf("%s.initContainers[%d]", base, i), "init containers are not run on one machine", "")
	}
	if len(t.Spec.Containers) > 1 {
		p.warn(m, base+".containers[1]", "only the first container runs on one machine", "")
	}
	c := &t.Spec.Containers[0]
	for i := range n {
		s := &podSpec{
			from: m,
			Name: fmt.Sprintf("%s-%d", m.Name, i), Namespace: m.Namespace, Owner: m.Name, OwnerKind: m.Kind,
			Labels: maps.Clone(t.Labels), Annotations: t.Annotations, ServiceAccount: t.Spec.ServiceAccountName,
			Ready: c.ReadinessProbe, Live: c.LivenessProbe, Startup: c.StartupProbe, Once: once, Grace: 5,
		}
		if s.ServiceAccount == "" {
			s.ServiceAccount = "default"
		}
		if s.Labels == nil {
			s.Labels = map[string]string{}
		}
		for _, cp := range c.Ports {
			port := resource.WorkloadPort{Name: cp.Name, Port: uint16(cp.ContainerPort)}
			switch cp.Protocol {
			case "", corev1.ProtocolTCP:
				s.Ports = append(s.Ports, port)
			case corev1.ProtocolUDP:
				s.UDPPorts = append(s.UDPPorts, port)
			}
		}
		s.Sidecar = p.injected(s)
		p.volumes(m, s, &t.Spec, c)
		p.environment(m, s, c, i == 0)
		p.command(m, s, c)
		p.pods = append(p.pods, s)
	}
}

// injected decides as Istio's webhook: the pod's own word, then its namespace.
func (p *planner) injected(s *podSpec) bool {
	for _, m := range []map[string]string{s.Labels, s.Annotations} {
		if v, ok := m["sidecar.istio.io/inject"]; ok {
			return v == "true"
		}
	}
	for _, ns := range p.set.Namespaces {
		if ns.Name == s.Namespace {
			if v, ok := ns.Labels["istio-injection"]; ok {
				return v == "enabled"
			}
			return ns.Labels["istio.io/rev"] != ""
		}
	}
	return false
}

// outside warns of namespaces that say nothing about injection and have
// workloads that say nothing either: without a sidecar no rule is in force there.
func (p *planner) outside() {
	said := map[string]bool{}
	for _, ns := range p.set.Namespaces {
		said[ns.Name] = ns.Labels["istio-injection"] != "" || ns.Labels["istio.io/rev"] != ""
	}
	for _, s := range p.pods {
		if _, ok := s.Labels["sidecar.istio.io/inject"]; ok || s.Sidecar || said[s.Namespace] || s.Annotations["sidecar.istio.io/inject"] != "" {
			continue
		}
		said[s.Namespace] = true
		p.warn(s.from, "metadata.namespace", "namespace "+s.Namespace+" does not ask for sidecars: its workloads run outside the mesh (IST0102)", "label the Namespace istio-injection: enabled")
	}
}

func (p *planner) volumes(m *resource.Meta, s *podSpec, spec *corev1.PodSpec, c *corev1.Container) {
	s.Volumes = map[string]volume{}
	for i, v := range spec.Volumes {
		vol := volume{}
		switch {
		case v.ConfigMap != nil:
			vol.Files = p.configMap(s.Namespace, v.ConfigMap.Name)
			if vol.Files == nil && (v.ConfigMap.Optional == nil || !*v.ConfigMap.Optional) {
				p.warn(m, fmt.Sprintf("spec.template.spec.volumes[%d].configMap", i), "no ConfigMap "+v.ConfigMap.Name+": the folder is empty", "")
			}
		case v.Secret != nil:
			vol.Files = p.secret(s.Namespace, v.Secret.SecretName)
		case v.EmptyDir != nil:
		default:
			p.warn(m, fmt.Sprintf("spec.template.spec.volumes[%d]", i), "this kind of volume is an empty folder on one machine", "")
		}
		for _, vm := range c.VolumeMounts {
			if vm.Name == v.Name {
				vol.MountPath = vm.MountPath
			}
		}
		if vol.MountPath != "" {
			s.Volumes[v.Name] = vol
		}
	}
}

func (p *planner) configMap(ns, name string) map[string]string {
	for _, c := range p.set.ConfigMaps {
		if c.Namespace == ns && c.Name == name {
			return c.Spec.Data
		}
	}
	return nil
}

func (p *planner) secret(ns, name string) map[string]string {
	for _, s := range p.set.Secrets {
		if s.Namespace == ns && s.Name == name {
			out := maps.Clone(s.Spec.StringData)
			if out == nil {
				out = map[string]string{}
			}
			for k, v := range s.Spec.Data {
				out[k] = string(v)
			}
			return out
		}
	}
	return nil
}

func (p *planner) environment(m *resource.Meta, s *podSpec, c *corev1.Container, report bool) {
	for i, e := range c.Env {
		value, known := e.Value, true
		if from := e.ValueFrom; from != nil {
			switch {
			case from.ConfigMapKeyRef != nil:
				value, known = p.configMap(s.Namespace, from.ConfigMapKeyRef.Name)[from.ConfigMapKeyRef.Key], true
			case from.SecretKeyRef != nil:
				value = p.secret(s.Namespace, from.SecretKeyRef.Name)[from.SecretKeyRef.Key]
			case from.FieldRef != nil:
				value, known = s.field(from.FieldRef.FieldPath)
			default:
				known = false
			}
		}
		if !known && report {
			p.warn(m, fmt.Sprintf("spec.template.spec.containers[0].env[%d].valueFrom", i), "not supported on one machine; the variable is empty", "")
		}
		s.Env = append(s.Env, e.Name+"="+value)
	}
}

// podIPPlaceholder is filled in when the pod has its address.
const podIPPlaceholder = "$(POD_IP)"

func (s *podSpec) field(path string) (string, bool) {
	switch path {
	case "metadata.name":
		return s.Name, true
	case "metadata.namespace":
		return s.Namespace, true
	case "spec.serviceAccountName":
		return s.ServiceAccount, true
	case "status.podIP", "status.hostIP":
		return podIPPlaceholder, true
	}
	if key, ok := strings.CutPrefix(path, "metadata.labels['"); ok {
		return s.Labels[strings.TrimSuffix(key, "']")], true
	}
	return "", false
}

// command decides which process stands for the container: --run, then Local,
// then OPA for OPA's image, then the stand-in.
func (p *planner) command(m *resource.Meta, s *podSpec, c *corev1.Container) {
	argv := p.opts.Run[m.Name]
	if len(argv) == 0 {
		argv = p.opts.Run[s.Labels["app.kubernetes.io/component"]] // worker: worker-v1 and worker-v2
	}
	if len(argv) > 0 {
		s.Argv = argv
		return
	}
	builtin := ""
	for _, l := range p.set.Local {
		w, ok := l.Spec.Workloads[m.Name]
		if !ok {
			continue
		}
		s.Dir = filepath.Join(filepath.Dir(l.Pos.File), w.Dir)
		for _, k := range slices.Sorted(maps.Keys(w.Env)) {
			s.Env = append(s.Env, k+"="+w.Env[k])
		}
		s.Argv, builtin = w.Command, w.Builtin
		break
	}
	if len(s.Argv) > 0 {
		for i, a := range s.Argv {
			s.Argv = slices.Clone(s.Argv)
			s.Argv[i] = p.expand(a, s)
		}
		return
	}
	if builtin == "" && opaImage.MatchString(c.Image) {
		builtin = "opa"
	}
	switch builtin {
	case "opa":
		s.Argv = append([]string{p.opts.Self, "opa"}, append(slices.Clone(c.Command), c.Args...)...)
	default:
		s.Argv = []string{p.opts.Self, "standin"}
		for _, port := range s.Ports {
			s.Argv = append(s.Argv, fmt.Sprintf("%s=%d", port.Name, port.Port))
		}
	}
}

var opaImage = regexp.MustCompile(`(^|/)openpolicyagent/opa([:@]|$)`)

var variable = regexp.MustCompile(`\$\(([A-Za-z_][A-Za-z0-9_]*)\)`)

// expand fills in $(BUILD) and the pod's own variables.
func (p *planner) expand(a string, s *podSpec) string {
	return variable.ReplaceAllStringFunc(a, func(v string) string {
		name := v[2 : len(v)-1]
		if name == "BUILD" {
			return p.opts.BuildDir
		}
		for _, e := range s.Env {
			if k, value, _ := strings.Cut(e, "="); k == name {
				return value
			}
		}
		return v
	})
}
