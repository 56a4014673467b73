// Package compile turns resources into what one proxy is told to do. It is
// pure: no I/O, clock, goroutine or global. Prepare indexes a Set once for all
// proxies; Snapshot compiles for one of them. The output is the configuration
// that Istio's control plane would give Envoy for the same YAML.
package compile

import (
	"encoding/json"
	"net/netip"
	"sort"
	"sync"

	meshv1 "istio.io/api/mesh/v1alpha1"

	"github.com/tulle-mesh/tulle/internal/ir"
	"github.com/tulle-mesh/tulle/internal/resource"
)

// Ports of a sidecar's listeners (Istio's).
const (
	OutboundPort = 15001
	InboundPort  = 15006
)

const clusterDomain = "cluster.local"

// inboundSource is the address inbound connections to the application come
// from, so that redirection rules can tell them apart (Istio's choice).
var inboundSource = netip.MustParseAddr("127.0.0.6")

// Index is a Set made ready for compiling. Safe for concurrent use.
type Index struct {
	set      *resource.Set
	mesh     *meshv1.MeshConfig
	services []*service // Kubernetes services, then the hosts of ServiceEntries; each oldest first
	byHost   map[string]*service
	// workloads are the set's, and those that WorkloadEntries stand for.
	workloads     []*resource.Workload
	externalNames []*service
	rules         map[*resource.VirtualService][]*httpRule // with delegates merged in
	regos         map[string][]regoSource                  // by provider; oldest first
	proxies       map[proxyKey]*meshv1.ProxyConfig         // of the workloads that say something of their own

	mu       sync.Mutex // guards problems and reported
	problems []resource.Problem
	reported map[string]bool
}

// Prepare indexes a set.
func Prepare(set *resource.Set) *Index {
	x := &Index{set: set, mesh: set.Mesh, byHost: map[string]*service{}, reported: map[string]bool{}}
	if x.mesh == nil {
		x.mesh = resource.DefaultMesh()
	}
	x.indexServices()
	x.indexRules()
	x.indexRego()
	x.indexProxies()
	x.checkSupport()
	return x
}

// Problems are what compile cannot do, each named once: fields that are not
// supported yet, references that lead nowhere.
func (x *Index) Problems() []resource.Problem {
	x.mu.Lock()
	defer x.mu.Unlock()
	out := append([]resource.Problem(nil), x.problems...)
	sort.SliceStable(out, func(i, j int) bool {
		a, b := out[i].Origin, out[j].Origin
		if a.File != b.File {
			return a.File < b.File
		}
		return a.Line < b.Line
	})
	return out
}

// report records a problem at a field of an object.
func (x *Index) report(sev resource.Severity, m *resource.Meta, path, reason, hint string) {
	p := resource.Problem{Severity: sev, Origin: m.At(path), Path: path, Reason: reason, Hint: hint}
	x.mu.Lock()
	defer x.mu.Unlock()
	if key := p.String(); !x.reported[key] {
		x.reported[key] = true
		x.problems = append(x.problems, p)
	}
}

// unsupported refuses a field that Istio knows and this compiler does not yet.
func (x *Index) unsupported(m *resource.Meta, path string) {
	x.report(resource.Error, m, path, "not supported yet; this part is not in force", "")
}

// TrustDomain of the mesh.
func (x *Index) TrustDomain() string {
	if x.mesh.TrustDomain == "" {
		return clusterDomain
	}
	return x.mesh.TrustDomain
}

func (x *Index) rootNamespace() string {
	if x.mesh.RootNamespace == "" {
		return "istio-system"
	}
	return x.mesh.RootNamespace
}

// Snapshot compiles for one proxy.
func (x *Index) Snapshot(node ir.Node) *ir.Snapshot {
	if node.TrustDomain == "" {
		node.TrustDomain = x.TrustDomain()
	}
	b := &builder{Index: x, node: node, out: &ir.Snapshot{Node: node}, clusters: map[string]bool{}, applied: map[string]policy{}, saysHosts: map[*ir.RetryPolicy]bool{}, set: x.set, proxy: x.proxyConfig(node)}
	b.scope()
	if node.Type == ir.Router {
		b.gateway()
	} else {
		b.outbound()
		b.inbound()
		b.names()
	}
	b.trustBundle()
	b.finish()
	return b.out.Seal()
}

// builder is one Snapshot being compiled.
type builder struct {
	*Index
	node  ir.Node
	proxy *meshv1.ProxyConfig // what is asked of the proxy itself; nil: nothing
	// What the proxy sees of the Index (scope fills it in): services it may
	// call, what hosts mean to it, the rules for them.
	services  []*service
	byHost    map[string]*service
	set       *resource.Set
	sidecar   *resource.Sidecar // nil: none
	egress    []*egress
	listeners listeners
	out       *ir.Snapshot
	clusters  map[string]bool   // by name: already in out
	applied   map[string]policy // of the outbound clusters
	// Retries that say themselves whether hosts are tried twice
	// (retryIgnorePreviousHosts).
	saysHosts map[*ir.RetryPolicy]bool
}

// accessLog is what MeshConfig asks for; nil for none.
func (x *Index) accessLog() *ir.AccessLog {
	if x.mesh.AccessLogFile == "" {
		return nil
	}
	log := &ir.AccessLog{Path: x.mesh.AccessLogFile, JSON: x.mesh.AccessLogEncoding == meshv1.MeshConfig_JSON, Format: x.mesh.AccessLogFormat}
	if log.JSON && log.Format != "" { // then the format is a JSON object: label → operators
		if err := json.Unmarshal([]byte(log.Format), &log.Fields); err != nil {
			log.Fields = nil
			x.report(resource.Error, &x.set.MeshFrom, "data.mesh.accessLogFormat", "want a JSON object of strings, as accessLogEncoding is JSON: "+err.Error()+"; the default fields are written", "")
		}
		log.Format = ""
	}
	return log
}

// pathNormalization is MeshConfig's, in ir's words ("" is BASE).
func (x *Index) pathNormalization() string {
	switch x.mesh.GetPathNormalization().GetNormalization() {
	case meshv1.MeshConfig_ProxyPathNormalization_NONE:
		return "NONE"
	case meshv1.MeshConfig_ProxyPathNormalization_MERGE_SLASHES:
		return "MERGE_SLASHES"
	case meshv1.MeshConfig_ProxyPathNormalization_DECODE_AND_MERGE_SLASHES:
		return "DECODE_AND_MERGE_SLASHES"
	}
	return ""
}
