package rego

import (
	"bytes"
	"encoding/json"
	"errors"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/bundle"
	"sigs.k8s.io/yaml"

	"github.com/tulle-mesh/tulle/internal/ir"
)

// Fault is what is wrong with a policy, where its author can find it.
type Fault struct {
	File   string // "" when it is in no file
	Line   int
	Reason string
}

// Check compiles a policy to say what is wrong with it and what its author may
// not have meant.
func Check(spec *ir.Rego) (faults []Fault, warnings []string) {
	p, err := Compile(spec)
	if err == nil {
		return nil, p.Warnings()
	}
	var list ast.Errors
	if !errors.As(err, &list) {
		return []Fault{{Reason: err.Error()}}, nil
	}
	for _, e := range list {
		f := Fault{Reason: e.Code + ": " + e.Message}
		if e.Location != nil {
			f.File, f.Line = e.Location.File, e.Location.Row
		}
		faults = append(faults, f)
	}
	return faults, nil
}

// ReadBundle reads policies and data from OPA's bundle format (a tar.gz).
func ReadBundle(b []byte) (modules map[string]string, data map[string]any, err error) {
	r, err := bundle.NewReader(bytes.NewReader(b)).WithSkipBundleVerification(true).WithSizeLimitBytes(maxBundleFile).Read()
	if err != nil {
		return nil, nil, err
	}
	if r.Signatures.Signatures != nil {
		return nil, nil, errors.New("the bundle is signed: who delivers it this way cannot have its signature checked")
	}
	modules = map[string]string{}
	for _, m := range r.Modules {
		modules[m.Path] = string(m.Raw)
	}
	// Through JSON, so that the document is what a data file would have been.
	text, err := json.Marshal(r.Data)
	if err == nil {
		data, err = ParseData(text)
	}
	return modules, data, err
}

// ParseData reads a data document in JSON or YAML; its numbers stay what was
// written.
func ParseData(text []byte) (map[string]any, error) {
	b, err := yaml.YAMLToJSON(text)
	if err != nil {
		return nil, err
	}
	var doc map[string]any
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	if err := d.Decode(&doc); err != nil {
		return nil, err
	}
	return doc, nil
}

const maxBundleFile = 4 << 20
