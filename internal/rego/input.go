package rego

import (
	"encoding/json"
	"net/netip"
	"net/url"
	"strconv"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/util"

	"github.com/tulle-mesh/tulle/internal/authz"
)

// Document is the whole input that opa-envoy-plugin would make of a request.
// Fields that are not known are absent. An error is a request that is refused
// with status 400: its path or its body cannot be read.
func Document(r *authz.External, skipBody bool) (map[string]any, error) {
	return document(r, &everything, skipBody)
}

// input is the part of the document that the policy reads, or the whole, which
// a decision log shows. Values become Rego's when they are looked at.
func (p *Policy) input(r *authz.External, whole bool) (ast.Value, map[string]any, error) {
	n := p.needs
	if whole {
		n = &everything
	}
	doc, err := document(r, n, p.spec.SkipBody)
	if err != nil {
		return nil, nil, err
	}
	return ast.LazyObject(doc), doc, nil
}

// document copies what it takes of the request: decisions, tokens and patterns
// that are remembered, here and in OPA, outlive the buffer that r's strings lie in.
func document(r *authz.External, n *need, skipBody bool) (map[string]any, error) {
	in := make(map[string]any, n.size(8))
	if a := n.of("attributes"); a != nil {
		in["attributes"] = attributes(r, a)
	}
	if n.of("version") != nil {
		in["version"] = map[string]any{"ext_authz": "v3", "encoding": "protojson"}
	}
	if r.SourcePrincipal != "" && n.of("source_principal") != nil {
		in["source_principal"] = strings.Clone(r.SourcePrincipal)
	}
	if !r.HTTP {
		return in, nil
	}
	target := r.Path
	if n.of("parsed_path") != nil || n.of("parsed_query") != nil {
		target = strings.Clone(target)
	}
	path, query, _ := strings.Cut(target, "?")
	segments, err := splitPath(path) // also when nobody reads it: a path that cannot be read is refused
	if err != nil {
		return nil, err
	}
	if n.of("parsed_path") != nil {
		in["parsed_path"] = segments()
	}
	if n.of("parsed_query") != nil {
		in["parsed_query"] = parseQuery(query)
	}
	if !skipBody && (len(r.Body) > 0 || n.of("parsed_body") != nil || n.of("truncated_body") != nil) {
		body, truncated, err := parseBody(r)
		if err != nil {
			return nil, err
		}
		in["parsed_body"], in["truncated_body"] = body, truncated
	}
	return in, nil
}

func attributes(r *authz.External, n *need) map[string]any {
	out := make(map[string]any, n.size(4))
	if n.of("source") != nil {
		out["source"] = peer(r.SourceAddress, r.SourcePrincipal)
	}
	if n.of("destination") != nil {
		out["destination"] = peer(r.DestinationAddress, r.DestinationPrincipal)
	}
	if len(r.ContextExtensions) > 0 && n.of("contextExtensions") != nil {
		ext := map[string]any{}
		for k, v := range r.ContextExtensions {
			ext[strings.Clone(k)] = strings.Clone(v)
		}
		out["contextExtensions"] = ext
	}
	if r.SNI != "" && n.of("tlsSession") != nil {
		out["tlsSession"] = map[string]any{"sni": strings.Clone(r.SNI)}
	}
	request := n.of("request")
	if !r.HTTP || request == nil {
		return out
	}
	to := make(map[string]any, request.size(2))
	if request.of("time") != nil {
		to["time"] = map[string]any{"seconds": number(r.Time.Unix()), "nanos": number(int64(r.Time.Nanosecond()))}
	}
	if h := request.of("http"); h != nil {
		to["http"] = httpAttributes(r, h)
	}
	out["request"] = to
	return out
}

