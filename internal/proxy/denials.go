package proxy

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/tulle-mesh/tulle/internal/authz"
	"github.com/tulle-mesh/tulle/internal/ir"
	"github.com/tulle-mesh/tulle/internal/telemetry"
)

const (
	// debugHeader asks for the id of a denial; its value is the credential. It
	// goes from proxy to proxy and never to an application.
	debugHeader = "x-tulle-debug"
	// decisionHeader answers it.
	decisionHeader = "x-tulle-decision"

	maxDenialNames = 1000
	maxDenialText  = 256 // bytes of a path or header that are kept
	maxDenialHeads = 64  // headers that are kept
)

// Denial is a request or connection that policy refused, with what would have
// let it pass. Values of secret headers are masked before it is kept.
type Denial struct {
	ID        string    `json:"id"`
	RequestID string    `json:"requestId,omitempty"` // x-request-id, as in the access log
	Time      time.Time `json:"time"`

	Protocol string            `json:"protocol"` // "TCP" for a connection
	Method   string            `json:"method,omitempty"`
	Host     string            `json:"host,omitempty"`
	Path     string            `json:"path,omitempty"` // as policies saw it: normalized, without query
	Headers  map[string]string `json:"headers,omitempty"`
	SNI      string            `json:"sni,omitempty"`

	Principal string `json:"principal,omitempty"` // that mTLS proved
	// RequestPrincipal is the verified token's; TokenFault is what is wrong with
	// a token that was refused, and what an operator should look at.
	RequestPrincipal string         `json:"requestPrincipal,omitempty"`
	TokenFault       string         `json:"tokenFault,omitempty"`
	Source           netip.AddrPort `json:"source,omitzero"`
	Destination      netip.AddrPort `json:"destination,omitzero"`
	Local            string         `json:"local"` // this workload's SPIFFE ID

	Status  int    `json:"status,omitempty"`
	Details string `json:"details"` // response code details
	// Action, Policy and Origin are of what decided; without Policy there are
	// ALLOW policies and none matched.
	Action  ir.Action `json:"action,omitempty"`
	Policy  string    `json:"policy,omitempty"`
	Origin  ir.Origin `json:"origin,omitzero"`
	Version string    `json:"version,omitempty"` // of the configuration
	// Considered are the rules that were looked at; Missed says why one did not
	// match.
	Considered []DenialRule    `json:"considered,omitempty"`
	External   *DenialExternal `json:"external,omitempty"`
}

// DenialRule is one rule that was looked at.
type DenialRule struct {
	Action ir.Action `json:"action"`
	Policy string    `json:"policy"`
	Origin ir.Origin `json:"origin,omitzero"`
	Missed string    `json:"missed,omitempty"`
}

// DenialExternal is what an external authorizer answered.
type DenialExternal struct {
	Provider   string `json:"provider"`
	Status     int    `json:"status,omitempty"`
	Body       string `json:"body,omitempty"`
	Error      string `json:"error,omitempty"`
	DecisionID string `json:"decisionId,omitempty"` // the authorizer's own
	// Input and Result are the documents of a decision by Rego in this sidecar,
	// as its decision log would have them.
	Input  json.RawMessage `json:"input,omitempty"`
	Result json.RawMessage `json:"result,omitempty"`
}

// denials counts every denial and keeps the newest. Safe for concurrent use.
type denials struct {
	recent[Denial]
	mu     sync.Mutex
	counts map[denialKey]uint64
}

// denialKey is what denials are counted by.
type denialKey struct {
	action ir.Action
	policy string
}

func (ds *denials) count(d *authz.Decision) {
	key := denialKey{d.Action, d.Policy}
	if key.action == "" {
		key.action = ir.Allow
	}
	ds.mu.Lock()
	defer ds.mu.Unlock()
	if ds.counts == nil {
		ds.counts = map[denialKey]uint64{}
	}
	if _, known := ds.counts[key]; !known && len(ds.counts) >= maxDenialNames {
		key.policy = "other" // policies come and go, the proxy stays
	}
	ds.counts[key]++
}

// Denials lists the newest denials, the last one first; id, if not empty,
// chooses those with this decision id or x-request-id. Safe for concurrent use.
func (p *Proxy) Denials(id string) []*Denial {
	return p.denials.list(func(d *Denial) bool { return id == "" || d.ID == id || d.RequestID == id })
}

// collect exposes the counts.
func (ds *denials) collect(e *telemetry.Exposition) {
	ds.mu.Lock()
	defer ds.mu.Unlock()
	for k, n := range ds.counts {
		namespace, policy, rule := splitPolicyName(k.policy)
		e.Add("counter", "tulle_authorization_denied_total", float64(n), "action", string(k.action), "namespace", namespace, "policy", policy, "rule", rule)
	}
}

