package meshtest

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing/synctest"
	"time"

	"github.com/tulle-mesh/tulle/internal/resource"
)

// use adds a file of configuration from the folder above the script, or, with
// a slash at its end, every YAML file of a folder. Warnings about a folder's
// files are nobody's to note: it is not the script's.
func (r *runner) use(name string) error {
	path := filepath.Join(filepath.Dir(r.script.dir), filepath.FromSlash(name))
	files := []string{path}
	if strings.HasSuffix(name, "/") {
		var err error
		if files, err = filepath.Glob(filepath.Join(path, "*.yaml")); err != nil || len(files) == 0 {
			return fmt.Errorf("no YAML in %s (%v)", name, err)
		}
	}
	var docs []document
	var notes []note
	for _, f := range files {
		if filepath.Base(f) == "kustomization.yaml" {
			continue
		}
		b, err := os.ReadFile(f)
		if err != nil {
			return err
		}
		as := name
		if strings.HasSuffix(name, "/") {
			as += filepath.Base(f)
			r.foreign = append(r.foreign, as)
		}
		d, n := splitYAML(as, 1, strings.Split(string(b), "\n"))
		docs, notes = append(docs, d...), append(notes, n...)
	}
	r.add(docs, notes)
	r.dirty = true // in force with the next step: usually there is more to come
	return nil
}

// apply puts documents in force.
func (r *runner) apply(docs []document, notes []note) error {
	r.add(docs, notes)
	return r.reconcile()
}

// add adds documents, or replaces those of the same kind and name.
func (r *runner) add(docs []document, notes []note) {
	for _, d := range docs {
		replaced := false
		for i := range r.world.docs {
			if d.same(&r.world.docs[i]) {
				r.forget(&r.world.docs[i])
				r.world.docs[i], replaced = d, true
			}
		}
		if !replaced {
			r.world.docs = append(r.world.docs, d)
		}
	}
	r.notes = append(r.notes, notes...)
}

// forget drops the notes of a document that is leaving.
func (r *runner) forget(d *document) {
	last := d.line + strings.Count(d.text, "\n")
	kept := r.notes[:0]
	for _, n := range r.notes {
		if n.file != d.file || n.line < d.line || n.line > last {
			kept = append(kept, n)
		}
	}
	r.notes = kept
}

func (r *runner) delete(what string) error {
	kind, name, ok := strings.Cut(what, " ")
	ns, short, qualified := strings.Cut(name, "/")
	if !qualified {
		ns, short = "", name
	}
	if !ok {
		return fmt.Errorf("want \"delete KIND [NAMESPACE/]NAME\"")
	}
	for i := range r.world.docs {
		d := &r.world.docs[i]
		if d.kind == kind && d.name == short && (ns == "" || d.namespace == ns) {
			r.forget(d)
			r.world.docs = append(r.world.docs[:i], r.world.docs[i+1:]...)
			return r.reconcile()
		}
	}
	return fmt.Errorf("there is no %s %s", kind, name)
}

// reconcile puts the configuration in force and compares what the user is told
// with what the notes say.
func (r *runner) reconcile() error {
	r.dirty = false
	problems, err := r.world.reconcile()
	if err != nil {
		return err
	}
	synctest.Wait()
	met := make([]bool, len(r.notes))
	for _, p := range problems {
		if !r.noted(p, met) && !strings.Contains(p.Reason, keysProblem) && !(p.Severity == resource.Warning && slices.Contains(r.foreign, p.Origin.File)) {
			r.t.Errorf("%s: the script does not expect this %s", p, p.Severity)
		}
	}
	for i, n := range r.notes {
		if !met[i] {
			r.t.Errorf("%s:%d: no %s %q was reported here", n.file, n.line, n.severity, n.text)
		}
	}
	return nil
}

// keysProblem is an event, not a fault in what is written: it comes and goes
// without an edit, so that no note can stand for it.
const keysProblem = "keys cannot be fetched"

