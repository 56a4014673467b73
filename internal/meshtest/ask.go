package meshtest

import (
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing/synctest"
	"time"
)

// asking is a "from" line taken apart.
type asking struct {
	who   string
	pod   *pod
	req   *request
	times int
	every time.Duration // begin only
}

var fromLine = regexp.MustCompile(`^(\S+) ([A-Z]+) (\S+)(?: (\d+) times)?(?: every (\S+))?$`)

// question reads "WHO METHOD URL [N times] [every D]" and the "with" lines.
func (r *runner) question(st *step, text string) (*asking, error) {
	m := fromLine.FindStringSubmatch(text)
	if m == nil {
		return nil, fmt.Errorf("want \"from WHO METHOD URL [N times]\"")
	}
	q := &asking{who: m[1], times: 1, req: &request{method: m[2], url: r.fill(m[3]), header: http.Header{}}}
	if q.who == "outside" {
		q.pod = r.world.outside
	} else if pods := r.world.podsNamed(q.who); pods != nil {
		q.pod = pods[0]
	} else {
		return nil, fmt.Errorf("no workload %q", q.who)
	}
	if m[4] != "" {
		q.times, _ = strconv.Atoi(m[4])
	}
	if m[5] != "" {
		var err error
		if q.every, err = time.ParseDuration(m[5]); err != nil {
			return nil, err
		}
	}
	rest := st.block[:0:0]
	for _, l := range st.block {
		what, ok := strings.CutPrefix(l.text, "with ")
		if !ok {
			rest = append(rest, l)
			continue
		}
		if err := q.req.with(r.fill(what)); err != nil {
			return nil, fmt.Errorf("line %d: %w", l.line, err)
		}
	}
	st.block = rest
	return q, nil
}

// with adds to a request: "header NAME: VALUE", "[chunked|slow] body TEXT" or
// "[chunked|slow] body N bytes", "timeout D", "certificate SPIFFE-ID". A slow
// body is chunked and comes in pieces, one a millisecond.
func (q *request) with(what string) error {
	if rest, ok := strings.CutPrefix(what, "header "); ok {
		name, value, ok := strings.Cut(rest, ":")
		if !ok {
			return fmt.Errorf("want \"with header NAME: VALUE\"")
		}
		q.header.Add(name, strings.TrimSpace(value))
		return nil
	}
	if rest, ok := strings.CutPrefix(what, "timeout "); ok {
		var err error
		q.timeout, err = time.ParseDuration(rest)
		return err
	}
	if rest, ok := strings.CutPrefix(what, "certificate "); ok {
		q.certificate = rest
		return nil
	}
	rest, chunked := strings.CutPrefix(what, "chunked ")
	rest, q.slow = strings.CutPrefix(rest, "slow ")
	q.chunked = chunked || q.slow
	text, ok := strings.CutPrefix(rest, "body ")
	if !ok {
		return fmt.Errorf("%q is nothing a request can have (header, body, chunked body, slow body, timeout)", what)
	}
	if n, ok := strings.CutSuffix(text, " bytes"); ok {
		size, err := strconv.Atoi(n)
		if err != nil {
			return err
		}
		q.body = []byte(strings.Repeat("0123456789abcdef", size/16+1)[:size])
		return nil
	}
	q.body = []byte(unquote(text))
	return nil
}

// unquote takes Go's quotes off, if there are any.
func unquote(s string) string {
	if u, err := strconv.Unquote(s); err == nil {
		return u
	}
	return s
}

// from sends requests one after the other and checks how they went.
func (r *runner) from(st *step, text string) error {
	q, err := r.question(st, text)
	if err != nil {
		return err
	}
	if q.req.method == "TCP" || q.req.method == "TLS" {
		r.pause(logBatch) // TCP's log lines carry no number: the earlier ones must be written
	}
	mark := r.marks()
	var outs []outcome
	for range q.times {
		outs = append(outs, r.once(st, q, r.nextID()))
	}
	synctest.Wait()
	if r.asked != nil {
		r.asked(r, st, q.who, q.req, outs)
	}
	return r.check(st, outs, mark, q.req)
}

// once makes the request or holds the conversation.
func (r *runner) once(st *step, q *asking, id string) outcome {
	if t := q.talk(); t != nil {
		return r.converse(st, t, id)
	}
	return q.pod.client.do(q.req, id)
}

// behave sets what an application does from now on:
// "WHAT[, WHAT…] [for N requests]".
func (r *runner) behave(name, what string) error {
	pods := r.world.podsNamed(name)
	if pods == nil {
		return fmt.Errorf("no workload %q", name)
	}
	b := normal()
	if m := regexp.MustCompile(`^(.*) for (\d+) requests?$`).FindStringSubmatch(what); m != nil {
		what = m[1]
		b.left, _ = strconv.Atoi(m[2])
	}
	b.header = http.Header{}
	for _, part := range strings.Split(what, ", ") {
		word, rest, _ := strings.Cut(part, " ")
		var err error
		switch {
		case part == "normal":
		case part == "hangs":
			b.hang = make(chan struct{})
		case slices.Contains(actions, part):
			b.action = part
		case word == "status":
			b.status, err = strconv.Atoi(rest)
		case word == "delay":
			b.delay, err = time.ParseDuration(rest)
		case word == "body" && strings.HasSuffix(rest, " bytes"):
			var n int
			n, err = strconv.Atoi(strings.TrimSuffix(rest, " bytes"))
			b.body = strings.Repeat("x", n)
		case word == "body":
			b.body = unquote(rest)
		case word == "header":
			k, v, _ := strings.Cut(rest, ":")
			b.header.Add(k, strings.TrimSpace(v))
		default:
			err = fmt.Errorf("%q is nothing an application can do (README.md lists what is)", part)
		}
		if err != nil {
			return err
		}
	}
	for _, p := range pods {
		if p.app == nil {
			return fmt.Errorf("%s has no application", p.Name)
		}
		p.app.become(b)
	}
	return nil
}

// release lets requests that hang at an application go on, and the next ones
// not hang.
func (r *runner) release(name string) error {
	for _, p := range r.world.podsNamed(name) {
		p.app.mu.Lock()
		b := p.app.now
		p.app.now = normal()
		p.app.mu.Unlock()
		if b.hang == nil {
			return nil // shared with an instance that was released already
		}
		close(b.hang)
		b.hang = nil
	}
	synctest.Wait()
	return nil
}
