package resource

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"sort"
	"strconv"
	"strings"
	"time"

	"gopkg.in/yaml.v3"
)

// Limits on what one parse accepts, so that no file can exhaust the process.
const (
	MaxFileSize = 8 << 20
	maxDocs     = 5000
	maxNodes    = 500_000
	maxDepth    = 64
)

// File is one file's name, as problems print it, and its content.
type File struct {
	Name string
	Data []byte
	// Built: the text was generated from the file, whose lines are others.
	Built bool
}

// Parse reads every object of the files. A document that cannot be read, or an
// object with errors, is left out and reported; nothing else suffers. Security
// objects that are left out leave a Denied mark behind (fail closed).
func Parse(files []File) (*Set, []Problem) {
	p := &parser{set: &Set{}, seen: map[string]Meta{}}
	for _, f := range files {
		p.file(f)
	}
	p.set.Sort()
	return p.set, p.problems
}

type parser struct {
	set      *Set
	problems []Problem
	seen     map[string]Meta
	built    bool // the file now read was generated: its lines mean nothing to the user
}

// object is one document on its way into the set.
type object struct {
	Meta
	node *yaml.Node
	bad  bool // has an error: must not enter the set
	p    *parser
}

func (p *parser) file(f File) {
	if len(f.Data) > MaxFileSize {
		p.fileProblem(f.Name, 0, fmt.Sprintf("the file is larger than %d MiB", MaxFileSize>>20))
		return
	}
	p.built = f.Built
	for _, doc := range splitDocuments(f.Data) {
		p.document(f.Name, doc)
	}
}

func (p *parser) positions(file string, lines map[string]int) *Positions {
	if p.built {
		lines = nil
	}
	return NewPositions(file, lines)
}

func (p *parser) fileProblem(file string, line int, reason string) {
	o := Meta{Kind: "File", Pos: NewPositions(file, map[string]int{"": line})}
	p.problems = append(p.problems, Problem{Severity: Error, Origin: o.Origin(), Reason: reason})
}

type document struct {
	data []byte
	line int // of its first line, 1-based
}

// splitDocuments cuts at "---" lines, so that a syntax error in one document
// leaves the others of its file readable.
func splitDocuments(data []byte) []document {
	var docs []document
	start, line, startLine := 0, 1, 1
	for at := 0; at < len(data); {
		end := bytes.IndexByte(data[at:], '\n')
		if end < 0 {
			end = len(data) - at
		} else {
			end++
		}
		text := data[at : at+end]
		if bytes.HasPrefix(text, []byte("---")) && (len(text) == 3 || strings.IndexByte(" \t\r\n", text[3]) >= 0) {
			docs = append(docs, document{data[start:at], startLine})
			start, startLine = at+end, line+1
		}
		at += end
		line++
	}
	return append(docs, document{data[start:], startLine})
}

var yamlLine = regexp.MustCompile(`line (\d+): `)

func (p *parser) document(file string, d document) {
	if len(bytes.TrimSpace(d.data)) == 0 {
		return
	}
	dec := yaml.NewDecoder(bytes.NewReader(d.data))
	var root yaml.Node
	if err := dec.Decode(&root); err != nil {
		if errors.Is(err, io.EOF) {
			return // comments only
		}
		line, reason := d.line, strings.TrimPrefix(err.Error(), "yaml: ")
		if m := yamlLine.FindStringSubmatch(reason); m != nil {
			n, _ := strconv.Atoi(m[1])
			if strings.Contains(reason, "did not find expected ','") {
				n++ // yaml.v3 counts these lines from 0
			}
			line, reason = d.line+n-1, strings.Replace(reason, m[0], "", 1)
		}
		p.fileProblem(file, line, "not valid YAML: "+reason)
		return
	}
	budget := maxNodes
	node, err := expand(root.Content[0], 0, &budget, d.line-1)
	if err != nil {
		line := d.line
		if twice := new(keyTwice); errors.As(err, &twice) {
			line = twice.line
		}
		p.fileProblem(file, line, err.Error())
		return
	}
	p.object(file, node)
}

// keyTwice is a key that an object has at a line and had before.
type keyTwice struct {
	line int
	key  string
}

func (e *keyTwice) Error() string { return fmt.Sprintf("the key %q is given twice", e.key) }

// expand resolves aliases within a budget (a bomb of nested aliases ends
// there), shifts lines to the file's and refuses duplicate keys.
func expand(n *yaml.Node, depth int, budget *int, shift int) (*yaml.Node, error) {
	if *budget--; *budget < 0 || depth > maxDepth {
		return nil, errors.New("the document is too large or too deeply nested once its aliases are resolved")
	}
	if n.Kind == yaml.AliasNode {
		return expand(n.Alias, depth+1, budget, shift)
	}
	out := *n
	out.Line += shift
	out.Content = nil
	seen := map[string]bool{}
	for i, c := range n.Content {
		if n.Kind == yaml.MappingNode && i%2 == 0 {
			if c.Tag == "!!merge" {
				return nil, errors.New("YAML merge keys (<<) are not supported")
			}
			if seen[c.Value] {
				return nil, &keyTwice{c.Line + shift, c.Value}
			}
			seen[c.Value] = true
		}
		e, err := expand(c, depth+1, budget, shift)
		if err != nil {
			return nil, err
		}
		out.Content = append(out.Content, e)
	}
	return &out, nil
}

