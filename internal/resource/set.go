// Package resource is the user's configuration as typed objects: Istio's kinds
// (istio.io/api), the Kubernetes kinds a mesh looks at and Tulle's Local. It
// decodes strictly, defaults and validates; a bad object hurts only itself and
// is reported with its file, line and field path.
package resource

import (
	"net/netip"
	"time"

	meshv1 "istio.io/api/mesh/v1alpha1"
	networking "istio.io/api/networking/v1alpha3"
	security "istio.io/api/security/v1beta1"
	typev1 "istio.io/api/type/v1beta1"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/tulle-mesh/tulle/internal/ir"
	"github.com/tulle-mesh/tulle/internal/jwks"
)

// Meta is what every object has.
type Meta struct {
	Kind        string
	APIVersion  string
	Namespace   string // "" for cluster-scoped kinds; files default to "default"
	Name        string
	Labels      map[string]string
	Annotations map[string]string
	// Created orders objects that compete; zero for files without
	// metadata.creationTimestamp, then name and namespace decide (trap T7).
	Created time.Time
	// Pos finds the place of a field; nil for objects from a cluster.
	Pos *Positions
}

// Origin of the object itself (the line of its kind or first key).
func (m *Meta) Origin() ir.Origin { return m.At("") }

// At is the origin of a field, by path as kubectl writes it
// ("spec.http[0].match[1].uri"); the nearest enclosing field that was written
// stands in for one that was not.
func (m *Meta) At(path string) ir.Origin {
	o := ir.Origin{Kind: m.Kind, Namespace: m.Namespace, Name: m.Name}
	if m.Pos != nil {
		o.File, o.Line = m.Pos.File, m.Pos.Line(path)
	}
	return o
}

// Object is one configuration object. Spec is read-only after decoding.
type Object[S any] struct {
	Meta
	Spec S
}

// Kinds of Istio, by what their Spec is.
type (
	VirtualService      = Object[*networking.VirtualService]
	DestinationRule     = Object[*networking.DestinationRule]
	Gateway             = Object[*networking.Gateway]
	ServiceEntry        = Object[*networking.ServiceEntry]
	WorkloadEntry       = Object[*networking.WorkloadEntry]
	WorkloadGroup       = Object[*networking.WorkloadGroup]
	Sidecar             = Object[*networking.Sidecar]
	PeerAuthentication  = Object[*security.PeerAuthentication]
	AuthorizationPolicy = Object[*security.AuthorizationPolicy]
	RequestAuth         = Object[*security.RequestAuthentication]
	Selector            = typev1.WorkloadSelector
)

// Kinds of Kubernetes: Spec is the whole typed object.
type (
	Namespace      = Object[*corev1.Namespace]
	Service        = Object[*corev1.Service]
	ServiceAccount = Object[*corev1.ServiceAccount]
	ConfigMap      = Object[*corev1.ConfigMap]
	Secret         = Object[*corev1.Secret]
	Deployment     = Object[*appsv1.Deployment]
	StatefulSet    = Object[*appsv1.StatefulSet]
	Job            = Object[*batchv1.Job]
)

// Set is everything one source knows at one moment. It is immutable; a source
// that changes makes a new Set. Slices are ordered oldest first by
// (Created, Name, Namespace), the order in which Istio lets objects compete.
type Set struct {
	Mesh     *meshv1.MeshConfig // nil: DefaultMesh()
	MeshFrom Meta               // the object that Mesh was read from, for positions

	VirtualServices       []*VirtualService
	DestinationRules      []*DestinationRule
	Gateways              []*Gateway
	ServiceEntries        []*ServiceEntry
	WorkloadEntries       []*WorkloadEntry
	WorkloadGroups        []*WorkloadGroup
	Sidecars              []*Sidecar
	PeerAuthentications   []*PeerAuthentication
	AuthorizationPolicies []*AuthorizationPolicy
	RequestAuths          []*RequestAuth

	Namespaces      []*Namespace
	Services        []*Service
	ServiceAccounts []*ServiceAccount
	ConfigMaps      []*ConfigMap
	// BrokenRego are ConfigMaps that were to decide for a provider (RegoProvider)
	// and cannot: what it would have been asked is refused.
	BrokenRego   []Meta
	Secrets      []*Secret
	Deployments  []*Deployment
	StatefulSets []*StatefulSet
	Jobs         []*Job

	Local []*Local // tulle.dev/v1alpha1
	// CompatibilityVersion is the Istio whose defaults are meant, "latest" or
	// "1.20", when a flag says so; it wins over Local's.
	CompatibilityVersion string

	// Roots is the authority's trust bundle, PEM, the root that signs first;
	// empty: proxies trust what comes with their certificates.
	Roots []byte

	// KeySets are the keys of token issuers that the control plane has fetched,
	// by where they are published.
	KeySets map[jwks.Source]jwks.Set

	// Workloads are the running instances (pods, or processes on one machine).
	Workloads []*Workload
	// Denied are security objects that could not be used: what they cover is
	// refused (fail closed) until they are mended.
	Denied []Denied
	// PassedOver are objects of kinds a mesh has no use for.
	PassedOver []Meta
}

