package control

import (
	"encoding/json"
	"fmt"
	"net/http"
	"sort"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/tulle-mesh/tulle/internal/admin"
	"github.com/tulle-mesh/tulle/internal/explain"
	"github.com/tulle-mesh/tulle/internal/ir"
	"github.com/tulle-mesh/tulle/internal/resource"
	"github.com/tulle-mesh/tulle/internal/xds"
)

const maxAPIBody = 1 << 20

// Handler is the JSON API for command line and console. It has no
// authentication of its own: serve it where only the owner can reach it.
func (c *Control) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/proxies", func(w http.ResponseWriter, _ *http.Request) {
		out := []ProxyRow{}
		for _, p := range c.Status() {
			out = append(out, row(p))
		}
		admin.WriteJSON(w, http.StatusOK, out)
	})
	mux.HandleFunc("GET /v1/problems", c.withState(func(w http.ResponseWriter, _ *http.Request, s *State) {
		admin.WriteJSON(w, http.StatusOK, s.Problems())
	}))
	mux.HandleFunc("GET /v1/resources/{kind}", c.withState(c.resources))
	mux.HandleFunc("GET /v1/routes/{service}", c.withState(c.routes))
	mux.HandleFunc("GET /v1/describe/service/{name}", c.withState(c.describeService))
	mux.HandleFunc("GET /v1/describe/pod/{name}", c.withState(c.describePod))
	mux.HandleFunc("POST /v1/explain", c.withState(c.explain))
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		http.Error(w, r.URL.Path+" is not served", http.StatusNotFound)
	})
	return mux
}

func (c *Control) withState(f func(http.ResponseWriter, *http.Request, *State)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		s := c.State()
		if s == nil {
			http.Error(w, "no configuration yet", http.StatusServiceUnavailable)
			return
		}
		f(w, r, s)
	}
}

// ProxyRow is one line of proxy-status: SYNCED, STALE, NOT SENT or NACK for
// each resource type.
type ProxyRow struct {
	Name    string  `json:"name"`
	Node    ir.Node `json:"node"`
	Version string  `json:"version"`
	CDS     string  `json:"cds"`
	LDS     string  `json:"lds"`
	EDS     string  `json:"eds"`
	RDS     string  `json:"rds"`
	Problem string  `json:"problem,omitempty"` // why the last push was refused
}

func row(p xds.ProxyStatus) ProxyRow {
	out := ProxyRow{Name: p.Node.Name + "." + p.Node.Namespace, Node: p.Node, Version: p.Version, Problem: p.Problem,
		CDS: p.State(xds.ClusterType), LDS: p.State(xds.ListenerType), EDS: p.State(xds.EndpointType), RDS: p.State(xds.RouteType)}
	for _, t := range p.Types {
		if t.Nack != "" {
			out.Problem = t.Nack
		}
	}
	return out
}

// Resource is one object of the configuration as the user wrote it.
type Resource struct {
	Kind      string             `json:"kind"`
	Namespace string             `json:"namespace,omitempty"`
	Name      string             `json:"name"`
	Origin    ir.Origin          `json:"origin"`
	Spec      json.RawMessage    `json:"spec"`
	Problems  []resource.Problem `json:"problems,omitempty"`
}

// kinds of Istio, by every name a user may type, in lower case.
var kinds = map[string]string{
	"virtualservice": "VirtualService", "vs": "VirtualService", "destinationrule": "DestinationRule", "dr": "DestinationRule",
	"serviceentry": "ServiceEntry", "se": "ServiceEntry", "workloadentry": "WorkloadEntry", "we": "WorkloadEntry", "sidecar": "Sidecar",
	"gateway": "Gateway", "gw": "Gateway", "peerauthentication": "PeerAuthentication", "pa": "PeerAuthentication",
	"authorizationpolicy": "AuthorizationPolicy", "ap": "AuthorizationPolicy", "requestauthentication": "RequestAuthentication", "ra": "RequestAuthentication",
}

// KindNames are what describe and get accept.
func KindNames() []string {
	out := make([]string, 0, len(kinds))
	for k := range kinds {
		out = append(out, k)
	}
	sort.Strings(out)
	return out
}

// kindNamed finds a kind by any name: short, singular or plural.
func kindNamed(typed string) string {
	typed = strings.ToLower(typed)
	for name, kind := range kinds {
		if typed == name || typed == name+"s" || strings.HasSuffix(name, "y") && typed == strings.TrimSuffix(name, "y")+"ies" {
			return kind
		}
	}
	return ""
}

