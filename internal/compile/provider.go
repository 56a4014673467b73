package compile

import (
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/types/known/durationpb"
	meshv1 "istio.io/api/mesh/v1alpha1"

	"github.com/tulle-mesh/tulle/internal/ir"
	"github.com/tulle-mesh/tulle/internal/resource"
)

// customFilters make one external step per provider, in the order of the
// providers' names, as Istio does where PILOT_ENABLE_MULTIPLE_CUSTOM_AUTHZ_PROVIDERS
// is set; without it Istio denies what any of them matches (T6).
func (b *builder) customFilters(list []*resource.AuthorizationPolicy, http bool) []ir.Filter {
	steps := map[string]*ir.ExtAuthz{}
	for _, p := range list {
		name := p.Spec.GetProvider().GetName()
		step := steps[name]
		if step == nil {
			step = b.provider(p, name, http)
			steps[name] = step
			if len(steps) == 2 {
				b.report(resource.Warning, &p.Meta, "spec.provider.name", "another CUSTOM policy of this workload uses a different provider: both are asked, in the order of their names; Istio refuses what they match unless istiod has PILOT_ENABLE_MULTIPLE_CUSTOM_AUTHZ_PROVIDERS", "")
			}
		}
		if len(p.Spec.Rules) > 0 && p.Annotations["istio.io/dry-run"] == "true" {
			b.report(resource.Warning, &p.Meta, "metadata.annotations.istio.io/dry-run", "a CUSTOM policy asks its provider and obeys also in a dry run, as in Istio", "")
		}
		step.Policies = append(step.Policies, b.policies(p, "CUSTOM", http)...)
	}
	var out []ir.Filter
	for _, name := range sortedKeys(steps) {
		if len(steps[name].Policies) > 0 {
			out = append(out, ir.Filter{ExtAuthz: steps[name]})
		}
	}
	return out
}

// provider compiles an extension provider; whatever is wrong with it refuses
// what its policies match.
func (b *builder) provider(p *resource.AuthorizationPolicy, name string, http bool) *ir.ExtAuthz {
	step := &ir.ExtAuthz{Provider: name}
	reason := b.fillProvider(step, p.Namespace)
	quiet := false
	if reason == "" && step.HTTP != nil && !http {
		// Chains for ports that nobody declared are worth no error: they refuse.
		reason, quiet = "an HTTP authorizer cannot be asked about TCP connections (Istio leaves them unauthorized)", !b.servesTCP()
	}
	switch {
	case reason == "":
		return step
	case !quiet:
		b.report(resource.Error, &p.Meta, "spec.provider.name", "provider "+strconv.Quote(name)+": "+reason+"; what the policy matches is refused", "")
	}
	return &ir.ExtAuthz{Provider: name, Broken: reason}
}

// servesTCP: the proxy has a port of TCP that somebody declared.
func (b *builder) servesTCP() bool {
	return b.node.Type == ir.Router || slices.ContainsFunc(b.inboundPorts(), func(p inboundPort) bool { return p.port.protocol.opaque() })
}

// fillProvider returns what is wrong with the provider; "" for nothing.
func (b *builder) fillProvider(step *ir.ExtAuthz, namespace string) (broken string) {
	var found []*meshv1.MeshConfig_ExtensionProvider
	for _, e := range b.mesh.ExtensionProviders {
		if e.Name == step.Provider {
			found = append(found, e)
		}
	}
	switch {
	case len(found) == 0:
		return "MeshConfig.extensionProviders does not define it"
	case len(found) > 1:
		return "MeshConfig.extensionProviders defines it twice"
	case !providerName(step.Provider):
		return "its name must be a DNS label in lower case"
	}
	if g := found[0].GetEnvoyExtAuthzGrpc(); g != nil {
		return b.fillGRPC(step, g, namespace)
	}
	h := found[0].GetEnvoyExtAuthzHttp()
	if h == nil {
		return "it is no external authorizer (envoyExtAuthzGrpc or envoyExtAuthzHttp)"
	}
	return b.fillHTTP(step, h, namespace)
}

