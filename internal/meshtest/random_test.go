package meshtest

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"

	"sigs.k8s.io/yaml"

	"github.com/tulle-mesh/tulle/internal/explain"
)

const randomIssuer = "https://corp.example.com"

// randomRequests are asked of each configuration; TULLE_RANDOM says how many
// configurations there are for each protocol, TULLE_RANDOM_SEED which is the
// first.
const randomRequests = 25

func randomSeeds() (first, n uint64) {
	number := func(name string, otherwise uint64) uint64 {
		if n, err := strconv.ParseUint(os.Getenv(name), 10, 64); err == nil {
			return n
		}
		return otherwise
	}
	return number("TULLE_RANDOM_SEED", 1), number("TULLE_RANDOM", 30)
}

// TestExplainRandom configures a mesh at random, sends it random requests, and
// asks explain about each: what it says must be what happened. A disagreement
// is reported with the least configuration that has it.
func TestExplainRandom(t *testing.T) {
	for _, p := range []protocol{overH1, overHTTP2} {
		t.Run(string(p), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { tryRandom(t, p) })
		})
	}
}

func tryRandom(t *testing.T, p protocol) {
	m := newRandomMesh(t, p)
	defer m.world.close()
	first, n := randomSeeds()
	for seed := first; seed < first+n; seed++ {
		m.try(t, seed)
	}
	t.Logf("%d requests: %v", n*randomRequests, m.seen)
	for _, what := range []string{"reached", "301", "403", "404", "503", "nothing"} {
		if n >= 30 && m.seen[what] == 0 {
			t.Errorf("none of the requests ended with %s: the generator proves less than it should", what)
		}
	}
}

type randomMesh struct {
	world  *world
	base   []document
	tokens map[string]string
	seen   map[string]int // how requests ended
}

func newRandomMesh(t *testing.T, p protocol) *randomMesh {
	w, err := newWorld(p)
	if err != nil {
		t.Fatal(err)
	}
	r := &runner{t: t, script: &script{file: "random"}, world: w, tokens: map[string]string{}}
	for _, err := range []error{
		r.external("ext.example at " + externalAddress + ": 80 http"),
		r.issuer("corp at " + randomIssuer), r.issuer("evil at https://evil.example.com"),
		r.token(&step{}, "ALICE from corp: {sub: alice, exp: +99999h}"), r.token(&step{}, "BOB from corp: {sub: bob, exp: +99999h}"),
		r.token(&step{}, "FORGED from evil: {sub: alice, iss: "+randomIssuer+", exp: +99999h}"),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile("testdata/random/world.yaml")
	if err != nil {
		t.Fatal(err)
	}
	base, _ := splitYAML("world.yaml", 1, strings.Split(string(text), "\n"))
	return &randomMesh{world: w, base: base, tokens: r.tokens, seen: map[string]int{}}
}

// try is one configuration and its requests; after the first disagreement the
// others are left out.
func (m *randomMesh) try(t *testing.T, seed uint64) {
	t.Helper()
	d := dice{rand.New(rand.NewPCG(seed, 1))}
	objects := []tree{d.mesh(), d.gateway()}
	for i := range 1 + d.IntN(6) {
		objects = append(objects, d.routing(i))
	}
	for i := range d.IntN(4) {
		objects = append(objects, d.policy(i))
	}
	if err := m.configure(objects); err != nil {
		t.Fatalf("seed %d: %v\n%s", seed, err, written(objects))
	}
	for range randomRequests {
		who, q := d.question()
		o, why := m.ask(t, who, q)
		m.count(o)
		if why == "" {
			continue
		}
		objects = shrink(objects, func(less []tree) bool {
			if err := m.configure(less); err != nil {
				return false
			}
			for range 3 { // where chance decides who is asked
				if _, still := m.ask(t, who, q); still != "" && strings.HasPrefix(still, unasked) == strings.HasPrefix(why, unasked) {
					return true
				}
			}
			return false
		})
		if err := m.configure(objects); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		_, less := m.ask(t, who, q)
		t.Errorf("seed %d: %s %s %s %v: %s\n%s\nat first: %s", seed, who, q.method, q.url, q.header, less, written(objects), why)
		return
	}
}

func (m *randomMesh) configure(objects []tree) error {
	m.world.docs = m.base[:len(m.base):len(m.base)]
	for i, o := range objects {
		m.world.docs = append(m.world.docs, identify(document{file: fmt.Sprintf("random-%d.yaml", i), line: 1, text: written([]tree{o})}))
	}
	_, err := m.world.reconcile()
	synctest.Wait()
	for _, p := range m.world.pods { // what is open was let in by an earlier configuration
		p.client.transport.CloseIdleConnections()
	}
	return err
}

// unasked begins what ask says when explain has no answer.
const unasked = "explain fails: "

// ask sends a request and compares, more strictly than scripts can: nobody
// fails here, so that whoever is said to be reached must be; "" if they agree.
func (m *randomMesh) ask(t *testing.T, who string, q *request) (*outcome, string) {
	r := &runner{t: t, script: &script{file: "random"}, world: m.world, tokens: m.tokens}
	sent := *q
	sent.header = http.Header{}
	for name, values := range q.header {
		for _, v := range values {
			sent.header[name] = append(sent.header[name], r.fill(v))
		}
	}
	from := m.world.outside
	if who != "outside" {
		from = m.world.podsNamed(who)[0]
	}
	out := from.client.do(&sent, r.nextID())
	synctest.Wait()
	question, ok := r.questionFor(who, &sent)
	if !ok {
		return &out, ""
	}
	a, err := explain.Explain(m.world.index, question, r.ask)
	if err != nil {
		return &out, unasked + err.Error()
	}
	why := disagreement(r, question.From, a, &out)
	leaves := a.Leaves || slices.ContainsFunc(a.Ends, func(e explain.End) bool { return e.Leaves })
	refuses := !a.Allowed || slices.ContainsFunc(a.Ends, func(e explain.End) bool { return !e.Allowed })
	switch {
	case leaves && (out.err != nil || out.status == http.StatusServiceUnavailable): // nobody may be there, or not speak TLS
		return &out, ""
	case why == "" && !refuses && !leaves && out.instance() == "nobody":
		why = "explain says that it arrives"
	case why == "":
		return &out, ""
	}
	return &out, fmt.Sprintf("%s; it happened: %s %s%s\n%s", why, &out, out.body, out.header.Get("Location"), steps(a))
}

func (m *randomMesh) count(o *outcome) {
	switch {
	case o.err != nil:
		m.seen["nothing"]++
	case o.instance() != "nobody":
		m.seen["reached"]++
	default:
		m.seen[strconv.Itoa(o.status)]++
	}
}

func written(objects []tree) string {
	var docs []string
	for _, o := range objects {
		text, err := yaml.Marshal(o)
		if err != nil {
			panic(err) // trees hold nothing but strings, numbers, lists and trees
		}
		docs = append(docs, strings.ReplaceAll(string(text), "$keys(corp)", "'$keys(corp)'")) // the keys are JSON, in a string
	}
	return strings.Join(docs, "---\n")
}
