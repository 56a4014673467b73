package meshtest

import (
	"encoding/json"
	"fmt"
	"strings"
)

// debugCredential is what every proxy of a script accepts in x-tulle-debug.
const debugCredential = "let-me-see"

// evidence checks "edge WHO: FIELD VALUE, …" and "denial WHO: FIELD VALUE, …":
// one of what the workload's proxies keep has it all. A value may begin or end
// with "...", and origins are read as users see them.
func (r *runner) evidence(kind, rest string) error {
	who, text, ok := strings.Cut(rest, ": ")
	pods := r.world.podsNamed(who)
	if !ok || pods == nil {
		return fmt.Errorf("want \"%s WORKLOAD: FIELD VALUE, …\" of a workload that there is", kind)
	}
	want, err := fieldValues(text)
	if err != nil {
		return err
	}
	var all []string
	for _, p := range pods {
		if p.proxy == nil {
			return fmt.Errorf("%s has no proxy", p.Name)
		}
		var list []map[string]string
		if kind == "edge" {
			for _, e := range p.proxy.Edges() {
				list = append(list, flat(e, "policy", e.Policy.String()))
			}
		} else {
			for _, d := range p.proxy.Denials("") {
				var missed []string
				for _, c := range d.Considered {
					missed = append(missed, c.Policy+": "+c.Missed)
				}
				list = append(list, flat(d, "origin", d.Origin.String(), "missed", strings.Join(missed, "; ")))
			}
		}
		for _, got := range list {
			if hasAll(got, want) {
				return nil
			}
			all = append(all, fmt.Sprint(got))
		}
	}
	return fmt.Errorf("none of %d has that: %s", len(all), strings.Join(all, "\n\t"))
}

// flat is v's JSON with everything that is not text or number left out, and
// more fields.
func flat(v any, more ...string) map[string]string {
	b, _ := json.Marshal(v) // plain data
	var doc map[string]any
	_ = json.Unmarshal(b, &doc)
	out := map[string]string{}
	flatten("", doc, out)
	for i := 0; i+1 < len(more); i += 2 {
		out[more[i]] = more[i+1]
	}
	return out
}

func flatten(prefix string, doc map[string]any, out map[string]string) {
	for k, v := range doc {
		switch v := v.(type) {
		case map[string]any:
			flatten(prefix+k+".", v, out)
		case string, float64, bool:
			out[prefix+k] = fmt.Sprint(v)
		}
	}
}

func hasAll(got, want map[string]string) bool {
	for name, value := range want {
		text, ok := got[name]
		if !ok {
			text = "-"
		}
		part, before := strings.CutPrefix(value, "...")
		part, after := strings.CutSuffix(part, "...")
		switch {
		case before && after && strings.Contains(text, part),
			before && !after && strings.HasSuffix(text, part),
			after && !before && strings.HasPrefix(text, part),
			!before && !after && text == part:
		default:
			return false
		}
	}
	return true
}
