package main

import (
	"encoding/json"
	"net/url"
	"strings"
	"testing"
	"time"
)

func TestGraphQL(t *testing.T) {
	a := newApp(t, time.Millisecond)
	a.create(t, `{"title": "say \"hi\""}`)
	eventually(t, "the job is done", func() bool { return a.get(t, "1").State == stateDone })
	for _, c := range []struct{ query, want string }{
		{`{ jobs { id title state progress } }`, `{"data":{"jobs":[{"id":"1","title":"say \"hi\"","state":"done","progress":100}]}}`},
		{`query Q { job(id: "1") { progress, id id } }`, `{"data":{"job":{"progress":100,"id":"1"}}}`},
		{`{ job(id: 1) { __typename } __typename }`, `{"data":{"job":{"__typename":"Job"},"__typename":"Query"}}`},
		{"query { # one that is not there\n job(id: \"\\u0032\") { id } }", `{"data":{"job":null}}`},
		{`{ jobs { id `, "the query ends"},
		{`{ jobs }`, "needs a selection"},
		{`{ jobs { } }`, "empty"},
		{`{ jobs { id { x } } }`, "neither arguments nor a selection"},
		{`{ jobs { owner } }`, "no field"},
		{`{ users { id } }`, "no field"},
		{`{ jobs(first: 2) { id } }`, "no arguments"},
		{`{ job { id } }`, "exactly one argument"},
		{`{ a: jobs { id } }`, "aliases"},
		{`{ job(id: $id) { id } }`, "variables"},
		{`query ($id: ID!) { job(id: $id) { id } }`, "variables"},
		{`{ jobs { ...F } }`, "fragments"},
		{`{ jobs @skip(if: true) { id } }`, "directives"},
		{`{ job(id: 1) { id } job(id: 2) { id } }`, "asked twice"},
		{`mutation { create { id } }`, "only queries"},
		{`{ jobs { id } } { jobs { id } }`, "one operation"},
		{`{ job(id: "1) { id } }`, "does not end"},
		{`{ jobs { id % } }`, "unexpected character"},
		{strings.Repeat("{ a ", 100), "too deeply"},
		{``, "the query ends"},
	} {
		body, err := json.Marshal(map[string]string{"query": c.query})
		if err != nil {
			t.Fatal(err)
		}
		status, post := request(t, "POST", a.orchestrators[1].URL+"/graphql", string(body))
		_, get := request(t, "GET", a.orchestrators[1].URL+"/graphql?query="+url.QueryEscape(c.query), "")
		if status != 200 || get != post {
			t.Errorf("%s: %d, by GET %s by POST %s", c.query, status, get, post)
		}
		isData := strings.HasPrefix(c.want, "{")
		if isData && strings.TrimSpace(post) != c.want || !isData && (!strings.HasPrefix(post, `{"errors":[{"message":`) || !strings.Contains(post, c.want)) {
			t.Errorf("%s\n got %s want %s", c.query, post, c.want)
		}
	}
	if status, text := request(t, "POST", a.orchestrators[0].URL+"/graphql", "{ jobs }"); status != 200 || !strings.Contains(text, "not JSON") {
		t.Errorf("bare query: %d %s", status, text)
	}
}
