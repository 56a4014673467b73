package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
)

// graphql answers the two queries jobs and job(id). Whatever it does not
// support is an error in the answer, with status 200 as is usual for GraphQL.
func (o *orchestrator) graphql(w http.ResponseWriter, r *http.Request) {
	var in struct {
		Query string `json:"query"`
	}
	if r.Method == http.MethodGet {
		in.Query = r.URL.Query().Get("query")
	} else if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
		graphqlError(w, fmt.Errorf("the body is not JSON with a query: %w", err))
		return
	}
	fields, err := parseQuery(in.Query)
	if err == nil {
		err = checkQuery(fields)
	}
	if err != nil {
		graphqlError(w, err)
		return
	}
	data, err := o.resolve(r.Context(), fields)
	if err != nil {
		graphqlError(w, err)
		return
	}
	writeJSON(w, http.StatusOK, map[string]any{"data": data})
}

func graphqlError(w http.ResponseWriter, err error) {
	writeJSON(w, http.StatusOK, map[string]any{"errors": []map[string]string{{"message": err.Error()}}})
}

// object is a JSON object that keeps the order of its fields, which GraphQL
// asks for.
type object []member

type member struct {
	name  string
	value any
}

func (o object) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	b.WriteByte('{')
	for i, m := range o {
		if i > 0 {
			b.WriteByte(',')
		}
		value, err := json.Marshal(m.value)
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(&b, "%q:%s", m.name, value)
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}

// checkQuery refuses what resolve could not answer.
func checkQuery(fields []field) error {
	for _, f := range fields {
		switch f.name {
		case "__typename":
			continue
		case "jobs":
			if f.args != nil {
				return errors.New("jobs takes no arguments")
			}
		case "job":
			if _, ok := f.args["id"]; !ok || len(f.args) != 1 {
				return errors.New("job takes exactly one argument, id")
			}
		default:
			return fmt.Errorf("the query has no field %q; it has jobs and job(id)", f.name)
		}
		if len(f.fields) == 0 {
			return fmt.Errorf("%s needs a selection of fields", f.name)
		}
		for _, sub := range f.fields {
			if _, ok := jobField(job{}, sub.name); !ok {
				return fmt.Errorf("a job has no field %q", sub.name)
			}
			if sub.fields != nil || sub.args != nil {
				return fmt.Errorf("job.%s takes neither arguments nor a selection", sub.name)
			}
		}
	}
	return nil
}

func (o *orchestrator) resolve(ctx context.Context, fields []field) (object, error) {
	var data object
	for _, f := range fields {
		switch f.name {
		case "__typename":
			data = append(data, member{f.name, "Query"})
		case "jobs":
			jobs, err := o.store.list(ctx)
			if err != nil {
				return nil, err
			}
			list := make([]object, 0, len(jobs))
			for _, j := range jobs {
				list = append(list, selectFields(j, f.fields))
			}
			data = append(data, member{f.name, list})
		case "job":
			j, ok, err := o.store.get(ctx, f.args["id"])
			if err != nil {
				return nil, err
			}
			var value any
			if ok {
				value = selectFields(j, f.fields)
			}
			data = append(data, member{f.name, value})
		}
	}
	return data, nil
}

func selectFields(j job, fields []field) object {
	o := make(object, 0, len(fields))
	for _, f := range fields {
		value, _ := jobField(j, f.name)
		o = append(o, member{f.name, value})
	}
	return o
}

func jobField(j job, name string) (any, bool) {
	switch name {
	case "__typename":
		return "Job", true
	case "id":
		return j.ID, true
	case "title":
		return j.Title, true
	case "steps":
		return j.Steps, true
	case "state":
		return j.State, true
	case "progress":
		return j.Progress, true
	case "worker":
		return j.Worker, true
	case "version":
		return j.Version, true
	case "created":
		return j.Created, true
	case "error":
		return j.Error, true
	}
	return nil, false
}

// field is one field of a selection.
type field struct {
	name   string
	args   map[string]string // nil without parentheses
	fields []field           // nil without braces
}

// queryParser reads one anonymous or named query. Aliases, variables,
// fragments, directives and lists are named in the error and refused.
type queryParser struct {
	tokens []string // names and punctuation as they are, strings with a leading "
	depth  int
}

const maxQueryDepth = 8

func parseQuery(query string) ([]field, error) {
	tokens, err := queryTokens(query)
	if err != nil {
		return nil, err
	}
	p := &queryParser{tokens: tokens}
	if p.peek() == "mutation" || p.peek() == "subscription" {
		return nil, fmt.Errorf("%ss are not supported, only queries", p.peek())
	}
	if p.peek() == "query" {
		p.next()
		if isName(p.peek()) {
			p.next()
		}
		if p.peek() == "(" {
			return nil, errors.New("variables are not supported")
		}
	}
	fields, err := p.selection()
	if err == nil && p.peek() != "" {
		err = fmt.Errorf("unexpected %.40q after the query; one operation is supported", p.peek())
	}
	return fields, err
}

