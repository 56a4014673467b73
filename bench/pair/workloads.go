package main

import (
	"context"
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
	"time"

	"github.com/tulle-mesh/tulle/bench/load"
	"github.com/tulle-mesh/tulle/bench/rig"
)

// workload is one kind of load and what counts in it.
type workload struct {
	name    string
	pairs   []string // "direct" means without any proxy
	figures []figure
	// run loads one pair once.
	run func(ctx context.Context, b *bench, pair string) (sample, error)
	// port of ours, for workloads that need the pair to speak HTTP/2.
	http2 uint16
}

// figure is one number of a workload. The judged ones make the ratio.
type figure struct {
	name, unit     string
	higher, judged bool
}

type sample map[string]float64

// unsupported marks a workload that this build cannot run.
type unsupported struct{ why string }

func (u *unsupported) Error() string { return u.why }

const (
	haproxy = "haproxy"
	nginx   = "nginx"
	tulle   = "tulle"
	direct  = "direct"
)

func workloads() []*workload {
	cpu := figure{name: "cpu_per_request", unit: "us", judged: true}
	rate := figure{name: "requests_per_s", unit: "/s", higher: true}
	handshakes := []figure{
		{name: "per_cpu_second", unit: "/s", higher: true, judged: true}, {name: "per_second", unit: "/s", higher: true},
	}
	return []*workload{
		{name: "http1", pairs: []string{haproxy, nginx, tulle}, figures: []figure{cpu, rate}, run: runWRK},
		{name: "http1-latency-p99", pairs: []string{direct, haproxy, tulle}, run: runOpenLoop,
			figures: []figure{{name: "p99", unit: "ms", judged: true}, {name: "p50", unit: "ms"}, {name: "p99.9", unit: "ms"}}},
		{name: "h2", pairs: []string{haproxy, tulle}, figures: []figure{cpu, rate}, run: runH2Load, http2: h2Port},
		{name: "grpc", pairs: []string{direct, haproxy, tulle}, run: runUnary, http2: grpcPort,
			figures: []figure{cpu, rate, {name: "p50", unit: "ms"}, {name: "p99", unit: "ms"}}},
		{name: "tcp", pairs: []string{haproxy, tulle}, run: runStreams, figures: []figure{
			{name: "1_stream", unit: "MB/s", higher: true, judged: true}, {name: "32_streams", unit: "MB/s", higher: true, judged: true},
			{name: "1_stream_cpu", unit: "ms/GB"}, {name: "32_streams_cpu", unit: "ms/GB"}}},
		{name: "handshake", pairs: []string{haproxy, tulle}, figures: handshakes, run: runHandshakes(false)},
		{name: "resumption", pairs: []string{haproxy, tulle}, figures: handshakes, run: runHandshakes(true)},
	}
}

// processes of a pair, client's side first; none for direct.
func (b *bench) processes(pair, protocol string) []*rig.Process {
	switch pair {
	case haproxy:
		p := b.peers.haproxy[protocol]
		return p[:]
	case nginx:
		return b.peers.nginx[:]
	case tulle:
		return []*rig.Process{b.pair.client, b.pair.server}
	}
	return nil
}

// address where a pair takes cleartext.
func (b *bench) address(pair string, haproxyPort int, port uint16) string {
	switch pair {
	case haproxy:
		return fmt.Sprintf("127.0.0.1:%d", haproxyPort)
	case nginx:
		return fmt.Sprintf("127.0.0.1:%d", nginxPort)
	case tulle:
		return fmt.Sprintf("127.0.0.1:%d", port)
	}
	return backends[port]
}

// cost runs f and returns what CPU the processes used meanwhile.
func cost(processes []*rig.Process, f func() error) (time.Duration, error) {
	sum := func() (total time.Duration, err error) {
		for _, p := range processes {
			used, err := p.CPU()
			if err != nil {
				return 0, err
			}
			total += used
		}
		return total, nil
	}
	before, err := sum()
	if err != nil {
		return 0, err
	}
	if err := f(); err != nil {
		return 0, err
	}
	after, err := sum()
	return after - before, err
}

// runTool runs a load generator and finds the number of requests in what it
// prints.
func runTool(ctx context.Context, count, failed *regexp.Regexp, argv ...string) (float64, error) {
	out, err := exec.CommandContext(ctx, argv[0], argv[1:]...).CombinedOutput()
	if err != nil {
		return 0, fmt.Errorf("%s: %w\n%s", argv[0], err, out)
	}
	if bad := failed.Find(out); bad != nil {
		return 0, fmt.Errorf("%s: %s", argv[0], bad)
	}
	m := count.FindSubmatch(out)
	if m == nil {
		return 0, fmt.Errorf("%s printed no number of requests:\n%s", argv[0], out)
	}
	return strconv.ParseFloat(string(m[1]), 64)
}

func perRequest(processes []*rig.Process, seconds int, f func() (float64, error)) (sample, error) {
	var n float64
	used, err := cost(processes, func() (err error) {
		n, err = f()
		return err
	})
	return sample{"cpu_per_request": float64(used.Microseconds()) / n, "requests_per_s": n / float64(seconds)}, err
}