func httpAttributes(r *authz.External, n *need) map[string]any {
	out := make(map[string]any, n.size(10))
	for _, f := range [...]struct{ name, value string }{{"id", r.ID}, {"method", r.Method}, {"path", r.Path}, {"host", r.Host}, {"scheme", r.Scheme}, {"protocol", r.Protocol}} {
		if f.value != "" && n.of(f.name) != nil {
			out[f.name] = strings.Clone(f.value)
		}
	}
	size := int64(-1)
	if len(r.Body) > 0 {
		size = int64(len(r.Body))
		switch {
		case r.RawBody && n.of("rawBody") != nil:
			out["rawBody"] = base64Text(r.Body)
		case !r.RawBody && n.of("body") != nil:
			out["body"] = string(r.Body)
		}
	}
	if n.of("size") != nil {
		out["size"] = number(size)
	}
	if h := n.of("headers"); h != nil {
		out["headers"] = headers(r, h)
	}
	return out
}

// headers have lower-case names; what is there twice is joined. Pseudo headers
// are among them, as in Envoy's request.
func headers(r *authz.External, n *need) map[string]any {
	out := make(map[string]any, n.size(20))
	add := func(name, value string) bool {
		if n.of(name) == nil {
			return true
		}
		if before, ok := out[name]; ok {
			out[name] = before.(string) + "," + value
			return true
		}
		out[strings.Clone(name)] = strings.Clone(value)
		return true
	}
	if r.Headers != nil {
		r.Headers(add)
	}
	for _, f := range [...]struct{ name, value string }{{":authority", r.Host}, {":method", r.Method}, {":path", r.Path}, {":scheme", r.Scheme}} {
		if n.of(f.name) != nil {
			out[f.name] = strings.Clone(f.value)
		}
	}
	if len(r.Body) > 0 && n.of(partialBody) != nil {
		out[partialBody] = strconv.FormatBool(r.BodyTruncated)
	}
	return out
}

const partialBody = "x-envoy-auth-partial-body"

func peer(a netip.AddrPort, principal string) map[string]any {
	p := map[string]any{"address": map[string]any{"socketAddress": map[string]any{"address": a.Addr().String(), "portValue": number(int64(a.Port()))}}}
	if principal != "" {
		p["principal"] = strings.Clone(principal)
	}
	return p
}

func number(n int64) json.Number { return json.Number(strconv.FormatInt(n, 10)) }

// splitPath checks the path and returns how to take it apart.
func splitPath(path string) (func() []any, error) {
	if strings.IndexByte(path, '%') >= 0 {
		var err error
		if path, err = url.PathUnescape(path); err != nil {
			return nil, err
		}
	}
	return func() []any {
		parts := strings.Split(strings.TrimLeft(path, "/"), "/")
		out := make([]any, len(parts))
		for i, p := range parts {
			out[i] = p
		}
		return out
	}, nil
}

// parseQuery leaves out parameters that cannot be read, as the plugin does.
func parseQuery(query string) map[string]any {
	values, _ := url.ParseQuery(query) // what could be read is there beside the error
	return lists(values)
}

func lists(values url.Values) map[string]any {
	out := make(map[string]any, len(values))
	for k, list := range values {
		l := make([]any, len(list))
		for i, v := range list {
			l[i] = v
		}
		out[k] = l
	}
	return out
}

// parseBody understands JSON and forms; other types are not looked into.
func parseBody(r *authz.External) (body any, truncated bool, err error) {
	if len(r.Body) == 0 {
		return nil, r.BodyTruncated, nil
	}
	kind, length := "", ""
	if r.Headers != nil {
		r.Headers(func(name, value string) bool {
			switch name {
			case "content-type":
				kind = value
			case "content-length":
				length = value
			}
			return true
		})
	}
	if n, err := strconv.ParseInt(length, 10, 64); r.BodyTruncated || err == nil && n > int64(len(r.Body)) {
		return nil, true, nil
	}
	switch {
	case strings.Contains(kind, "application/json"):
		err = util.Unmarshal(r.Body, &body)
	case strings.Contains(kind, "application/x-www-form-urlencoded"):
		var values url.Values
		if values, err = url.ParseQuery(string(r.Body)); err == nil {
			body = lists(values)
		}
	case strings.Contains(kind, "multipart/form-data"):
		body, err = parseForm(kind, r.Body)
	}
	return body, false, err
}
