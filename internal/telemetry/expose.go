package telemetry

import (
	"io"
	"sort"
	"strconv"
	"strings"
)

// Collector adds further metrics to an exposition.
type Collector interface {
	Collect(e *Exposition)
}

// Exposition collects metric families and writes them in Prometheus's text
// format, version 0.0.4. Not safe for concurrent use.
type Exposition struct {
	families map[string]*family
}

type family struct {
	kind  string
	lines []string
}

// Add adds one sample. labels is alternating names and values; kind is
// "counter" or "gauge".
func (e *Exposition) Add(kind, name string, value float64, labels ...string) {
	b := append(make([]byte, 0, 128), name...)
	for i := 0; i+1 < len(labels); i += 2 {
		b = append(b, "{,"[min(i, 1)])
		b = append(b, labels[i]...)
		b = append(b, '=')
		b = appendLabelValue(b, labels[i+1])
	}
	if len(labels) > 0 {
		b = append(b, '}')
	}
	e.line(kind, name, string(b)+" "+strconv.FormatFloat(value, 'g', -1, 64))
}

func (e *Exposition) line(kind, name, line string) {
	if e.families == nil {
		e.families = map[string]*family{}
	}
	f := e.families[name]
	if f == nil {
		f = &family{kind: kind}
		e.families[name] = f
	}
	f.lines = append(f.lines, line)
}

func appendLabelValue(b []byte, v string) []byte {
	b = append(b, '"')
	for i := 0; i < len(v); i++ {
		switch v[i] {
		case '\\', '"':
			b = append(b, '\\', v[i])
		case '\n':
			b = append(b, '\\', 'n')
		default:
			b = append(b, v[i])
		}
	}
	return append(b, '"')
}

// Collect implements Collector with Istio's standard metrics.
func (m *Metrics) Collect(e *Exposition) {
	m.mu.RLock()
	all := make([]*Series, 0, len(m.byLabel))
	for _, s := range m.byLabel {
		all = append(all, s)
	}
	m.mu.RUnlock()
	for _, s := range all {
		if s.tcp {
			e.counter("istio_tcp_connections_opened_total", s.labels, &s.opened)
			e.counter("istio_tcp_connections_closed_total", s.labels, &s.closed)
			e.counter("istio_tcp_sent_bytes_total", s.labels, &s.sent)
			e.counter("istio_tcp_received_bytes_total", s.labels, &s.received)
			continue
		}
		e.counter("istio_requests_total", s.labels, &s.requests)
		e.histogram("istio_request_duration_milliseconds", s.labels, &s.duration)
		e.histogram("istio_request_bytes", s.labels, &s.reqBytes)
		e.histogram("istio_response_bytes", s.labels, &s.rsBytes)
	}
	e.Add("counter", "tulle_metrics_series_dropped_total", float64(m.dropped.Load()))
}

func (e *Exposition) counter(name, labels string, c *Counter) {
	e.line("counter", name, name+"{"+labels+"} "+strconv.FormatInt(c.Value(), 10))
}

func (e *Exposition) histogram(name, labels string, h *Histogram) {
	var total int64
	for i := range h.counts {
		total += h.counts[i].Load()
		le := "+Inf"
		if i < len(Buckets) {
			le = strconv.FormatFloat(Buckets[i], 'g', -1, 64)
		}
		e.line("histogram", name, name+"_bucket{"+labels+`,le="`+le+`"} `+strconv.FormatInt(total, 10))
	}
	sum := float64(h.sum.Load()) / 1e6
	e.line("histogram", name, name+"_sum{"+labels+"} "+strconv.FormatFloat(sum, 'g', -1, 64))
	e.line("histogram", name, name+"_count{"+labels+"} "+strconv.FormatInt(total, 10))
}

// WriteTo writes every family, sorted by name.
func (e *Exposition) WriteTo(w io.Writer) (int64, error) {
	names := make([]string, 0, len(e.families))
	for n := range e.families {
		names = append(names, n)
	}
	sort.Strings(names)
	var b strings.Builder
	for _, n := range names {
		f := e.families[n]
		b.WriteString("# TYPE " + n + " " + f.kind + "\n")
		if f.kind != "histogram" { // a histogram's lines belong together in the order they came
			sort.Strings(f.lines)
		}
		for _, l := range f.lines {
			b.WriteString(l)
			b.WriteByte('\n')
		}
	}
	n, err := io.WriteString(w, b.String())
	return int64(n), err
}
