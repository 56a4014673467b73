package telemetry

import (
	"math"
	"strings"
	"sync"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

type collect func(*Exposition)

func (c collect) Collect(e *Exposition) { c(e) }

// parse reads an exposition back with Prometheus's own parser.
func parse(t *testing.T, collectors ...Collector) map[string]*dto.MetricFamily {
	t.Helper()
	var e Exposition
	for _, c := range collectors {
		c.Collect(&e)
	}
	var b strings.Builder
	n, err := e.WriteTo(&b)
	if err != nil || n != int64(b.Len()) {
		t.Fatalf("wrote %d of %d: %v", n, b.Len(), err)
	}
	p := expfmt.NewTextParser(model.UTF8Validation)
	families, err := p.TextToMetricFamilies(strings.NewReader(b.String()))
	if err != nil {
		t.Fatalf("%v in\n%s", err, b.String())
	}
	return families
}

func labels(m *dto.Metric) map[string]string {
	out := map[string]string{}
	for _, l := range m.Label {
		out[l.GetName()] = l.GetValue()
	}
	return out
}

var (
	front  = &Peer{Workload: "front", Namespace: "shop", Principal: "spiffe://cluster.local/ns/shop/sa/front", App: "front", Version: "v1", CanonicalService: "front", CanonicalRevision: "v1", Cluster: "local"}
	worker = &Peer{Workload: "worker", Namespace: "shop", CanonicalService: "worker"}
	called = &Service{Host: "worker.shop.svc.cluster.local", Name: "worker", Namespace: "shop"}
)

func TestStandardMetrics(t *testing.T) {
	m := NewMetrics()
	http := m.Series(SeriesKey{Reporter: Destination, Source: front, Target: worker, Service: called, MutualTLS: true, Status: 503, Flags: UpstreamOverflow})
	http.Request(7*time.Millisecond, 100, 2000)
	http.Request(200*time.Second, 0, 0)
	tcp := m.Series(SeriesKey{Reporter: Source, Source: front, TCP: true})
	tcp.Opened()
	tcp.Bytes(3, 4)
	tcp.Bytes(1, 1)
	tcp.Closed()
	got := parse(t, m)

	requests := got["istio_requests_total"]
	if requests.GetType() != dto.MetricType_COUNTER || len(requests.Metric) != 1 || requests.Metric[0].Counter.GetValue() != 2 {
		t.Fatalf("istio_requests_total: %v", requests)
	}
	want := map[string]string{
		"reporter": "destination", "source_workload": "front", "source_canonical_service": "front", "source_canonical_revision": "v1", "source_workload_namespace": "shop",
		"source_principal": "spiffe://cluster.local/ns/shop/sa/front", "source_app": "front", "source_version": "v1", "source_cluster": "local",
		"destination_workload": "worker", "destination_workload_namespace": "shop", "destination_principal": "unknown", "destination_app": "unknown", "destination_version": "unknown",
		"destination_service": "worker.shop.svc.cluster.local", "destination_canonical_service": "worker", "destination_canonical_revision": "latest",
		"destination_service_name": "worker", "destination_service_namespace": "shop", "destination_cluster": "unknown",
		"request_protocol": "http", "response_code": "503", "grpc_response_status": "", "response_flags": "UO", "connection_security_policy": "mutual_tls",
	}
	have := labels(requests.Metric[0])
	for k, v := range want {
		if have[k] != v {
			t.Errorf("%s: have %q, want %q", k, have[k], v)
		}
	}
	if len(have) != len(want) {
		t.Errorf("have %d labels, want %d: %v", len(have), len(want), have)
	}

	h := got["istio_request_duration_milliseconds"].Metric[0].Histogram
	if h.GetSampleCount() != 2 || h.GetSampleSum() != 200007 {
		t.Errorf("duration: count %d, sum %v", h.GetSampleCount(), h.GetSampleSum())
	}
	for _, b := range h.Bucket {
		want := uint64(0)
		if b.GetUpperBound() >= 7 {
			want = 1
		}
		if b.GetUpperBound() >= 200_000 {
			want = 2
		}
		if b.GetCumulativeCount() != want {
			t.Errorf("bucket %v: have %d, want %d", b.GetUpperBound(), b.GetCumulativeCount(), want)
		}
	}
	if last := h.Bucket[len(h.Bucket)-1]; !math.IsInf(last.GetUpperBound(), 1) || len(h.Bucket) != len(Buckets)+1 {
		t.Errorf("%d buckets, the last at %v", len(h.Bucket), last.GetUpperBound())
	}

	for name, want := range map[string]float64{"istio_tcp_connections_opened_total": 1, "istio_tcp_connections_closed_total": 1, "istio_tcp_received_bytes_total": 4, "istio_tcp_sent_bytes_total": 5} {
		f := got[name]
		if f == nil || len(f.Metric) != 1 || f.Metric[0].Counter.GetValue() != want {
			t.Errorf("%s: have %v, want %v", name, f, want)
			continue
		}
		if l := labels(f.Metric[0]); l["request_protocol"] != "tcp" || l["connection_security_policy"] != "unknown" || l["reporter"] != "source" || l["destination_service"] != "unknown" {
			t.Errorf("%s: labels %v", name, l)
		} else if _, ok := l["response_code"]; ok {
			t.Errorf("%s has a response code", name)
		}
	}
}

func TestExpositionEscapes(t *testing.T) {
	ugly := "a\"b\\c\nd{}=,é"
	got := parse(t, collect(func(e *Exposition) {
		e.Add("gauge", "g", -1.5, "label", ugly, "other", "")
		e.Add("gauge", "g", 2)
		e.Add("counter", "c_total", 1e21)
	}))
	if g := got["g"]; g.GetType() != dto.MetricType_GAUGE || len(g.Metric) != 2 {
		t.Fatalf("have %v", g)
	} else {
		for _, m := range g.Metric {
			if l, ok := labels(m)["label"]; ok != (m.Gauge.GetValue() == -1.5) || ok && l != ugly {
				t.Errorf("have %q", l)
			}
		}
	}
	if got["c_total"].Metric[0].Counter.GetValue() != 1e21 {
		t.Errorf("have %v", got["c_total"])
	}
}

// Equal labels are one series, also after the keys were forgotten.
func TestSeriesAreOne(t *testing.T) {
	m := NewMetrics()
	key := SeriesKey{Reporter: Source, Source: front, Target: worker, Service: called, Status: 200}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 100 {
				m.Series(key).Request(time.Millisecond, 1, 1)
			}
		})
	}
	wg.Wait()
	first := m.Series(key)
	m.Forget()
	twin := *front
	key.Source = &twin
	if m.Series(key) != first {
		t.Error("equal labels make a second series")
	}
	if got := parse(t, m)["istio_requests_total"]; len(got.Metric) != 1 || got.Metric[0].Counter.GetValue() != 400 {
		t.Errorf("have %v", got)
	}
	if n := testing.AllocsPerRun(100, func() { m.Series(key).Request(time.Millisecond, 1, 1) }); n != 0 {
		t.Errorf("%v allocations for a known series", n)
	}
}

func TestSeriesAreBounded(t *testing.T) {
	m := NewMetrics()
	for i := range MaxSeries + 5 {
		m.Series(SeriesKey{Reporter: Source, Status: i})
	}
	if m.Series(SeriesKey{Reporter: Source, Status: -1}) != nil {
		t.Error("a series beyond MaxSeries")
	}
	if m.Series(SeriesKey{Reporter: Source, Status: 0}) == nil {
		t.Error("a known series is gone")
	}
	if got := m.dropped.Load(); got != 6 {
		t.Errorf("dropped: have %v, want 6", got)
	}
}
