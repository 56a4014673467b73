package compile

import (
	"strings"

	networking "istio.io/api/networking/v1alpha3"

	"github.com/tulle-mesh/tulle/internal/ir"
	"github.com/tulle-mesh/tulle/internal/resource"
)

// httpRule is one http[] entry to compile: a VirtualService's own, or a
// delegate's merged into the entry of the root that names it.
type httpRule struct {
	*networking.HTTPRoute
	vs   *resource.VirtualService // wrote the entry
	path string                   // of the entry in vs
	// For a delegate's entry: who delegates, and which fields are the root's.
	root      *resource.VirtualService
	rootPath  string
	inherited map[string]bool
}

// owner is the object that wrote a field of the rule, and the field's path.
// Short host names in the field are of that object's namespace (X1).
func (r *httpRule) owner(field string) (*resource.VirtualService, string) {
	if r.inherited[field] {
		return r.root, r.rootPath + "." + field
	}
	return r.vs, r.path + "." + field
}

// at is the origin of a field of the rule.
func (r *httpRule) at(field string) ir.Origin {
	vs, path := r.owner(field)
	return vs.At(path)
}

// origins are the line of the entry, and of the entry that delegates to it.
func (r *httpRule) origins() (entry, root ir.Origin) {
	entry = r.vs.At(r.path)
	if r.root != nil {
		root = r.root.At(r.rootPath)
	}
	return entry, root
}

// indexRules lists the rules of every VirtualService with delegates merged in
// (VS41). A delegate has no hosts and is never used by itself.
func (x *Index) indexRules() {
	delegates := map[string]*resource.VirtualService{}
	for _, vs := range x.set.VirtualServices {
		if len(vs.Spec.Hosts) == 0 {
			delegates[vs.Namespace+"/"+vs.Name] = vs
		}
	}
	x.rules = map[*resource.VirtualService][]*httpRule{}
	for _, vs := range x.set.VirtualServices {
		if len(vs.Spec.Hosts) == 0 {
			continue
		}
		var rules []*httpRule
		for i, h := range vs.Spec.Http {
			path := at("spec.http", i)
			if h.Delegate == nil {
				rules = append(rules, &httpRule{HTTPRoute: h, vs: vs, path: path})
				continue
			}
			rules = append(rules, x.delegated(vs, h, path, delegates)...)
		}
		x.rules[vs] = rules
	}
}

// delegated are the rules that stand in place of a root's entry. A delegate
// that is missing or may not be seen takes only this entry away, as in Istio.
func (x *Index) delegated(root *resource.VirtualService, h *networking.HTTPRoute, path string, delegates map[string]*resource.VirtualService) []*httpRule {
	ns := h.Delegate.Namespace
	if ns == "" {
		ns = root.Namespace
	}
	d := delegates[ns+"/"+h.Delegate.Name]
	switch {
	case d == nil:
		x.report(resource.Error, &root.Meta, path+".delegate", "no delegate VirtualService "+ns+"/"+h.Delegate.Name+"; the entry is left out", "a delegate is a VirtualService without hosts")
		return nil
	case !x.virtualServiceVisible(d, root.Namespace):
		x.report(resource.Error, &root.Meta, path+".delegate", "VirtualService "+ns+"/"+h.Delegate.Name+" is not exported to "+root.Namespace+"; the entry is left out", "add the namespace to its exportTo")
		return nil
	}
	var out []*httpRule
	for i, entry := range d.Spec.Http {
		sub := at("spec.http", i)
		if entry.Delegate != nil {
			x.report(resource.Error, &d.Meta, sub+".delegate", "a delegate may not delegate again; the entry is left out", "")
			continue
		}
		matches, conflict := mergeMatches(h.Match, entry.Match)
		if conflict != "" {
			x.report(resource.Error, &d.Meta, sub+".match", "conflicts with "+root.At(path).String()+": "+conflict+"; the entry is left out", "a delegate's matches must lie within its root's")
			continue
		}
		r := &httpRule{HTTPRoute: inherit(h, entry), vs: d, path: sub, root: root, rootPath: path, inherited: map[string]bool{}}
		r.Match = matches
		r.noteInherited(h, entry)
		out = append(out, r)
	}
	return out
}

// inherit fills what the delegate leaves open from the root. Copies field by
// field: the messages themselves are shared with the Set and stay untouched.
func inherit(root, d *networking.HTTPRoute) *networking.HTTPRoute {
	out := &networking.HTTPRoute{
		Name: d.Name, Route: d.Route, Redirect: d.Redirect, DirectResponse: d.DirectResponse, Rewrite: d.Rewrite, Timeout: d.Timeout,
		Retries: d.Retries, Fault: d.Fault, Mirror: d.Mirror, Mirrors: d.Mirrors, CorsPolicy: d.CorsPolicy, Headers: d.Headers,
		MirrorPercentage: d.MirrorPercentage,
		//lint:ignore SA1019 deprecated, and in people's files
		MirrorPercent: d.MirrorPercent,
	}
	switch {
	case out.Name == "":
		out.Name = root.Name
	case root.Name != "":
		out.Name = root.Name + "-" + out.Name
	}
	if out.Rewrite == nil && out.Redirect == nil {
		out.Rewrite = root.Rewrite
	}
	if out.Timeout == nil {
		out.Timeout = root.Timeout
	}
	if out.Retries == nil {
		out.Retries = root.Retries
	}
	if out.Fault == nil {
		out.Fault = root.Fault
	}
	if out.Mirror == nil {
		out.Mirror = root.Mirror
	}
	if out.Mirrors == nil {
		out.Mirrors = root.Mirrors
	}
	//lint:ignore SA1019 deprecated, and in people's files
	if out.MirrorPercent == nil {
		//lint:ignore SA1019 deprecated, and in people's files
		out.MirrorPercent = root.MirrorPercent
	}
	if out.MirrorPercentage == nil {
		out.MirrorPercentage = root.MirrorPercentage
	}
	if out.CorsPolicy == nil {
		out.CorsPolicy = root.CorsPolicy
	}
	if out.Headers == nil {
		out.Headers = root.Headers
	}
	return out
}

