package meshtest

import (
	"fmt"
	"maps"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// counted cuts the number of requests off an expectation.
var counted = regexp.MustCompile(`^(.*?)(?: (?:(\d+) times?|at least (\d+) times?|about (\d+)%))?$`)

// check compares the outcomes of a step with the lines under it.
func (r *runner) check(st *step, outs []outcome, mark marks, q *request) error {
	if len(outs) == 0 {
		return fmt.Errorf("no request was made")
	}
	failed := false
	for _, l := range st.block {
		if dialogue(l.text) {
			continue
		}
		if rest, ok := strings.CutPrefix(l.text, "log "); ok {
			if err := r.logged(rest, mark, outs); err != nil {
				r.errorf(l.line, "%v", err)
			}
			continue
		}
		m := counted.FindStringSubmatch(l.text)
		p, err := r.predicate(r.fill(m[1]), q)
		if err != nil {
			return fmt.Errorf("line %d: %w", l.line, err)
		}
		failed = failed || strings.HasPrefix(l.text, "fails ")
		if err := tally(outs, p, m); err != nil {
			r.errorf(l.line, "%s: %v", l.text, err)
		}
	}
	for i := range outs {
		if outs[i].err != nil && !failed {
			r.errorf(st.line, "request %d of %d: %s", i+1, len(outs), &outs[i])
			break
		}
	}
	return nil
}

// predicate of one outcome; got says what was there instead.
type predicate func(o *outcome) (ok bool, got string)

// tally counts for how many outcomes p holds. "about P%" allows six standard
// deviations of a fair draw: a wrong share fails, chance does not (one run in
// 500 million).
func tally(outs []outcome, p predicate, m []string) error {
	n, wrong := 0, ""
	for i := range outs {
		if ok, got := p(&outs[i]); ok {
			n++
		} else if wrong == "" {
			wrong = got
		}
	}
	want := len(outs)
	switch {
	case m[2] != "":
		want, _ = strconv.Atoi(m[2])
		wrong = ""
	case m[3] != "":
		least, _ := strconv.Atoi(m[3])
		if n >= least {
			return nil
		}
		return fmt.Errorf("%d of %d", n, len(outs))
	case m[4] != "":
		percent, _ := strconv.Atoi(m[4])
		share := float64(percent) / 100
		mean := share * float64(len(outs))
		slack := 6 * math.Sqrt(mean*(1-share))
		if math.Abs(float64(n)-mean) <= slack {
			return nil
		}
		return fmt.Errorf("%d of %d (%.0f to %.0f would be within chance)", n, len(outs), mean-slack, mean+slack)
	}
	switch {
	case n == want:
		return nil
	case wrong != "" && len(outs) == 1:
		return fmt.Errorf("got %s", wrong)
	case wrong != "":
		return fmt.Errorf("%d of %d; one got %s", n, len(outs), wrong)
	}
	return fmt.Errorf("%d of %d", n, len(outs))
}

// predicate compiles an expectation.
func (r *runner) predicate(text string, q *request) (predicate, error) {
	word, rest, _ := strings.Cut(text, " ")
	switch word {
	case "status":
		want, err := strconv.Atoi(rest)
		want = r.world.protocol.statusOver(want)
		return func(o *outcome) (bool, string) { return o.status == want, o.String() }, err
	case "answered":
		name := strings.TrimPrefix(rest, "by ")
		names := map[string]bool{name: true}
		for _, p := range r.world.pods { // also those that were stopped meanwhile
			if p.Owner == name || p.Labels["app"] == name || p.Labels["app.kubernetes.io/component"] == name {
				names[p.Name] = true
			}
		}
		return func(o *outcome) (bool, string) { return names[o.instance()], o.String() }, nil
	case "header", "trailer":
		return func(o *outcome) (bool, string) {
			if word == "trailer" {
				return field(o.trailer, rest)
			}
			return field(o.header, rest)
		}, nil
	case "no":
		name := strings.TrimPrefix(rest, "header ")
		return func(o *outcome) (bool, string) {
			return o.header.Values(name) == nil, fmt.Sprintf("%q", o.header.Values(name))
		}, nil
	case "body":
		return bodyIs(rest, q), nil
	case "took":
		return took(rest)
	case "fails":
		return func(o *outcome) (bool, string) { return failure(o.err) == unquote(rest), o.String() }, nil
	case "app":
		return r.appSaw(strings.TrimPrefix(rest, "saw "))
	}
	return nil, fmt.Errorf("%q is not an expectation", text)
}

// field checks "NAME: VALUE", "NAME: START..." or "NAME present".
func field(h map[string][]string, want string) (bool, string) {
	if name, ok := strings.CutSuffix(want, " present"); ok {
		v := values(h, name)
		return v != nil, "none"
	}
	name, value, _ := strings.Cut(want, ":")
	got := values(h, name)
	value = strings.TrimSpace(value)
	all := strings.Join(got, ", ")
	if start, ok := strings.CutSuffix(value, "..."); ok {
		return got != nil && strings.HasPrefix(all, start), fmt.Sprintf("%q", got)
	}
	return got != nil && all == value, fmt.Sprintf("%q", got)
}

func values(h map[string][]string, name string) []string {
	for k, v := range h {
		if strings.EqualFold(k, name) {
			return v
		}
	}
	return nil
}

func bodyIs(rest string, q *request) predicate {
	return func(o *outcome) (bool, string) {
		got := o.body
		if len(got) > 200 {
			got = fmt.Sprintf("%s… (%d bytes)", got[:200], len(got))
		}
		if rest == "echoed" {
			return o.body == string(q.body), fmt.Sprintf("%q", got)
		}
		if part, ok := strings.CutPrefix(rest, "contains "); ok {
			return strings.Contains(o.body, unquote(part)), fmt.Sprintf("%q", got)
		}
		return o.body == unquote(rest), fmt.Sprintf("%q", got)
	}
}

// took checks "D" or "D to D", in virtual time.
func took(rest string) (predicate, error) {
	least, most, isRange := strings.Cut(rest, " to ")
	a, err := time.ParseDuration(least)
	if err != nil {
		return nil, err
	}
	b := a
	if isRange {
		if b, err = time.ParseDuration(most); err != nil {
			return nil, err
		}
	}
	return func(o *outcome) (bool, string) { return o.took >= a && o.took <= b, o.took.String() }, nil
}

// appSaw checks what arrived at the application.
func (r *runner) appSaw(rest string) (predicate, error) {
	word, arg, _ := strings.Cut(rest, " ")
	all := func(o *outcome) (out []seen) {
		for _, list := range []map[string]*pod{r.world.pods, r.world.externals} {
			for _, p := range list {
				if p.app != nil {
					out = append(out, p.app.sawRequest(map[string]bool{o.id: true})...)
				}
			}
		}
		slices.SortFunc(out, func(a, b seen) int { return a.at.Compare(b.at) })
		return out
	}
	last := func(f func(s *seen) (bool, string)) predicate {
		return func(o *outcome) (bool, string) {
			list := all(o)
			if len(list) == 0 {
				return false, "no request at any application"
			}
			return f(&list[len(list)-1])
		}
	}
	switch {
	case word == "header":
		return last(func(s *seen) (bool, string) { return field(s.header, arg) }), nil
	case word == "trailer":
		return last(func(s *seen) (bool, string) { return field(s.trailer, arg) }), nil
	case word == "no":
		name := strings.TrimPrefix(arg, "header ")
		return last(func(s *seen) (bool, string) { v := values(s.header, name); return v == nil, fmt.Sprintf("%q", v) }), nil
	case word == "path":
		return last(func(s *seen) (bool, string) { return s.path == arg, s.path }), nil
	case word == "host":
		return last(func(s *seen) (bool, string) { return s.host == arg, s.host }), nil
	case word == "method":
		return last(func(s *seen) (bool, string) { return s.method == arg, s.method }), nil
	case word == "protocol":
		return last(func(s *seen) (bool, string) { return s.proto == arg, s.proto }), nil
	case word == "instances":
		return func(o *outcome) (bool, string) {
			names := map[string]bool{}
			for _, s := range all(o) {
				names[s.instance] = true
			}
			return strconv.Itoa(len(names)) == arg, fmt.Sprint(slices.Sorted(maps.Keys(names)))
		}, nil
	case rest == "nothing", strings.HasSuffix(rest, " attempts"), strings.HasSuffix(rest, " attempt"):
		want := 0
		if rest != "nothing" {
			want, _ = strconv.Atoi(word)
		}
		return func(o *outcome) (bool, string) { n := len(all(o)); return n == want, fmt.Sprintf("%d attempts", n) }, nil
	}
	return nil, fmt.Errorf("\"app saw %s\" is not an expectation", rest)
}
