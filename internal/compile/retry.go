package compile

import (
	"slices"
	"strconv"
	"strings"

	networking "istio.io/api/networking/v1alpha3"

	"github.com/tulle-mesh/tulle/internal/ir"
	"github.com/tulle-mesh/tulle/internal/resource"
)

// Compatibility versions: which Istio's default retries are in force (T2).
// Before 1.24 the default also retried upstream 503s.
const (
	CompatibilityLatest = "latest"
	Compatibility120    = "1.20"
)

// Compatibility is the version whose defaults are in force, and where that was
// said (the zero Origin: nowhere).
func (x *Index) Compatibility() (string, ir.Origin) {
	if v := x.set.CompatibilityVersion; v != "" {
		return v, ir.Origin{}
	}
	for _, l := range x.set.Local {
		if l.Spec.CompatibilityVersion != "" {
			return l.Spec.CompatibilityVersion, l.At("spec.compatibilityVersion")
		}
	}
	return CompatibilityLatest, ir.Origin{}
}

// retryBase is Istio's policy where nothing is said (VS43); it has no Origin.
func (x *Index) retryBase() *ir.RetryPolicy {
	p := &ir.RetryPolicy{Attempts: 2, On: []string{"connect-failure", "refused-stream", "unavailable", "cancelled", "retriable-status-codes"}, PreviousHosts: true, HostAttempts: 5}
	if v, _ := x.Compatibility(); v == Compatibility120 {
		p.Codes = []int{503}
	}
	return p
}

// defaultRetry is the policy of routes without one: the mesh's, else Istio's.
func (b *builder) defaultRetry() *ir.RetryPolicy {
	if d := b.mesh.DefaultHttpRetryPolicy; d != nil {
		p := b.retryPolicy(d, &b.set.MeshFrom, "data.mesh.defaultHttpRetryPolicy")
		if p != nil {
			p.Origin = b.set.MeshFrom.At("data.mesh.defaultHttpRetryPolicy")
		}
		return p
	}
	return b.retryBase()
}

func (b *builder) retry(rule *httpRule) *ir.RetryPolicy {
	if rule.Retries == nil {
		return b.defaultRetry()
	}
	vs, path := rule.owner("retries")
	p := b.retryPolicy(rule.Retries, &vs.Meta, path)
	if p != nil {
		p.Origin = vs.At(path)
	}
	return p
}

// retryPolicy overrides the default with what is set; attempts 0 is no policy.
// retryOn replaces the whole list of conditions, its codes included.
func (b *builder) retryPolicy(r *networking.HTTPRetry, m *resource.Meta, path string) *ir.RetryPolicy {
	if r.Attempts <= 0 {
		return nil
	}
	p := b.retryBase()
	p.Attempts, p.PerTryTimeout, p.Backoff = uint32(r.Attempts), dur(r.PerTryTimeout, 0), dur(r.Backoff, 0)
	if r.RetryIgnorePreviousHosts != nil {
		p.PreviousHosts, b.saysHosts[p] = r.RetryIgnorePreviousHosts.Value, true
	}
	p.PreviousPriorities = r.RetryRemoteLocalities.GetValue()
	if r.RetryOn == "" {
		return p
	}
	p.On, p.Codes = nil, nil
	for _, c := range strings.Split(r.RetryOn, ",") {
		c = strings.TrimSpace(c)
		n, err := strconv.Atoi(c)
		switch {
		case c == "":
		case err == nil:
			p.Codes = append(p.Codes, n)
		case c == "retriable-headers" || c == "http3-post-connect-failure":
			b.report(resource.Error, m, path+".retryOn", strconv.Quote(c)+" is not supported: there is no way to name the headers, and no HTTP/3; the condition is left out", "")
		default:
			p.On = append(p.On, c)
		}
	}
	if len(p.Codes) > 0 && !slices.Contains(p.On, "retriable-status-codes") {
		p.On = append(p.On, "retriable-status-codes")
	}
	return p
}
