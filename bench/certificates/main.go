// Command certificates measures the authority: how long a whole mesh waits when
// every sidecar asks for a certificate at once. Server and clients share this
// machine, so that what the clients cost (their side of TLS and gRPC) is in the
// figure; their keys and requests are made before.
package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	pb "istio.io/api/security/v1alpha1"

	"github.com/tulle-mesh/tulle/internal/ca"
	"github.com/tulle-mesh/tulle/internal/identity"
)

// The bars.
const (
	leastRate = 2000
	longest   = time.Second
)

func main() {
	sidecars := flag.Int("sidecars", 500, "sidecars that ask at once, each over its own TLS connection")
	rounds := flag.Int("rounds", 10, "how often they do; the figures are of the median round")
	file := flag.String("json", "", "write the result to this file")
	flag.Parse()
	if err := run(*sidecars, *rounds, *file); err != nil {
		fmt.Fprintln(os.Stderr, "certificates:", err)
		os.Exit(1)
	}
}

// result is one run.
type result struct {
	Sidecars  int     `json:"sidecars"`
	Rounds    int     `json:"rounds"`
	PerSecond float64 `json:"perSecond"` // certificates, median of the rounds
	Slowest   float64 `json:"slowestMs"` // of all answers in all rounds
	CPU       float64 `json:"cpuMicros"` // of both sides, for each certificate
}

func run(sidecars, rounds int, file string) error {
	m, err := newMesh(sidecars)
	if err != nil {
		return err
	}
	defer m.close()
	if _, err := m.round(); err != nil { // connects
		return err
	}
	before := cpu()
	var rates []float64
	var slowest time.Duration
	for range rounds {
		start := time.Now()
		waited, err := m.round()
		if err != nil {
			return err
		}
		rates = append(rates, float64(sidecars)/time.Since(start).Seconds())
		slowest = max(slowest, waited)
	}
	slices.Sort(rates)
	r := result{sidecars, rounds, rates[len(rates)/2], float64(slowest.Microseconds()) / 1000, float64((cpu() - before).Microseconds()) / float64(sidecars*rounds)}
	fmt.Printf("%d sidecars at once: %.0f certificates/s (bar %d), the slowest answer after %.0f ms (bar %d), %.0f µs CPU each, clients included\n",
		r.Sidecars, r.PerSecond, leastRate, r.Slowest, longest.Milliseconds(), r.CPU)
	if file != "" {
		b, err := json.MarshalIndent(r, "", " ")
		if err != nil {
			return err
		}
		if err := os.WriteFile(file, b, 0o644); err != nil {
			return err
		}
	}
	if r.PerSecond < leastRate || slowest > longest {
		return errors.New("a bar is missed")
	}
	return nil
}

func cpu() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// mesh is the real service over TLS with its clients.
type mesh struct {
	server  *grpc.Server
	clients []client
}

type client struct {
	conn    *grpc.ClientConn
	ctx     context.Context
	request *pb.IstioCertificateRequest
}

func newMesh(sidecars int) (*mesh, error) {
	authority, err := ca.New("cluster.local")
	if err != nil {
		return nil, err
	}
	tokens := ca.NewTokens()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	const name = "istiod.istio-system.svc"
	m := &mesh{server: grpc.NewServer(grpc.Creds(credentials.NewTLS(authority.ServerTLS(name))))}
	ca.Register(m.server, authority, tokens)
	go func() { _ = m.server.Serve(l) }() // ends with close
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(authority.Roots())
	creds := credentials.NewTLS(&tls.Config{RootCAs: roots, ServerName: name, MinVersion: tls.VersionTLS12})
	for i := range sidecars {
		conn, err := grpc.NewClient("passthrough:///"+l.Addr().String(), grpc.WithTransportCredentials(creds))
		if err != nil {
			return nil, err
		}
		csr, err := request()
		if err != nil {
			return nil, err
		}
		token := tokens.Issue(identity.ID{TrustDomain: "cluster.local", Namespace: "bench", ServiceAccount: fmt.Sprintf("w%d", i)})
		m.clients = append(m.clients, client{conn, metadata.AppendToOutgoingContext(context.Background(), "authorization", "Bearer "+token), &pb.IstioCertificateRequest{Csr: csr}})
	}
	return m, nil
}

func request() (string, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", err
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})), err
}

// round lets everybody ask at once, and returns how long the last one waited.
func (m *mesh) round() (slowest time.Duration, err error) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	begin := make(chan struct{})
	for _, c := range m.clients {
		wg.Go(func() {
			<-begin
			start := time.Now()
			_, failed := pb.NewIstioCertificateServiceClient(c.conn).CreateCertificate(c.ctx, c.request, grpc.WaitForReady(true))
			mu.Lock()
			defer mu.Unlock()
			if slowest = max(slowest, time.Since(start)); failed != nil {
				err = failed
			}
		})
	}
	close(begin)
	wg.Wait()
	return slowest, err
}

func (m *mesh) close() {
	for _, c := range m.clients {
		c.conn.Close()
	}
	m.server.Stop()
}
