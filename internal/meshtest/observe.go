package meshtest

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/tulle-mesh/tulle/internal/telemetry"
)

// marks is how long each access log was when a step began.
type marks map[string]int

func (r *runner) marks() marks {
	m := marks{}
	for name, p := range r.world.pods {
		if p.log != nil {
			m[name] = len(p.log.since(0))
		}
	}
	return m
}

// logBatch is how long a proxy's access log collects lines (100 ms), and a bit.
const logBatch = 110 * time.Millisecond

var logPair = regexp.MustCompile(`^(\S+) ("(?:[^"\\]|\\.)*"|[^,]*)(?:, |$)`)

// fieldValues reads "FIELD VALUE, …".
func fieldValues(text string) (map[string]string, error) {
	want := map[string]string{}
	for text != "" {
		m := logPair.FindStringSubmatch(text)
		if m == nil {
			return nil, fmt.Errorf("%q is not \"FIELD VALUE\"", text)
		}
		want[m[1]] = unquote(m[2])
		text = text[len(m[0]):]
	}
	return want, nil
}

// logged checks "WHO: FIELD VALUE, …": one line of the step's requests has it
// all.
func (r *runner) logged(rest string, mark marks, outs []outcome) error {
	who, text, ok := strings.Cut(rest, ": ")
	pods := r.world.podsNamed(who)
	if !ok || pods == nil {
		return fmt.Errorf("want \"log WORKLOAD: FIELD VALUE, …\" of a workload that there is")
	}
	want, err := fieldValues(text)
	if err != nil {
		return err
	}
	if status, err := strconv.Atoi(want["status"]); err == nil && r.world.protocol == overGRPC { // its HTTP status is 200 whatever it says
		if code, ok := codeOf(status); ok {
			want["status"], want["grpc"] = "200", strconv.Itoa(int(code))
		}
	}
	r.pause(logBatch)
	ids := map[string]bool{"": true} // TCP has no number
	for i := range outs {
		ids[outs[i].id] = true
	}
	var all []string
	for _, p := range pods {
		for _, line := range p.log.since(mark[p.Name]) {
			ours, ok := logMatches(line, want, ids)
			if ok {
				return nil
			}
			if ours {
				all = append(all, line)
			}
		}
	}
	return fmt.Errorf("none of %d lines has that; the last are:\n\t%s", len(all), strings.Join(all[max(0, len(all)-3):], "\n\t"))
}

// logMatches reports whether a line is of one of the requests, and has it all.
func logMatches(line string, want map[string]string, ids map[string]bool) (ours, ok bool) {
	var got map[string]any
	d := json.NewDecoder(strings.NewReader(line))
	d.UseNumber()
	if d.Decode(&got) != nil {
		return true, false
	}
	if id, _ := got["request"].(string); !ids[strings.TrimPrefix(id, "-")] {
		return false, false
	}
	for name, value := range want {
		text := "-"
		if v := got[name]; v != nil {
			text = fmt.Sprint(v)
		}
		if start, ok := strings.CutSuffix(value, "..."); ok && strings.HasPrefix(text, start) {
			continue
		}
		if text != value {
			return true, false
		}
	}
	return true, true
}

var metricLine = regexp.MustCompile(`^(\S+) ([a-z_0-9]+)(?:\{(.*)\})? (is|at least) (\S+)$`)

// metric checks "WHO NAME{LABEL="VALUE",…} is N"; the samples that have all the
// labels are added up.
func (r *runner) metric(rest string) error {
	m := metricLine.FindStringSubmatch(rest)
	if m == nil {
		return fmt.Errorf("want \"metric WORKLOAD NAME{LABEL=\"VALUE\"} is N\"")
	}
	pods := r.world.podsNamed(m[1])
	want, err := strconv.ParseFloat(m[5], 64)
	if pods == nil || err != nil {
		return fmt.Errorf("no workload %q or not a number: %q", m[1], m[5])
	}
	sum, found := 0.0, []string(nil)
	for _, p := range pods {
		if p.proxy == nil {
			return fmt.Errorf("%s has no proxy", p.Name)
		}
		var e telemetry.Exposition
		p.proxy.Collect(&e)
		var text strings.Builder
		_, _ = e.WriteTo(&text)
		for _, line := range strings.Split(text.String(), "\n") {
			if v, ok := sample(line, m[2], m[3]); ok {
				sum += v
			} else if strings.HasPrefix(line, m[2]+"{") || strings.HasPrefix(line, m[2]+" ") {
				found = append(found, line)
			}
		}
	}
	if m[4] == "is" && sum == want || m[4] == "at least" && sum >= want {
		return nil
	}
	return fmt.Errorf("it is %v; other samples:\n\t%s", sum, strings.Join(found, "\n\t"))
}

// sample is the value of an exposition line of that name with those labels.
func sample(line, name, labels string) (float64, bool) {
	rest, ok := strings.CutPrefix(line, name)
	if !ok || rest == "" || rest[0] != '{' && rest[0] != ' ' {
		return 0, false
	}
	have, value, _ := strings.Cut(strings.TrimPrefix(rest, "{"), "} ")
	if rest[0] == ' ' {
		have, value = "", rest[1:]
	}
	for _, l := range strings.Split(labels, `",`) {
		if l != "" && !strings.Contains(`,`+have+`,`, `,`+strings.TrimSuffix(l, `"`)+`",`) {
			return 0, false
		}
	}
	v, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
	return v, err == nil
}
