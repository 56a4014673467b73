// Command opa measures what a decision by ResearchFlow's Rego costs in the
// sidecar and by gRPC ext_authz to an OPA on loopback, in one run.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/tulle-mesh/tulle/bench/rig"
	"github.com/tulle-mesh/tulle/internal/authz"
	"github.com/tulle-mesh/tulle/internal/extauthz"
	"github.com/tulle-mesh/tulle/internal/ir"
	"github.com/tulle-mesh/tulle/internal/rego"
)

func main() {
	n := flag.Int("n", 5_000, "decisions of each kind")
	policy := flag.String("policy", "infrastructure/kubernetes/base/opa/policy.rego", "the policy")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, *n, *policy); err != nil {
		fmt.Fprintln(os.Stderr, "opa:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, n int, policy string) error {
	text, err := os.ReadFile(policy)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "bench-opa")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	binary := filepath.Join(dir, "tulle")
	if out, err := exec.CommandContext(ctx, "go", "build", "-o", binary, "./cmd/tulle").CombinedOutput(); err != nil {
		return fmt.Errorf("build: %w\n%s", err, out)
	}
	for _, alg := range []jose.SignatureAlgorithm{jose.ES256, jose.RS256} {
		demands := strings.ReplaceAll(string(text), `"alg": "ES256"`, fmt.Sprintf("\"alg\": %q", alg))
		if err := compare(ctx, binary, dir, alg, demands, n); err != nil {
			return err
		}
	}
	return nil
}

// blocks are how many requests one side decides before the other has its turn.
// By 1 each finds the processor's caches full of the other's work; by 64 each
// works as it does alone, and what else the machine does still meets both.
var blocks = [...]int{1, 64}

// compare measures both sides with tokens of one algorithm.
func compare(ctx context.Context, binary, dir string, alg jose.SignatureAlgorithm, policy string, n int) error {
	by, err := newIssuer(alg)
	if err != nil {
		return err
	}
	near, err := rego.NewHost(io.Discard, slog.New(slog.DiscardHandler)).Provider(&ir.ExtAuthz{Provider: "bench",
		Rego: &ir.Rego{Name: "bench", Query: rego.Query(""), Modules: map[string]string{"policy.rego": policy}, Data: by.data}})
	if err != nil {
		return err
	}
	far, stop, err := server(ctx, binary, dir, policy, by.data)
	if err != nil {
		return err
	}
	defer stop()
	warm, err := by.token("warm")
	if err != nil {
		return err
	}
	for _, block := range blocks {
		fmt.Printf("%-34s %12s %12s %12s %12s %8s %8s\n", fmt.Sprintf("%s, in turn by %d", alg, block), "sidecar p50", "p99", "gRPC p50", "p99", "p50 x", "p99 x")
		for _, k := range []struct {
			name    string
			request func(i int) (*authz.External, error)
		}{
			{"warm: the same question", func(int) (*authz.External, error) { return request(warm, "/api/jobs?limit=3"), nil }},
			{"the token is known, the path is not", func(i int) (*authz.External, error) {
				return request(warm, fmt.Sprint("/api/jobs/", block, "/", i)), nil
			}},
			{"cold: the token is new", func(i int) (*authz.External, error) {
				token, err := by.token(fmt.Sprint(block, " ", i))
				return request(token, "/api/jobs?limit=3"), err
			}},
		} {
			requests := make([]*authz.External, n)
			for i := range requests {
				if requests[i], err = k.request(i); err != nil {
					return err
				}
			}
			a, b, err := measure(ctx, near, far, requests, block)
			if err != nil {
				return err
			}
			fmt.Printf("%-34s %12s %12s %12s %12s %8.1f %8.1f\n", k.name, at(a, 50), at(a, 99), at(b, 50), at(b, 99), ratio(a, b, 50), ratio(a, b, 99))
		}
	}
	return nil
}

// measure puts every question to both, so many at a time; the times it took,
// sorted.
func measure(ctx context.Context, near, far authz.Provider, requests []*authz.External, block int) (a, b []time.Duration, err error) {
	for turn := range slices.Chunk(requests, block) {
		for _, by := range []struct {
			authz.Provider
			times *[]time.Duration
		}{{near, &a}, {far, &b}} {
			for _, r := range turn {
				start := time.Now()
				v := by.Check(ctx, r)
				*by.times = append(*by.times, time.Since(start))
				if v.Err != nil || !v.Allow {
					return nil, nil, fmt.Errorf("a request that is allowed was not: %+v", v)
				}
			}
		}
	}
	slices.Sort(a)
	slices.Sort(b)
	return a, b, nil
}

func at(sorted []time.Duration, percent int) time.Duration {
	return sorted[len(sorted)*percent/100].Round(100 * time.Nanosecond)
}

func ratio(a, b []time.Duration, percent int) float64 {
	return float64(at(b, percent)) / float64(at(a, percent))
}

// server runs OPA as a process of its own.
func server(ctx context.Context, binary, dir, policy, data string) (*extauthz.Client, func(), error) {
	for name, text := range map[string]string{"policy.rego": policy, "data.json": data} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			return nil, nil, err
		}
	}
	const rest, check = "127.0.0.1:18181", "127.0.0.1:19191"
	p, err := rig.Start(dir, "opa", []string{binary, "opa", "run", "--server", "--addr=" + rest, "--set=plugins.envoy_ext_authz_grpc.addr=" + check, filepath.Join(dir, "policy.rego"), filepath.Join(dir, "data.json")}, nil)
	if err != nil {
		return nil, nil, err
	}
	if err := p.AwaitPort(ctx, check); err != nil {
		p.Stop()
		return nil, nil, err
	}
	c, err := extauthz.New(extauthz.Options{Name: "bench", Dial: func(ctx context.Context) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", check)
	}})
	if err != nil {
		p.Stop()
		return nil, nil, err
	}
	return c, func() { c.Close(); p.Stop() }, nil
}

// request has the headers of a browser's call through a gateway.
func request(token, path string) *authz.External {
	fields := strings.Fields("accept */* accept-encoding gzip user-agent bench x-forwarded-for 10.0.0.9 x-forwarded-proto https x-request-id 7 x-b3-traceid 80f198ee56343ba864fe8b2a57d3eff7 x-b3-spanid e457b5a2e4d86bd1 x-b3-sampled 1 cookie a=b")
	fields = append(fields, "authorization", "Bearer "+token)
	return &authz.External{Provider: "bench", HTTP: true, ID: "7", Method: "GET", Path: path, Host: "localhost", Scheme: "https", Protocol: "HTTP/1.1", Time: time.Now(),
		SourcePrincipal: "spiffe://cluster.local/ns/istio-system/sa/gateway",
		Headers: func(yield func(name, value string) bool) {
			for i := 0; i < len(fields); i += 2 {
				if !yield(fields[i], fields[i+1]) {
					return
				}
			}
		}}
}