func (r *runner) noted(p resource.Problem, met []bool) bool {
	for i, n := range r.notes {
		if n.file == p.Origin.File && n.line == p.Origin.Line && n.severity == string(p.Severity) && strings.Contains(p.String(), n.text) {
			met[i] = true
			return true
		}
	}
	return false
}

func (r *runner) readiness(st *step, word, name string) error {
	pods := r.world.podsNamed(name)
	if pods == nil {
		return fmt.Errorf("no workload %q", name)
	}
	for _, p := range pods {
		switch word {
		case "stop":
			r.world.gone[p.Name] = true
		default:
			r.world.unready[p.Name] = word == "unready"
		}
	}
	o := outcome{started: time.Now()}
	if err := r.reconcile(); err != nil {
		return err
	}
	o.took = time.Since(o.started)
	if len(st.block) == 0 {
		return nil
	}
	return r.check(st, []outcome{o}, nil, nil)
}

func (r *runner) network(name, what string) error {
	pods := r.world.podsNamed(name)
	if pods == nil {
		return fmt.Errorf("no workload %q", name)
	}
	drops, refuses, latency := false, false, time.Duration(0)
	switch word, rest, _ := strings.Cut(what, " "); {
	case what == "drops packets":
		drops = true
	case what == "refuses connections":
		refuses = true
	case word == "delays":
		var err error
		if latency, err = time.ParseDuration(rest); err != nil {
			return err
		}
	case what == "normal":
	default:
		return fmt.Errorf("%q: want \"drops packets\", \"refuses connections\", \"delays DURATION\" or \"normal\"", what)
	}
	r.world.net.mu.Lock()
	defer r.world.net.mu.Unlock()
	for _, p := range pods {
		p.host.dropped, p.host.refusing = drops, refuses
		p.host.latency.Store(int64(latency))
	}
	return nil
}

var externalLine = regexp.MustCompile(`^(\S+) at (\S+): (.*)$`)

// external puts a server outside of the mesh: "NAME at ADDRESS: PORT KIND, …".
func (r *runner) external(what string) error {
	m := externalLine.FindStringSubmatch(what)
	if m == nil {
		return fmt.Errorf("want \"external NAME at ADDRESS: PORT http|https|tcp|tls, …\"")
	}
	addr, err := netip.ParseAddr(m[2])
	if err != nil {
		return err
	}
	ports := map[uint16]string{}
	for _, part := range strings.Split(m[3], ", ") {
		number, kind, _ := strings.Cut(part, " ")
		n, err := strconv.ParseUint(number, 10, 16)
		if err != nil || spoken(kind) != kind {
			return fmt.Errorf("%q is not \"PORT http|https|tcp|tls\"", part)
		}
		ports[uint16(n)] = kind
	}
	p := &pod{Workload: &resource.Workload{Name: m[1], Namespace: "default", Address: addr}, host: r.world.net.host(m[1], addr)}
	if p.app, err = r.world.newApp(p, ports, m[1]); err != nil {
		return err
	}
	r.world.externals[m[1]] = p
	r.world.names.put(m[1], nameAnswer{addrs: []netip.Addr{addr}, ttl: nameTTL})
	return nil
}

// credential makes the Secret of a gateway server: "NAMESPACE/NAME for HOST"
// with the bundle that its callers' certificates chain to.
func (r *runner) credential(what string) error {
	m := regexp.MustCompile(`^(\S+)/(\S+) for (\S+)$`).FindStringSubmatch(what)
	if m == nil {
		return fmt.Errorf("want \"credential NAMESPACE/NAME for HOST\"")
	}
	chain, key, err := r.world.authority.ServerPEM(m[3])
	if err != nil {
		return err
	}
	text := fmt.Sprintf("apiVersion: v1\nkind: Secret\ntype: kubernetes.io/tls\nmetadata: {name: %s, namespace: %s}\nstringData:\n  tls.crt: %s\n  tls.key: %s\n  ca.crt: %s\n",
		m[2], m[1], strconv.Quote(string(chain)), strconv.Quote(string(key)), strconv.Quote(string(r.world.public.Roots())))
	return r.apply([]document{identify(document{file: "credential", line: 1, text: text})}, nil)
}
