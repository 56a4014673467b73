package proxy

import (
	"crypto/rand"
	"net/netip"
	"time"

	"github.com/tulle-mesh/tulle/internal/ir"
	"github.com/tulle-mesh/tulle/internal/telemetry"
)

// Failure is a request or connection that the mesh answered or ended itself for
// another reason than policy (Denial has those): what its access log line says,
// and the lines of YAML that had a say.
type Failure struct {
	ID        string    `json:"id"`
	RequestID string    `json:"requestId,omitempty"` // x-request-id, as in the access log
	Time      time.Time `json:"time"`                // of its begin
	Seconds   float64   `json:"seconds"`             // to its end

	Protocol string `json:"protocol"` // "TCP" for a connection
	Method   string `json:"method,omitempty"`
	Host     string `json:"host,omitempty"`
	Path     string `json:"path,omitempty"` // normalized, without query
	SNI      string `json:"sni,omitempty"`

	Principal   string         `json:"principal,omitempty"` // that mTLS proved
	Source      netip.AddrPort `json:"source,omitzero"`
	Destination netip.AddrPort `json:"destination,omitzero"`
	Local       string         `json:"local"` // this workload's SPIFFE ID
	Outbound    bool           `json:"outbound"`

	Status     int    `json:"status,omitempty"`
	GRPCStatus string `json:"grpcStatus,omitempty"`
	Flags      string `json:"flags"`   // response flags
	Details    string `json:"details"` // response code details
	Transport  string `json:"transport,omitempty"`
	Hint       string `json:"hint,omitempty"` // what an operator should look at

	Route    string        `json:"route,omitempty"`
	Cluster  string        `json:"cluster,omitempty"`
	Upstream string        `json:"upstream,omitempty"` // of the last try
	Attempts int           `json:"attempts,omitempty"`
	Tries    []FailureTry  `json:"tries,omitempty"` // of a request that was retried
	Lines    []FailureLine `json:"lines,omitempty"`
	Version  string        `json:"version,omitempty"` // of the configuration
}

// FailureTry is one attempt: a response's status, or the flags that say why
// there was none.
type FailureTry struct {
	Upstream string  `json:"upstream,omitempty"`
	Status   int     `json:"status,omitempty"`
	Flags    string  `json:"flags,omitempty"`
	Seconds  float64 `json:"seconds"`
}

// FailureLine is a part of the configuration that had a say.
type FailureLine struct {
	What   string    `json:"what"`
	Origin ir.Origin `json:"origin"`
}

// Failures lists the newest failures, the last one first; id, if not empty,
// chooses those with this id or x-request-id. Safe for concurrent use.
func (p *Proxy) Failures(id string) []*Failure {
	return p.failures.list(func(f *Failure) bool { return id == "" || f.ID == id || f.RequestID == id })
}

// noFailure: policy has Denials, a delay ends nothing, and a caller that left
// was not failed by the mesh.
const noFailure = telemetry.ExternalDenied | telemetry.DelayInjected | telemetry.DownstreamTermination

// failed reports whether the mesh, not the application, decided how the request
// ended.
func (x *exchange) failed() bool {
	return x.why != nil && x.why != &clientGone || x.rec.Flags&^noFailure != 0
}

// keepFailure is called at the end of a request that failed.
func (x *exchange) keepFailure() {
	d, r := x.d, &x.rec
	if !d.p.failures.due(x.start) {
		return
	}
	f := newFailure(d, r, x.chain)
	f.Local, f.Version = x.rt.principal, x.rt.version
	f.Method, f.Host, f.Path = clip(x.method), clip(x.req.Host), clip(x.path)
	f.Route, f.Attempts, f.GRPCStatus = r.Route, x.attempt, clip(r.GRPCStatus)
	switch {
	case x.why != nil:
		f.Hint = x.why.hint
	case r.Flags&telemetry.FaultInjected != 0:
		f.Hint = "the route injects an abort"
	case x.res.Status != 0:
		f.Hint = "the endpoint answered so, and no try is left"
		if r.Details != "via_upstream" {
			f.Hint = "the response broke off on its way"
		}
	}
	for _, t := range x.tries {
		try := FailureTry{Upstream: t.Host, Status: t.Status, Seconds: t.Duration.Seconds()}
		if t.Flags != 0 {
			try.Flags = t.Flags.String()
		}
		f.Tries = append(f.Tries, try)
	}
	f.Lines = x.linesOfFailure()
	d.p.failures.keep(f)
}

func newFailure(d *downstream, r *telemetry.Record, c *chain) *Failure {
	return &Failure{
		ID: rand.Text(), RequestID: clip(r.RequestID), Time: r.Start, Seconds: r.Duration.Seconds(), Protocol: r.Protocol, SNI: clip(d.sni),
		Principal: d.peer, Source: d.remote, Destination: d.local, Outbound: c != nil && c.outbound && !c.gateway,
		Status: r.Status, Flags: r.Flags.String(), Details: clip(r.Details), Transport: clip(r.Failure),
		Cluster: r.Cluster, Upstream: clip(r.UpstreamHost),
	}
}

// keepFailure is called at the end of a connection that reached no upstream.
func (s *tcpSession) keepFailure() {
	if !s.p.failures.due(s.start) {
		return
	}
	f := newFailure(s.downstream, &s.rec, s.chain)
	f.Protocol, f.Local, f.Version = "TCP", s.rt.principal, s.rt.version
	switch flags := s.rec.Flags; {
	case s.rec.Cluster == ir.BlackHoleCluster:
		f.Hint = blackHole.hint
	case flags&telemetry.NoCluster != 0:
		f.Hint = noCluster.hint
	case flags&telemetry.UpstreamOverflow != 0:
		f.Hint = overflow.hint
	case flags&telemetry.UpstreamConnectFailure != 0:
		f.Hint = connectFailure.hint
	case flags&telemetry.NoHealthyUpstream != 0:
		f.Hint = noHealthy.hint
	}
	var l failureLines
	if s.cluster != nil {
		l.addCluster(s.cluster.Config(), s.rec.Flags)
	}
	f.Lines = l
	s.p.failures.keep(f)
}

// linesOfFailure are those of the route and the cluster, as far as they bear on
// how the request ended.
func (x *exchange) linesOfFailure() []FailureLine {
	var l failureLines
	flags := x.rec.Flags
	if x.route != nil {
		what := "route " + x.route.Name
		if f := x.route.Forward; f != nil && flags&telemetry.UpstreamRequestTimeout != 0 && x.timeouts.total > 0 {
			what += ", timeout " + x.timeouts.total.String()
		}
		l.add(what, x.route.Origin)
		if f := x.route.Fault; f != nil && f.Abort != nil && flags&telemetry.FaultInjected != 0 {
			l.add("abort", f.Abort.Origin)
		}
		if f := x.route.Forward; f != nil && f.Retry != nil && (len(x.tries) > 0 || x.why == &tryTimeout) {
			l.add("retries", f.Retry.Origin)
		}
	}
	if x.cluster != nil {
		l.addCluster(x.cluster.Config(), flags)
	}
	return l
}

type failureLines []FailureLine

func (l *failureLines) add(what string, o ir.Origin) {
	if !o.IsZero() {
		*l = append(*l, FailureLine{what, o})
	}
}

func (l *failureLines) addCluster(c *ir.Cluster, flags telemetry.Flags) {
	l.add("service", c.Origin)
	l.add("subset", c.SubsetFrom)
	l.add("traffic policy", c.PolicyFrom)
	if flags&telemetry.NoHealthyUpstream != 0 {
		l.add("outlier detection", c.OutlierFrom)
	}
}