// Denied marks workloads whose security object is unusable: an
// AuthorizationPolicy with a bad field denies what it selects, a
// PeerAuthentication makes it STRICT.
type Denied struct {
	Meta
	MatchLabels map[string]string // empty: the whole namespace (or mesh, in the root namespace)
	Reason      string
}

// Severity of a Problem.
type Severity string

const (
	Error   Severity = "error"   // the object (or the named part) is not in force
	Warning Severity = "warning" // in force, but probably not what was meant
)

// Problem is a fault in what the user wrote.
type Problem struct {
	Severity Severity  `json:"severity"`
	Origin   ir.Origin `json:"origin"`
	Path     string    `json:"path,omitempty"` // field path: spec.http[0].timeout
	Reason   string    `json:"reason"`
	Hint     string    `json:"hint,omitempty"` // what to do about it
}

// String is "file:line: Kind ns/name: path: reason (hint)".
func (p Problem) String() string {
	s := p.Origin.Kind
	if p.Origin.Name != "" {
		s += " " + p.Origin.Namespace + "/" + p.Origin.Name
	}
	if place := p.Origin.Place(); place != "" {
		s = place + ": " + s
	}
	if p.Path != "" {
		s += ": " + p.Path
	}
	s += ": " + p.Reason
	if p.Hint != "" {
		s += " (" + p.Hint + ")"
	}
	return s
}

// Workload is one running instance: a Pod, or a replica on this machine.
type Workload struct {
	Name           string // pod name, "worker-v1-0"
	Namespace      string
	Owner          string // Deployment, StatefulSet or Job
	OwnerKind      string
	Labels         map[string]string
	Annotations    map[string]string
	ServiceAccount string // "default" when the manifest names none
	Address        netip.Addr
	Ports          []WorkloadPort
	Locality       string // region/zone/subzone
	ClusterID      string
	Ready          bool
	Sidecar        bool // its traffic is in the mesh, so peers use mTLS to it
	Gateway        bool // a proxy of its own, without application

	// Only where a WorkloadEntry or an endpoint of a ServiceEntry stands for it:
	Host    string            // a DNS name ("" where Address is valid), or "unix:/path"
	PortMap map[string]uint16 // its own port for a service port's name
	Weight  uint32            // load balancing weight; 0 is 1
}

// Key is NAME.NAMESPACE, which no other instance has; proxy-status shows it.
func (w *Workload) Key() string { return w.Name + "." + w.Namespace }

// WorkloadPort resolves a Service's targetPort by name.
type WorkloadPort struct {
	Name string
	Port uint16
}

// Local tells `tulle up` how to run workloads on this machine. Everything in
// it is optional; a workload that nobody maps gets a stand-in.
type Local struct {
	Meta
	Spec LocalSpec
}

// LocalSpec is the spec of Local. Paths are relative to the file's folder.
type LocalSpec struct {
	Manifests []string                 `json:"manifests,omitempty"` // files or folders of YAML
	Build     []LocalCommand           `json:"build,omitempty"`     // run once before the start, in order
	Workloads map[string]LocalWorkload `json:"workloads,omitempty"` // by Deployment, StatefulSet or Job name
	Tokens    *LocalTokens             `json:"tokens,omitempty"`    // demo JWTs that `up` prints
	Try       []LocalTry               `json:"try,omitempty"`       // commands that `up` prints, "$TOKEN_VIEWER" and "$GATEWAY" filled in
	// CompatibilityVersion is the Istio whose default retries are in force:
	// "latest" (default) or "1.20", which also retried upstream 503s.
	CompatibilityVersion string `json:"compatibilityVersion,omitempty"`
}

// CompatibilityVersions are the values of LocalSpec.CompatibilityVersion.
func CompatibilityVersions() []string { return []string{"latest", "1.20"} }

// LocalCommand is a command with its folder.
type LocalCommand struct {
	Command []string          `json:"command"`
	Dir     string            `json:"dir,omitempty"`
	Env     map[string]string `json:"env,omitempty"`
}

// LocalWorkload says which process stands for a workload. Exactly one of
// Command and Builtin is set. "$(PORT)" and other $(VAR) are filled in from Env
// and the manifest's env; "$(BUILD)" is the folder builds may write to.
type LocalWorkload struct {
	Command []string          `json:"command,omitempty"`
	Builtin string            `json:"builtin,omitempty"` // "standin" or "opa"
	Dir     string            `json:"dir,omitempty"`
	Env     map[string]string `json:"env,omitempty"`
}

// LocalTokens mints JWTs signed with a key of the example's own.
type LocalTokens struct {
	KeyFile string                    `json:"keyFile"` // PEM private key (EC P-256 or RSA)
	KeyID   string                    `json:"keyID,omitempty"`
	TTL     string                    `json:"ttl,omitempty"` // default 24h
	Claims  map[string]any            `json:"claims,omitempty"`
	Roles   map[string]map[string]any `json:"roles"` // token name → further claims
}

// LocalTry is one command worth pasting.
type LocalTry struct {
	Title   string `json:"title"`
	Command string `json:"command"`
}