func (c *Control) resources(w http.ResponseWriter, r *http.Request, s *State) {
	typed := r.PathValue("kind")
	kind := kindNamed(typed)
	var out []Resource
	switch kind {
	case "VirtualService":
		out = list(s, s.Set.VirtualServices)
	case "DestinationRule":
		out = list(s, s.Set.DestinationRules)
	case "Gateway":
		out = list(s, s.Set.Gateways)
	case "ServiceEntry":
		out = list(s, s.Set.ServiceEntries)
	case "WorkloadEntry":
		out = list(s, s.Set.WorkloadEntries)
	case "Sidecar":
		out = list(s, s.Set.Sidecars)
	case "PeerAuthentication":
		out = list(s, s.Set.PeerAuthentications)
	case "AuthorizationPolicy":
		out = list(s, s.Set.AuthorizationPolicies)
	case "RequestAuthentication":
		out = list(s, s.Set.RequestAuths)
	default:
		http.Error(w, fmt.Sprintf("kind %q is not known; there are %s", typed, strings.Join(KindNames(), ", ")), http.StatusNotFound)
		return
	}
	admin.WriteJSON(w, http.StatusOK, out)
}

func list[S proto.Message](s *State, objects []*resource.Object[S]) []Resource {
	out, problems := []Resource{}, s.Problems()
	for _, o := range objects {
		spec, err := protojson.Marshal(o.Spec)
		if err != nil {
			spec = []byte("null") // decoded from JSON, so that this cannot fail
		}
		r := Resource{Kind: o.Kind, Namespace: o.Namespace, Name: o.Name, Origin: o.Origin(), Spec: spec}
		for _, p := range problems {
			if p.Origin.Kind == o.Kind && p.Origin.Namespace == o.Namespace && p.Origin.Name == o.Name {
				r.Problems = append(r.Problems, p)
			}
		}
		out = append(out, r)
	}
	return out
}

// RouteRow is one way to a service, seen from one proxy.
type RouteRow struct {
	Proxy   string          `json:"proxy"`
	Host    string          `json:"host"` // virtual host
	Domains []string        `json:"domains"`
	Route   *ir.Route       `json:"route"`
	Targets map[string]bool `json:"targets,omitempty"` // endpoint → ready
}

// routes lists every route that can lead to a service: from a sidecar of the
// caller's namespace and from every gateway.
func (c *Control) routes(w http.ResponseWriter, r *http.Request, s *State) {
	service, rows, from := r.PathValue("service"), []RouteRow{}, map[string]bool{}
	known := false
	for _, p := range s.Set.Workloads {
		kind := p.Namespace + " sidecars"
		if p.Gateway {
			kind = "gateway " + p.Name
		} else if !p.Sidecar {
			continue
		}
		if from[kind] {
			continue
		}
		from[kind] = true
		known = known || len(s.Index.ServicePorts(service, p.Namespace)) > 0
		rows = append(rows, routesTo(s.Index.Snapshot(s.Index.Node(p)), kind, service)...)
	}
	if !known {
		http.Error(w, fmt.Sprintf("no service %q; name one as service or service.namespace", service), http.StatusNotFound)
		return
	}
	admin.WriteJSON(w, http.StatusOK, rows)
}

func routesTo(snapshot *ir.Snapshot, proxy, service string) []RouteRow {
	var out []RouteRow
	for _, t := range snapshot.Routes {
		for _, vh := range t.VirtualHosts {
			for _, route := range vh.Routes {
				if route.Forward == nil {
					continue
				}
				for _, w := range route.Forward.Clusters {
					cluster := snapshot.Cluster(w.Name)
					if cluster == nil || strings.HasPrefix(w.Name, "inbound") || (cluster.Service.Name != service && cluster.Service.Host != service && cluster.Service.Name+"."+cluster.Service.Namespace != service) {
						continue
					}
					row := RouteRow{Proxy: proxy, Host: vh.Name, Domains: vh.Domains, Route: route, Targets: map[string]bool{}}
					if e := snapshot.EndpointSet(w.Name); e != nil {
						for _, x := range e.Endpoints {
							row.Targets[x.Workload.Instance] = x.Health == ir.Healthy
						}
					}
					out = append(out, row)
					break
				}
			}
		}
	}
	return out
}

func (c *Control) explain(w http.ResponseWriter, r *http.Request, s *State) {
	var q explain.Question
	dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxAPIBody))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&q); err != nil {
		http.Error(w, "question: "+err.Error(), http.StatusBadRequest)
		return
	}
	a, err := explain.Explain(s.Index, q, c.opts.Ask)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	admin.WriteJSON(w, http.StatusOK, a)
}