// peek returns "" at the end.
func (p *queryParser) peek() string {
	if len(p.tokens) == 0 {
		return ""
	}
	return p.tokens[0]
}

func (p *queryParser) next() string {
	token := p.peek()
	if token != "" {
		p.tokens = p.tokens[1:]
	}
	return token
}

func (p *queryParser) expect(token string) error {
	switch got := p.next(); got {
	case token:
		return nil
	case "":
		return fmt.Errorf("the query ends where %q was expected", token)
	case "@":
		return errors.New("directives are not supported")
	case "...":
		return errors.New("fragments are not supported")
	case "$":
		return errors.New("variables are not supported")
	default:
		return fmt.Errorf("unexpected %.40q where %q was expected", got, token)
	}
}

func (p *queryParser) selection() ([]field, error) {
	if p.depth++; p.depth > maxQueryDepth {
		return nil, errors.New("the query is nested too deeply")
	}
	defer func() { p.depth-- }()
	if err := p.expect("{"); err != nil {
		return nil, err
	}
	var fields []field
	seen := map[string]bool{}
	for p.peek() != "}" {
		if !isName(p.peek()) {
			return nil, p.expect("}")
		}
		f, err := p.field()
		if err != nil {
			return nil, err
		}
		if seen[f.name] && (f.args != nil || f.fields != nil) {
			return nil, fmt.Errorf("%s is asked twice, which would need aliases; they are not supported", f.name)
		}
		if !seen[f.name] {
			fields = append(fields, f)
		}
		seen[f.name] = true
	}
	p.next()
	if fields == nil {
		return nil, errors.New("a selection is empty")
	}
	return fields, nil
}

func (p *queryParser) field() (f field, err error) {
	f.name = p.next()
	switch p.peek() {
	case ":":
		return f, errors.New("aliases are not supported")
	case "(":
		if f.args, err = p.arguments(); err != nil {
			return f, err
		}
	}
	switch p.peek() {
	case "@":
		return f, errors.New("directives are not supported")
	case "{":
		f.fields, err = p.selection()
	}
	return f, err
}

// arguments reads name: value pairs; a value is a string or an integer.
func (p *queryParser) arguments() (map[string]string, error) {
	p.next()
	args := map[string]string{}
	for p.peek() != ")" {
		name := p.next()
		if !isName(name) {
			return nil, fmt.Errorf("an argument needs a name, not %.40q", name)
		}
		if err := p.expect(":"); err != nil {
			return nil, err
		}
		value, isString := strings.CutPrefix(p.next(), `"`)
		if value == "$" {
			return nil, errors.New("variables are not supported")
		}
		if !isString && !validID(value) {
			return nil, fmt.Errorf("the value of %s must be a string or a positive integer", name)
		}
		if _, twice := args[name]; twice {
			return nil, fmt.Errorf("the argument %s is given twice", name)
		}
		args[name] = value
	}
	p.next()
	return args, nil
}

func isNameByte(c byte, first bool) bool {
	return c == '_' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || !first && c >= '0' && c <= '9'
}

func isName(token string) bool { return token != "" && isNameByte(token[0], true) }

// queryTokens splits a query. Commas are white space in GraphQL.
func queryTokens(q string) ([]string, error) {
	var tokens []string
	for i := 0; i < len(q); {
		start := i
		switch c := q[i]; {
		case c == ' ' || c == '\t' || c == '\r' || c == '\n' || c == ',':
			i++
		case c == '#':
			for i < len(q) && q[i] != '\n' {
				i++
			}
		case strings.HasPrefix(q[i:], "..."):
			i += 3
			tokens = append(tokens, "...")
		case c == '"':
			for i++; i < len(q) && q[i] != '"' && q[i] != '\n'; i++ {
				if q[i] == '\\' {
					i++
				}
			}
			if i >= len(q) || q[i] != '"' {
				return nil, fmt.Errorf("the string at character %d does not end", start+1)
			}
			i++
			var s string
			if json.Unmarshal([]byte(q[start:i]), &s) != nil {
				return nil, fmt.Errorf("the string at character %d is not valid", start+1)
			}
			tokens = append(tokens, `"`+s)
		case isNameByte(c, true) || c == '-' || c >= '0' && c <= '9':
			for i++; i < len(q) && isNameByte(q[i], false); i++ {
			}
			tokens = append(tokens, q[start:i])
		case strings.IndexByte("{}():!$@=[]|&", c) >= 0:
			i++
			tokens = append(tokens, q[start:i])
		default:
			return nil, fmt.Errorf("unexpected character %q at %d", c, start+1)
		}
	}
	return tokens, nil
}
