package rego

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/tulle-mesh/tulle/internal/authz"
	"github.com/tulle-mesh/tulle/internal/ir"
)

// interpret reads a decision document: a boolean, or an object with "allowed".
// One that is not well formed is no decision.
func interpret(v ast.Value) (authz.Verdict, error) {
	if b, ok := v.(ast.Boolean); ok {
		return authz.Verdict{Allow: bool(b)}, nil
	}
	doc, err := ast.JSON(v)
	if err != nil {
		return authz.Verdict{}, err
	}
	o, ok := doc.(map[string]any)
	if !ok {
		return authz.Verdict{}, fmt.Errorf("the decision is neither a boolean nor an object, but %T", doc)
	}
	allowed, ok := o["allowed"].(bool)
	if !ok {
		return authz.Verdict{}, errors.New("the decision's field allowed is missing or not a boolean")
	}
	out := authz.Verdict{Allow: allowed}
	if out.Headers, err = headerList("headers", o["headers"]); err != nil {
		return authz.Verdict{}, err
	}
	if m, ok := o["dynamic_metadata"]; ok {
		if out.Metadata, ok = m.(map[string]any); !ok {
			return authz.Verdict{}, errors.New("the decision's dynamic_metadata is not an object")
		}
	}
	if allowed {
		err = allowing(&out, o)
	} else {
		err = denying(&out, o)
	}
	if err != nil {
		return authz.Verdict{}, err
	}
	return out, nil
}

func allowing(v *authz.Verdict, o map[string]any) error {
	list, err := headerList("response_headers_to_add", o["response_headers_to_add"])
	if err != nil {
		return err
	}
	for _, h := range list {
		v.ResponseHeaders = append(v.ResponseHeaders, authz.ResponseHeader{Header: h})
	}
	if v.RemoveHeaders, err = texts("request_headers_to_remove", o); err != nil {
		return err
	}
	for i, name := range v.RemoveHeaders {
		if v.RemoveHeaders[i] = strings.ToLower(name); authz.Framing(v.RemoveHeaders[i]) {
			return fmt.Errorf("the decision removes header %q", name)
		}
	}
	if v.RemoveQuery, err = texts("query_parameters_to_remove", o); err != nil {
		return err
	}
	for i, name := range v.RemoveQuery {
		v.RemoveQuery[i] = url.QueryEscape(name)
	}
	set, ok := o["query_parameters_to_set"].(map[string]any)
	if !ok && o["query_parameters_to_set"] != nil {
		return errors.New("the decision's query_parameters_to_set is not an object")
	}
	for _, name := range sorted(set) {
		values, err := textOrTexts("query_parameters_to_set", name, set[name])
		if err != nil {
			return err
		}
		for _, value := range values {
			v.SetQuery = append(v.SetQuery, ir.Header{Name: url.QueryEscape(name), Value: url.QueryEscape(value)})
		}
	}
	return nil
}

func denying(v *authz.Verdict, o map[string]any) error {
	if body, ok := o["body"]; ok {
		if v.Body, ok = body.(string); !ok {
			return errors.New("the decision's body is not a string")
		}
	}
	if status, ok := o["http_status"]; ok {
		n, ok := status.(json.Number)
		if !ok {
			return errors.New("the decision's http_status is not a number")
		}
		code, err := n.Int64()
		if err != nil || code < 200 || http.StatusText(int(code)) == "" {
			return fmt.Errorf("the decision's http_status %s is not a status", n)
		}
		v.Status = int(code)
	}
	return nil
}

// headerList reads an object, or a list of objects, of headers.
func headerList(field string, v any) (out []ir.Header, err error) {
	switch v := v.(type) {
	case nil:
		return nil, nil
	case []any:
		for _, one := range v {
			o, ok := one.(map[string]any)
			if !ok {
				return nil, fmt.Errorf("the decision's %s has something else than objects", field)
			}
			more, err := headerList(field, o)
			if err != nil {
				return nil, err
			}
			out = append(out, more...)
		}
		return out, nil
	case map[string]any:
		for _, name := range sorted(v) {
			values, err := textOrTexts(field, name, v[name])
			if err != nil {
				return nil, err
			}
			lower := strings.ToLower(name)
			for _, value := range values {
				if authz.Framing(lower) || !authz.CleanValue(value) || !authz.CleanValue(lower) || strings.ContainsAny(lower, " \t") {
					return nil, fmt.Errorf("the decision sets header %q", name)
				}
				out = append(out, ir.Header{Name: lower, Value: value})
			}
		}
		return out, nil
	}
	return nil, fmt.Errorf("the decision's %s is neither an object nor a list", field)
}

func textOrTexts(field, name string, v any) ([]string, error) {
	if s, ok := v.(string); ok {
		return []string{s}, nil
	}
	list, ok := v.([]any)
	var out []string
	for _, one := range list {
		s, isText := one.(string)
		ok = ok && isText
		out = append(out, s)
	}
	if !ok {
		return nil, fmt.Errorf("the decision's %s.%s is neither a string nor a list of strings", field, name)
	}
	return out, nil
}

func texts(field string, o map[string]any) ([]string, error) {
	v, ok := o[field]
	if !ok {
		return nil, nil
	}
	if _, ok := v.([]any); !ok {
		return nil, fmt.Errorf("the decision's %s is not a list", field)
	}
	return textOrTexts("decision", field, v)
}

func sorted(m map[string]any) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}