// providerName: Istio's rule, because the name becomes part of metadata keys.
func providerName(s string) bool {
	bad := strings.ContainsFunc(s, func(c rune) bool { return (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' })
	return s != "" && len(s) <= 63 && !bad && s[0] != '-' && s[len(s)-1] != '-'
}

func (b *builder) fillGRPC(step *ir.ExtAuthz, g *meshv1.MeshConfig_ExtensionProvider_EnvoyExternalAuthorizationGrpcProvider, namespace string) string {
	step.FailOpen, step.ClearRouteCache = g.FailOpen, g.ClearRouteCache
	if reason := b.fillRego(step, g.Service, namespace); reason != "" {
		return reason
	}
	if step.Rego != nil {
		step.Timeout = dur(g.Timeout, 0)
	} else {
		b.fillTimeout(step, g.Timeout)
	}
	b.fillBody(step, g.IncludeRequestBodyInCheck)
	if reason := fillStatus(step, g.StatusOnError); reason != "" {
		return reason
	}
	missing := b.fillService(step, g.Service, g.Port, namespace)
	if step.Rego != nil { // nobody is asked; other proxies than ours would ask the service if it is there
		return ""
	}
	return missing
}

func (b *builder) fillHTTP(step *ir.ExtAuthz, h *meshv1.MeshConfig_ExtensionProvider_EnvoyExternalAuthorizationHttpProvider, namespace string) string {
	step.FailOpen, step.ClearRouteCache = h.FailOpen, h.ClearRouteCache
	if len(b.regos[step.Provider]) > 0 {
		return "Rego decides in the sidecar for envoyExtAuthzGrpc providers only"
	}
	b.fillTimeout(step, h.Timeout)
	if h.IncludeRequestBodyInCheck.GetPackAsBytes() {
		b.report(resource.Warning, &b.set.MeshFrom, "data.mesh", "provider "+strconv.Quote(step.Provider)+": packAsBytes means nothing to an HTTP authorizer", "remove it")
	}
	b.fillBody(step, h.IncludeRequestBodyInCheck)
	step.PackAsBytes = false
	if reason := fillStatus(step, h.StatusOnError); reason != "" {
		return reason
	}
	if h.PathPrefix != "" && (!strings.HasPrefix(h.PathPrefix, "/") || strings.ContainsAny(h.PathPrefix, " \t\r\n?#")) {
		return "pathPrefix " + strconv.Quote(h.PathPrefix) + " must be a path that begins with /"
	}
	include := h.IncludeRequestHeadersInCheck
	if len(include) == 0 {
		//lint:ignore SA1019 the old name, which counts where the new one is not used
		include = h.IncludeHeadersInCheck
	}
	step.HTTP = &ir.ExtAuthzHTTP{PathPrefix: h.PathPrefix}
	for _, list := range []struct {
		field  string
		values []string
		to     *[]ir.Match
	}{
		{"includeRequestHeadersInCheck", include, &step.HTTP.RequestHeaders},
		{"headersToUpstreamOnAllow", h.HeadersToUpstreamOnAllow, &step.HTTP.UpstreamOnAllow},
		{"headersToDownstreamOnDeny", h.HeadersToDownstreamOnDeny, &step.HTTP.DownstreamOnDeny},
		{"headersToDownstreamOnAllow", h.HeadersToDownstreamOnAllow, &step.HTTP.DownstreamOnAllow},
	} {
		if slices.Contains(list.values, "*") || slices.Contains(list.values, "") {
			return list.field + ` takes names, "prefix*" and "*suffix", but not "*" alone`
		}
		*list.to = headerNames(list.values)
	}
	for _, name := range sortedKeys(h.IncludeAdditionalHeadersInCheck) {
		step.HTTP.AddHeaders = append(step.HTTP.AddHeaders, ir.Header{Name: strings.ToLower(name), Value: h.IncludeAdditionalHeadersInCheck[name]})
	}
	return b.fillService(step, h.Service, h.Port, namespace)
}

// headerNames compiles exact, abc* and *abc; case never counts.
func headerNames(values []string) (out []ir.Match) {
	for _, v := range values {
		m := ir.Match{Kind: ir.Exact, Value: strings.ToLower(v), IgnoreCase: true}
		if after, ok := strings.CutPrefix(m.Value, "*"); ok {
			m.Kind, m.Value = ir.Suffix, after
		} else if before, ok := strings.CutSuffix(m.Value, "*"); ok {
			m.Kind, m.Value = ir.Prefix, before
		}
		out = append(out, m)
	}
	return out
}

// fillService finds the authorizer among the services: "host" or "namespace/host".
func (b *builder) fillService(step *ir.ExtAuthz, service string, port uint32, namespace string) string {
	if port < 1 || port > 65535 {
		return "its port " + itoa(int(port)) + " is none"
	}
	host := service
	if _, after, ok := strings.Cut(host, "/"); ok {
		host = after
	}
	s := b.byHost[fqdn(host, namespace)]
	if s == nil || s.port(uint16(port)) == nil {
		return "its service " + service + " with port " + itoa(int(port)) + " does not exist"
	}
	step.Cluster, step.Authority = b.addCluster(s, s.port(uint16(port)), ""), s.host
	return ""
}

func (b *builder) fillTimeout(step *ir.ExtAuthz, timeout *durationpb.Duration) {
	step.Timeout = dur(timeout, 0)
	if timeout == nil {
		b.report(resource.Warning, &b.set.MeshFrom, "data.mesh", "provider "+strconv.Quote(step.Provider)+" has no timeout: requests wait up to 600 s for it, Istio's default", "set timeout")
	}
}

func (b *builder) fillBody(step *ir.ExtAuthz, body *meshv1.MeshConfig_ExtensionProvider_EnvoyExternalAuthorizationRequestBody) {
	if body != nil {
		step.MaxRequestBytes, step.AllowPartial, step.PackAsBytes = body.MaxRequestBytes, body.AllowPartialMessage, body.PackAsBytes
	}
}

func fillStatus(step *ir.ExtAuthz, text string) string {
	if text == "" {
		return ""
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 200 || n > 599 {
		return "statusOnError " + strconv.Quote(text) + " is not a status"
	}
	step.StatusOnError = n
	return ""
}
