package opa

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/tulle-mesh/tulle/internal/authz"
	"github.com/tulle-mesh/tulle/internal/ir"
)

// Decider answers external authorization with an Engine and writes the
// decision log. It implements authz.Provider.
type Decider struct {
	Engine *Engine
	Log    *DecisionLog // nil: no log
}

// Check implements authz.Provider.
func (d *Decider) Check(ctx context.Context, r *authz.External) authz.Verdict {
	input, err := document(r)
	if err != nil { // a path or body that cannot be parsed is refused, not decided
		return authz.Verdict{Status: 400, Body: err.Error()}
	}
	result, took, err := d.Engine.eval(ctx, input)
	v := authz.Verdict{Err: err}
	if err == nil {
		v = interpret(result)
	}
	if d.Log != nil {
		v.Detail = d.Log.write(d.Engine.query, input, result, took, v.Err)
	}
	return v
}

// document builds the input that opa-envoy-plugin would, without going
// through JSON. Fields that are not known are absent.
func document(r *authz.External) (ast.Value, error) {
	headers := map[string]any{}
	if r.Headers != nil {
		r.Headers(func(name, value string) bool {
			if before, ok := headers[name]; ok {
				value = before.(string) + "," + value
			}
			headers[name] = value
			return true
		})
	}
	attributes := map[string]any{
		"source":      peer(r.SourceAddress.Addr().String(), int(r.SourceAddress.Port()), r.SourcePrincipal),
		"destination": peer(r.DestinationAddress.Addr().String(), int(r.DestinationAddress.Port()), r.DestinationPrincipal),
	}
	input := map[string]any{"attributes": attributes, "version": map[string]any{"ext_authz": "v3", "encoding": "protojson"}}
	if len(r.ContextExtensions) > 0 {
		ext := map[string]any{}
		for k, v := range r.ContextExtensions {
			ext[k] = v
		}
		attributes["contextExtensions"] = ext
	}
	if r.SNI != "" {
		attributes["tlsSession"] = map[string]any{"sni": r.SNI}
	}
	if r.SourcePrincipal != "" {
		input["source_principal"] = r.SourcePrincipal
	}
	if r.HTTP {
		path, query, _ := strings.Cut(r.Path, "?")
		segments, err := splitPath(path)
		if err != nil {
			return nil, err
		}
		values, err := url.ParseQuery(query)
		if err != nil {
			return nil, err
		}
		parsed := map[string]any{}
		for k, list := range values {
			l := make([]any, len(list))
			for i, v := range list {
				l[i] = v
			}
			parsed[k] = l
		}
		http := map[string]any{"method": r.Method, "headers": headers, "path": r.Path, "host": r.Host, "scheme": r.Scheme, "protocol": r.Protocol, "size": json.Number("-1")}
		if r.ID != "" {
			http["id"] = r.ID
		}
		if len(r.Body) > 0 {
			http["body"], http["size"] = string(r.Body), json.Number(fmt.Sprint(len(r.Body)))
		}
		attributes["request"] = map[string]any{"http": http, "time": map[string]any{"seconds": json.Number(fmt.Sprint(r.Time.Unix())), "nanos": json.Number(fmt.Sprint(r.Time.Nanosecond()))}}
		input["parsed_path"], input["parsed_query"] = segments, parsed
		body, truncated, err := parseBody(r, headers)
		if err != nil {
			return nil, err
		}
		input["parsed_body"], input["truncated_body"] = body, truncated
	}
	return ast.InterfaceToValue(input)
}

func peer(host string, port int, principal string) map[string]any {
	p := map[string]any{"address": map[string]any{"socketAddress": map[string]any{"address": host, "portValue": json.Number(fmt.Sprint(port))}}}
	if principal != "" {
		p["principal"] = principal
	}
	return p
}

func splitPath(path string) ([]any, error) {
	unescaped, err := url.PathUnescape(path)
	if err != nil {
		return nil, err
	}
	parts := strings.Split(strings.TrimLeft(unescaped, "/"), "/")
	out := make([]any, len(parts))
	for i, p := range parts {
		out[i] = p
	}
	return out, nil
}

// parseBody understands JSON and forms; other types are not looked into.
func parseBody(r *authz.External, headers map[string]any) (body any, truncated bool, err error) {
	if r.BodyTruncated {
		return nil, true, nil
	}
	if len(r.Body) == 0 {
		return nil, false, nil
	}
	kind, _ := headers["content-type"].(string)
	switch {
	case strings.Contains(kind, "application/json"):
		err = json.Unmarshal(r.Body, &body)
	case strings.Contains(kind, "application/x-www-form-urlencoded"):
		var values url.Values
		if values, err = url.ParseQuery(string(r.Body)); err == nil {
			form := map[string]any{}
			for k, list := range values {
				l := make([]any, len(list))
				for i, v := range list {
					l[i] = v
				}
				form[k] = l
			}
			body = form
		}
	}
	return body, false, err
}

// interpret reads a decision document: a boolean, or an object with "allowed".
func interpret(result any) authz.Verdict {
	if b, ok := result.(bool); ok {
		return authz.Verdict{Allow: b}
	}
	o, ok := result.(map[string]any)
	if !ok {
		return authz.Verdict{Err: fmt.Errorf("the decision is neither a boolean nor an object, but %T", result)}
	}
	allowed, ok := o["allowed"].(bool)
	if !ok {
		return authz.Verdict{Err: fmt.Errorf("the decision's field allowed is missing or not a boolean")}
	}
	v := authz.Verdict{Allow: allowed}
	var err error
	if v.Headers, err = headerList(o["headers"]); err == nil {
		var list []ir.Header
		list, err = headerList(o["response_headers_to_add"])
		for _, h := range list {
			v.ResponseHeaders = append(v.ResponseHeaders, authz.ResponseHeader{Header: h})
		}
	}
	if err != nil {
		return authz.Verdict{Err: err}
	}
	if remove, ok := o["request_headers_to_remove"].([]any); ok {
		for _, r := range remove {
			if s, ok := r.(string); ok {
				v.RemoveHeaders = append(v.RemoveHeaders, strings.ToLower(s))
			}
		}
	}
	if !allowed {
		v.Body, _ = o["body"].(string)
		if n, ok := o["http_status"].(json.Number); ok {
			code, err := n.Int64()
			if err != nil || code < 200 || code > 599 {
				return authz.Verdict{Err: fmt.Errorf("the decision's http_status %s is not a status", n)}
			}
			v.Status = int(code)
		}
	}
	return v
}

// headerList reads an object, or a list of objects, of headers.
func headerList(v any) ([]ir.Header, error) {
	var out []ir.Header
	switch v := v.(type) {
	case nil:
	case map[string]any:
		for name, value := range v {
			switch value := value.(type) {
			case string:
				out = append(out, ir.Header{Name: strings.ToLower(name), Value: value})
			case []any:
				for _, one := range value {
					s, ok := one.(string)
					if !ok {
						return nil, fmt.Errorf("the decision's header %s is not a string", name)
					}
					out = append(out, ir.Header{Name: strings.ToLower(name), Value: s})
				}
			default:
				return nil, fmt.Errorf("the decision's header %s is not a string", name)
			}
		}
	case []any:
		for _, one := range v {
			more, err := headerList(one)
			if err != nil {
				return nil, err
			}
			out = append(out, more...)
		}
	default:
		return nil, fmt.Errorf("the decision's headers are neither an object nor a list")
	}
	return out, nil
}