func (r *httpRule) noteInherited(root, d *networking.HTTPRoute) {
	for field, from := range map[string]bool{
		"rewrite": d.Rewrite == nil && root.Rewrite != nil, "timeout": d.Timeout == nil && root.Timeout != nil,
		"retries": d.Retries == nil && root.Retries != nil, "fault": d.Fault == nil && root.Fault != nil,
		"mirror": d.Mirror == nil && root.Mirror != nil, "mirrors": d.Mirrors == nil && root.Mirrors != nil,
		"corsPolicy": d.CorsPolicy == nil && root.CorsPolicy != nil, "headers": d.Headers == nil && root.Headers != nil,
	} {
		if from {
			r.inherited[field] = true
		}
	}
}

// mergeMatches ANDs every pair of a root's and a delegate's blocks that can
// hold together. Each of the delegate's must fit at least one of the root's;
// otherwise conflict says what does not.
func mergeMatches(root, d []*networking.HTTPMatchRequest) (out []*networking.HTTPMatchRequest, conflict string) {
	if len(root) == 0 {
		return d, ""
	}
	if len(d) == 0 {
		return root, ""
	}
	for _, leaf := range d {
		fits, why := false, ""
		for _, r := range root {
			if w := matchConflict(r, leaf); w != "" {
				why = w
				continue
			}
			out = append(out, mergeMatch(r, leaf))
			fits = true
		}
		if !fits {
			return nil, why
		}
	}
	return out, ""
}

func mergeMatch(root, leaf *networking.HTTPMatchRequest) *networking.HTTPMatchRequest {
	pick := func(a, b *networking.StringMatch) *networking.StringMatch {
		if a != nil {
			return a
		}
		return b
	}
	out := &networking.HTTPMatchRequest{
		Name: leaf.Name, Uri: pick(leaf.Uri, root.Uri), Scheme: pick(leaf.Scheme, root.Scheme), Method: pick(leaf.Method, root.Method),
		Authority: pick(leaf.Authority, root.Authority), Headers: union(root.Headers, leaf.Headers), WithoutHeaders: union(root.WithoutHeaders, leaf.WithoutHeaders),
		QueryParams: union(root.QueryParams, leaf.QueryParams), Port: leaf.Port, IgnoreUriCase: leaf.IgnoreUriCase, StatPrefix: leaf.StatPrefix,
		// A delegate says nothing of the proxy: its root does.
		SourceLabels: root.SourceLabels, SourceNamespace: root.SourceNamespace, Gateways: root.Gateways,
	}
	if out.Port == 0 {
		out.Port = root.Port
	}
	switch {
	case out.Name == "":
		out.Name = root.Name
	case root.Name != "":
		out.Name = root.Name + "-" + out.Name
	}
	return out
}

func union(root, leaf map[string]*networking.StringMatch) map[string]*networking.StringMatch {
	if len(root)+len(leaf) == 0 {
		return nil
	}
	out := map[string]*networking.StringMatch{}
	for k, v := range root {
		out[k] = v
	}
	for k, v := range leaf {
		out[k] = v
	}
	return out
}

// matchConflict names the property in which a delegate's block does not lie
// within the root's; "" for none.
func matchConflict(root, leaf *networking.HTTPMatchRequest) string {
	for _, p := range []struct {
		name       string
		root, leaf *networking.StringMatch
	}{{"uri", root.Uri, leaf.Uri}, {"scheme", root.Scheme, leaf.Scheme}, {"method", root.Method, leaf.Method}, {"authority", root.Authority, leaf.Authority}} {
		if !within(p.root, p.leaf) {
			return p.name
		}
	}
	for _, p := range []struct {
		name       string
		root, leaf map[string]*networking.StringMatch
	}{{"headers.", root.Headers, leaf.Headers}, {"withoutHeaders.", root.WithoutHeaders, leaf.WithoutHeaders}, {"queryParams.", root.QueryParams, leaf.QueryParams}} {
		for _, key := range sortedKeys(p.leaf) {
			if !within(p.root[key], p.leaf[key]) {
				return p.name + key
			}
		}
	}
	switch {
	case root.IgnoreUriCase != leaf.IgnoreUriCase && root.Uri != nil && leaf.Uri != nil:
		return "ignoreUriCase"
	case root.Port > 0 && leaf.Port > 0 && root.Port != leaf.Port:
		return "port"
	}
	return ""
}

// within: everything that leaf matches, root matches too. Regular expressions
// on both sides cannot be compared and conflict.
func within(root, leaf *networking.StringMatch) bool {
	if root == nil || leaf == nil {
		return true
	}
	if root.GetRegex() != "" || leaf.GetRegex() != "" {
		return false
	}
	if exact := root.GetExact(); exact != "" {
		return leaf.GetExact() == exact
	}
	prefix := root.GetPrefix()
	return prefix != "" && (strings.HasPrefix(leaf.GetPrefix(), prefix) || strings.HasPrefix(leaf.GetExact(), prefix))
}