// splitPolicyName takes "ns[a]-policy[b]-rule[0]" apart; what is not such a
// name is the policy.
func splitPolicyName(s string) (namespace, policy, rule string) {
	if s == "" {
		return "", "none", ""
	}
	rest, ok := strings.CutPrefix(s, "ns[")
	i, j := strings.Index(rest, "]-policy["), strings.LastIndex(rest, "]-rule[")
	if !ok || i < 0 || j < i || !strings.HasSuffix(rest, "]") {
		return "", s, ""
	}
	return rest[:i], rest[i+len("]-policy[") : j], rest[j+len("]-rule[") : len(rest)-1]
}

// denied is called for each request that policy refuses, before it is
// answered.
func (x *exchange) denied(decision *authz.Decision) {
	p := x.d.p
	p.denials.count(decision)
	if !p.denials.due(x.start) {
		return
	}
	d := newDenial(decision, &x.authz, x.chain)
	d.RequestID, d.Protocol, d.Method, d.Host, d.Path = clip(x.rec.RequestID), x.c.protocol(), clip(x.method), clip(x.req.Host), clip(x.path)
	d.Source, d.Destination, d.Local, d.Version, d.Time = x.d.remote, x.d.local, x.rt.principal, x.rt.version, x.start
	d.Headers = x.maskedHeaders()
	if x.mayDebug() {
		x.extra = append(x.extra, ir.Header{Name: decisionHeader, Value: d.ID})
	}
	p.denials.keep(d)
}

// denied is called for each connection that policy refuses.
func (s *tcpSession) denied(decision *authz.Decision) {
	s.p.denials.count(decision)
	if !s.p.denials.due(s.start) {
		return
	}
	d := newDenial(decision, s.input(), s.chain)
	d.Protocol, d.Time, d.Source, d.Destination, d.Local, d.Version, d.Status = "TCP", s.start, s.remote, s.local, s.rt.principal, s.rt.version, 0
	s.p.denials.keep(d)
}

func newDenial(decision *authz.Decision, in *authz.Input, c *chain) *Denial {
	d := &Denial{ID: rand.Text(), Details: decision.Details(), Action: decision.Action, Policy: decision.Policy, Origin: decision.Origin,
		Principal: strings.Clone(in.Principal), SNI: strings.Clone(in.SNI), Status: 403}
	if v := decision.External; v != nil {
		d.External = &DenialExternal{Provider: decision.Provider, Status: v.Status, Body: clip(v.Body), DecisionID: clip(v.Detail)}
		if d.Status = v.Status; d.Status == 0 {
			d.Status = 403
		}
		if v.Err != nil {
			d.External.Error = clip(v.Err.Error())
		}
		if v.Evidence != nil {
			d.External.Input, d.External.Result = v.Evidence()
		}
	}
	d.RequestPrincipal = in.Token.Principal()
	if r := decision.Token; r != nil {
		d.Status, d.TokenFault = r.Status, r.Reason
		if r.Hint != "" {
			d.TokenFault += ": " + clip(r.Hint)
		}
	}
	in.Secret = c.tokenHeader
	_, considered := c.authz.Trace(in, answered{decision.External, in.Token, decision.Token})
	for _, k := range considered {
		if k.DryRun || k.Action == ir.Audit {
			continue // they refuse nobody
		}
		d.Considered = append(d.Considered, DenialRule{k.Action, k.Policy.Name, k.Policy.Origin, clip(k.Missed)})
	}
	return d
}

// answered gives Trace what is known instead of asking and verifying again.
type answered struct {
	verdict *authz.Verdict
	token   *authz.Token
	refused *authz.Refusal
}

// Authenticate implements authz.Authenticator.
func (a answered) Authenticate(*ir.JWT) (*authz.Token, *authz.Refusal) { return a.token, a.refused }

// Ask implements authz.Asker.
func (a answered) Ask(*ir.ExtAuthz) authz.Verdict {
	if a.verdict == nil {
		return authz.Verdict{Allow: true} // an earlier step, which let the request pass
	}
	return *a.verdict
}

// mayDebug reports whether the request came with the debug credential.
func (x *exchange) mayDebug() bool {
	if x.debug == "" {
		return false
	}
	sum := sha256.Sum256([]byte(x.debug))
	return subtle.ConstantTimeCompare(sum[:], x.d.p.opts.DebugKey[:]) == 1
}

func (x *exchange) maskedHeaders() map[string]string {
	out := make(map[string]string, min(len(x.req.Fields.Fields), maxDenialHeads))
	for i := range x.req.Fields.Fields {
		f := &x.req.Fields.Fields[i]
		if len(out) == maxDenialHeads {
			break
		}
		value := f.Value
		if authz.SecretHeader(f.Name) || x.chain.tokenHeader(f.Name) {
			value = "masked"
		}
		out[clip(f.Name)] = clip(value)
	}
	return out
}

// clip copies what of s is kept.
func clip(s string) string {
	if len(s) > maxDenialText {
		return s[:maxDenialText] + "…"
	}
	return strings.Clone(s)
}
