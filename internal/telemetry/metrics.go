package telemetry

import (
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// Buckets are Envoy's default histogram buckets, which Istio uses for times
// (milliseconds) and sizes (bytes) alike.
var Buckets = [...]float64{0.5, 1, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10000, 30000, 60000, 300000, 600000, 1800000, 3600000}

// MaxSeries bounds the label sets one proxy keeps; beyond it requests are
// counted in tulle_metrics_series_dropped_total only.
const MaxSeries = 20000

// Reporter says which side of a hop speaks.
type Reporter string

const (
	Source      Reporter = "source"
	Destination Reporter = "destination"
)

// Peer is one side of a hop as the standard metrics name it. Pointers to
// Peers are compared by identity: share one per endpoint or connection.
type Peer struct {
	Workload, Namespace, Principal, App, Version, CanonicalService, CanonicalRevision, Cluster string
}

// Service is the destination service.
type Service struct{ Host, Name, Namespace string }

// SeriesKey finds the series of a request without building labels. All its
// pointers live as long as one snapshot; Metrics.Forget drops the index when
// the next one comes, and equal labels find the same series again.
type SeriesKey struct {
	Reporter   Reporter
	Source     *Peer
	Target     *Peer
	Service    *Service
	TCP        bool
	MutualTLS  bool
	GRPC       bool
	GRPCStatus int16
	Status     int
	Flags      Flags
}

// Metrics holds Istio's standard metrics of one proxy. Safe for concurrent use.
type Metrics struct {
	mu      sync.RWMutex
	byKey   map[SeriesKey]*Series
	byLabel map[string]*Series
	dropped atomic.Int64
}

// NewMetrics returns an empty registry.
func NewMetrics() *Metrics {
	return &Metrics{byKey: map[SeriesKey]*Series{}, byLabel: map[string]*Series{}}
}

// Series are the metrics of one label set: HTTP's or TCP's.
type Series struct {
	labels string
	tcp    bool

	requests          Counter
	duration          Histogram // milliseconds
	reqBytes, rsBytes Histogram

	opened, closed, sent, received Counter
}

// Counter only goes up.
type Counter struct{ n atomic.Int64 }

// Add n ≥ 0.
func (c *Counter) Add(n int64) { c.n.Add(n) }

// Value now.
func (c *Counter) Value() int64 { return c.n.Load() }

// Histogram has Buckets. The sum is kept in micro-units, so that it can be
// added to without a compare-and-swap loop.
type Histogram struct {
	counts [len(Buckets) + 1]atomic.Int64
	sum    atomic.Int64
}

// Observe records v.
func (h *Histogram) Observe(v float64) {
	i := 0
	for i < len(Buckets) && v > Buckets[i] {
		i++
	}
	h.counts[i].Add(1)
	h.sum.Add(int64(v * 1e6))
}

// Series returns the series of the key, nil when MaxSeries is reached. The
// usual case is one map look-up under a read lock.
func (m *Metrics) Series(k SeriesKey) *Series {
	m.mu.RLock()
	s := m.byKey[k]
	m.mu.RUnlock()
	if s != nil {
		return s
	}
	labels := k.labels()
	m.mu.Lock()
	defer m.mu.Unlock()
	if s = m.byLabel[labels]; s == nil {
		if len(m.byLabel) >= MaxSeries {
			m.dropped.Add(1)
			return nil
		}
		s = &Series{labels: labels, tcp: k.TCP}
		m.byLabel[labels] = s
	}
	m.byKey[k] = s
	return s
}

// Forget drops the index by key (not the series): call it after the pointers
// that keys are made of were replaced.
func (m *Metrics) Forget() {
	m.mu.Lock()
	defer m.mu.Unlock()
	clear(m.byKey)
}

// Request records one finished HTTP request.
func (s *Series) Request(d time.Duration, received, sent int64) {
	s.requests.Add(1)
	s.duration.Observe(float64(d) / float64(time.Millisecond))
	s.reqBytes.Observe(float64(received))
	s.rsBytes.Observe(float64(sent))
}

// Opened records a TCP connection.
func (s *Series) Opened() { s.opened.Add(1) }

// Bytes records TCP traffic since the last call: received from and sent to
// the downstream.
func (s *Series) Bytes(received, sent int64) {
	s.received.Add(received)
	s.sent.Add(sent)
}

// Closed records the end of a TCP connection.
func (s *Series) Closed() { s.closed.Add(1) }

// labels in Istio's order, values escaped.
func (k *SeriesKey) labels() string {
	b := make([]byte, 0, 1024)
	add := func(name, value string) {
		if len(b) > 0 {
			b = append(b, ',')
		}
		b = append(b, name...)
		b = append(b, '=')
		b = appendLabelValue(b, value)
	}
	or := func(v string) string {
		if v == "" {
			return "unknown"
		}
		return v
	}
	src, dst, svc := k.Source, k.Target, k.Service
	if src == nil {
		src = &Peer{}
	}
	if dst == nil {
		dst = &Peer{}
	}
	if svc == nil {
		svc = &Service{}
	}
	add("reporter", string(k.Reporter))
	add("source_workload", or(src.Workload))
	add("source_canonical_service", or(src.CanonicalService))
	add("source_canonical_revision", revision(src))
	add("source_workload_namespace", or(src.Namespace))
	add("source_principal", or(src.Principal))
	add("source_app", or(src.App))
	add("source_version", or(src.Version))
	add("source_cluster", or(src.Cluster))
	add("destination_workload", or(dst.Workload))
	add("destination_workload_namespace", or(dst.Namespace))
	add("destination_principal", or(dst.Principal))
	add("destination_app", or(dst.App))
	add("destination_version", or(dst.Version))
	add("destination_service", or(svc.Host))
	add("destination_canonical_service", or(dst.CanonicalService))
	add("destination_canonical_revision", revision(dst))
	add("destination_service_name", or(svc.Name))
	add("destination_service_namespace", or(svc.Namespace))
	add("destination_cluster", or(dst.Cluster))
	switch {
	case k.TCP:
		add("request_protocol", "tcp")
	case k.GRPC:
		add("request_protocol", "grpc")
	default:
		add("request_protocol", "http")
	}
	if !k.TCP {
		add("response_code", strconv.Itoa(k.Status))
		if k.GRPC {
			add("grpc_response_status", strconv.Itoa(int(k.GRPCStatus)))
		} else {
			add("grpc_response_status", "")
		}
	}
	add("response_flags", k.Flags.String())
	policy := "unknown" // a source cannot vouch for what the other side saw
	if k.Reporter == Destination {
		policy = "none"
		if k.MutualTLS {
			policy = "mutual_tls"
		}
	}
	add("connection_security_policy", policy)
	return string(b)
}

func revision(p *Peer) string {
	switch {
	case p.CanonicalRevision != "":
		return p.CanonicalRevision
	case p.Workload == "" && p.CanonicalService == "":
		return "unknown"
	}
	return "latest"
}