// object dispatches one document by kind.
func (p *parser) object(file string, n *yaml.Node) {
	if n.Kind != yaml.MappingNode {
		if n.Tag != "!!null" {
			p.fileProblem(file, n.Line, "want an object with apiVersion and kind")
		}
		return
	}
	o := &object{node: n, p: p}
	lines := map[string]int{"": n.Line}
	positions(n, "", lines)
	o.Pos = p.positions(file, lines)
	var head struct {
		APIVersion string `yaml:"apiVersion"`
		Kind       string `yaml:"kind"`
		Metadata   struct {
			Name, Namespace     string
			Labels, Annotations map[string]string
			CreationTimestamp   time.Time `yaml:"creationTimestamp"`
			GenerateName        string    `yaml:"generateName"`
		}
	}
	if err := n.Decode(&head); err != nil {
		meta := child(n, "metadata")
		o.Kind, o.Name, o.Namespace = scalar(n, "kind"), scalar(meta, "name"), scalar(meta, "namespace")
		o.fail("metadata", strings.TrimPrefix(err.Error(), "yaml: "))
		o.deny()
		return
	}
	m := head.Metadata
	o.Meta.Kind, o.APIVersion, o.Name, o.Namespace = head.Kind, head.APIVersion, m.Name, m.Namespace
	o.Labels, o.Annotations, o.Created = m.Labels, m.Annotations, m.CreationTimestamp
	if head.Kind == "List" {
		p.list(file, n)
		return
	}
	if head.Kind == "" || head.APIVersion == "" {
		o.fail("", "apiVersion and kind are needed")
		return
	}
	if o.Name == "" && head.Kind != "Kustomization" {
		o.fail("metadata.name", "a name is needed")
		o.deny()
		return
	}
	o.decode()
}

func (p *parser) list(file string, n *yaml.Node) {
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == "items" {
			for _, item := range n.Content[i+1].Content {
				p.object(file, item)
			}
		}
	}
}

func scalar(n *yaml.Node, key string) string {
	if v := child(n, key); v != nil {
		return v.Value
	}
	return ""
}

func child(n *yaml.Node, key string) *yaml.Node {
	if n == nil || n.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return n.Content[i+1]
		}
	}
	return nil
}

// positions records the line of every field: of its key in a mapping, of the
// item in a list.
func positions(n *yaml.Node, path string, lines map[string]int) {
	switch n.Kind {
	case yaml.MappingNode:
		for i := 0; i+1 < len(n.Content); i += 2 {
			sub := join(path, n.Content[i].Value)
			lines[sub] = n.Content[i].Line
			positions(n.Content[i+1], sub, lines)
		}
	case yaml.SequenceNode:
		for i, c := range n.Content {
			sub := fmt.Sprintf("%s[%d]", path, i)
			lines[sub] = c.Line
			positions(c, sub, lines)
		}
	}
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

// fail reports an error; the object will not enter the set.
func (o *object) fail(path, reason string, hint ...string) {
	o.bad = true
	o.report(Error, path, reason, hint...)
}

func (o *object) warn(path, reason string, hint ...string) {
	o.report(Warning, path, reason, hint...)
}

func (o *object) report(s Severity, path, reason string, hint ...string) {
	o.p.problems = append(o.p.problems, Problem{Severity: s, Origin: o.At(path), Path: path, Reason: reason, Hint: strings.Join(hint, "; ")})
}

// unique refuses the second object of a kind and name.
func (o *object) unique() bool {
	key := o.Kind + "\x00" + o.Namespace + "\x00" + o.Name
	if first, ok := o.p.seen[key]; ok {
		o.fail("metadata.name", "the same object is also at "+first.Origin().Place(), "the first one stays in force; remove one of them")
		return false
	}
	o.p.seen[key] = o.Meta
	return true
}

// toJSON converts a node to JSON. Keys become strings as they were written:
// portLevelMtls has numbers for keys.
func toJSON(n *yaml.Node) ([]byte, error) {
	v, err := plain(n)
	if err != nil {
		return nil, err
	}
	return json.Marshal(v)
}

func plain(n *yaml.Node) (v any, err error) {
	switch n.Kind {
	case yaml.MappingNode:
		m := make(map[string]any, len(n.Content)/2)
		for i := 0; i+1 < len(n.Content); i += 2 {
			if m[n.Content[i].Value], err = plain(n.Content[i+1]); err != nil {
				return nil, err
			}
		}
		return m, nil
	case yaml.SequenceNode:
		list := make([]any, len(n.Content))
		for i, c := range n.Content {
			if list[i], err = plain(c); err != nil {
				return nil, err
			}
		}
		return list, nil
	}
	err = n.Decode(&v)
	return v, err
}

// Sort puts every kind in the order in which Istio lets objects compete. Only
// the code that makes a set may call it, before the set is shared.
func (s *Set) Sort() {
	sortObjects(s.VirtualServices)
	sortObjects(s.DestinationRules)
	sortObjects(s.Gateways)
	sortObjects(s.ServiceEntries)
	sortObjects(s.WorkloadEntries)
	sortObjects(s.WorkloadGroups)
	sortObjects(s.Sidecars)
	sortObjects(s.PeerAuthentications)
	sortObjects(s.AuthorizationPolicies)
	sortObjects(s.RequestAuths)
	sortObjects(s.Namespaces)
	sortObjects(s.Services)
	sortObjects(s.ServiceAccounts)
	sortObjects(s.ConfigMaps)
	sortObjects(s.Secrets)
	sortObjects(s.Deployments)
	sortObjects(s.StatefulSets)
	sortObjects(s.Jobs)
}

func sortObjects[S any](list []*Object[S]) {
	sort.SliceStable(list, func(i, j int) bool {
		a, b := &list[i].Meta, &list[j].Meta
		switch {
		case !a.Created.Equal(b.Created):
			return a.Created.Before(b.Created)
		case a.Name != b.Name:
			return a.Name < b.Name
		}
		return a.Namespace < b.Namespace
	})
}