// warmup is load before each measurement, so that connections and their
// handshakes do not count.
const warmup = time.Second

var (
	wrkCount  = regexp.MustCompile(`(\d+) requests in`)
	wrkFailed = regexp.MustCompile(`(Non-2xx|Socket errors).*`)
	h2Count   = regexp.MustCompile(`requests: .* (\d+) succeeded`)
	h2Failed  = regexp.MustCompile(`status codes: .* [1-9]\d* [345]xx`)
)

func runWRK(ctx context.Context, b *bench, pair string) (sample, error) {
	url := "http://" + b.address(pair, haHTTPPort, httpPort) + "/"
	wrk := func(d time.Duration) (float64, error) {
		return runTool(ctx, wrkCount, wrkFailed, "wrk", "-t1", "-c32", fmt.Sprintf("-d%.0fs", d.Seconds()), url)
	}
	if _, err := wrk(warmup); err != nil {
		return nil, err
	}
	return perRequest(b.processes(pair, "http1"), b.seconds, func() (float64, error) { return wrk(b.duration()) })
}

func runH2Load(ctx context.Context, b *bench, pair string) (sample, error) {
	url := "http://" + b.address(pair, haH2Port, h2Port) + "/"
	h2load := func(d time.Duration) (float64, error) {
		return runTool(ctx, h2Count, h2Failed, "h2load", "-t1", "-c4", "-m16", fmt.Sprintf("-D%.0f", d.Seconds()), url)
	}
	if _, err := h2load(warmup); err != nil {
		return nil, err
	}
	return perRequest(b.processes(pair, "h2"), b.seconds, func() (float64, error) { return h2load(b.duration()) })
}

func runOpenLoop(ctx context.Context, b *bench, pair string) (sample, error) {
	h, err := load.OpenLoop{Address: b.address(pair, haHTTPPort, httpPort), Rate: 1000, Conns: 32, Duration: b.duration(), Warmup: warmup}.Run(ctx)
	if err != nil {
		return nil, err
	}
	return sample{"p50": ms(h, 0.5), "p99": ms(h, 0.99), "p99.9": ms(h, 0.999)}, nil
}

func ms(h *load.Histogram, q float64) float64 { return float64(h.Quantile(q).Microseconds()) / 1000 }

func runUnary(ctx context.Context, b *bench, pair string) (sample, error) {
	s, err := load.NewUnaryServer(backends[grpcPort])
	if err != nil {
		return nil, err
	}
	defer s.Close()
	var h *load.Histogram
	address := b.address(pair, haGRPCPort, grpcPort)
	if _, err := load.Unary(ctx, address, 32, warmup); err != nil {
		return nil, err
	}
	out, err := perRequest(b.processes(pair, "grpc"), b.seconds, func() (n float64, err error) {
		h, err = load.Unary(ctx, address, 32, b.duration())
		return float64(h.Count()), err
	})
	if err != nil {
		return nil, err
	}
	out["p50"], out["p99"] = ms(h, 0.5), ms(h, 0.99)
	return out, nil
}

func runStreams(ctx context.Context, b *bench, pair string) (sample, error) {
	sink, err := load.NewSink(backends[tcpPort])
	if err != nil {
		return nil, err
	}
	defer sink.Close()
	out := sample{}
	for name, n := range map[string]int{"1_stream": 1, "32_streams": 32} {
		var took time.Duration
		used, err := cost(b.processes(pair, "tcp"), func() (err error) {
			took, err = load.Streams(ctx, b.address(pair, haTCPPort, tcpPort), n, b.bytes)
			return err
		})
		if err != nil {
			return nil, err
		}
		out[name] = float64(b.bytes) / 1e6 / took.Seconds()
		out[name+"_cpu"] = float64(used.Milliseconds()) / (float64(b.bytes) / 1e9)
	}
	return out, nil
}

// runHandshakes opens connections to the server's side alone. The judged rate
// is per second of that process's CPU time: what one busy core would do, even
// where the load generator or a neighbour kept the core from it.
func runHandshakes(resume bool) func(ctx context.Context, b *bench, pair string) (sample, error) {
	return func(ctx context.Context, b *bench, pair string) (sample, error) {
		server := b.processes(pair, "http1")[1]
		o := load.Handshakes{Address: fmt.Sprintf("127.0.0.1:%d", haHTTPPort+1), Resume: resume, Workers: 8, Duration: b.duration()}
		var err error
		if pair == tulle {
			o.Address = fmt.Sprintf("127.0.0.1:%d", httpPort+1)
			o.TLS, err = b.pair.control.ClientTLS(b.pair.clientNode)
		} else {
			o.TLS, err = rig.ClientConfig(b.peers.client), nil
		}
		if err != nil {
			return nil, err
		}
		var n int64
		var took time.Duration
		used, err := cost([]*rig.Process{server}, func() (err error) {
			n, took, err = o.Run(ctx)
			return err
		})
		if err != nil {
			return nil, err
		}
		return sample{"per_cpu_second": float64(n) / max(used.Seconds(), 0.01), "per_second": float64(n) / took.Seconds()}, nil
	}
}
