package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/tulle-mesh/tulle/bench/rig"
)

// peers is HAProxy in the roles of both sidecars, once for each protocol, nginx
// likewise for HTTP/1.1, and nginx as the backend of all. None of them has
// policy, metrics or a log.
type peers struct {
	dir       string
	processes []*rig.Process
	haproxy   map[string][2]*rig.Process // by protocol: client's side, server's side
	nginx     [2]*rig.Process
	client    tls.Certificate // of the mesh that the peers are
}

// Ports of the peers: of a client's side, and one above it of a server's.
const (
	nginxPort  = 18201
	haHTTPPort = 18301
	haTCPPort  = 18311
	haH2Port   = 18321
	haGRPCPort = 18331
)

func startPeers(ctx context.Context, dir string) (*peers, error) {
	p := &peers{dir: dir, haproxy: map[string][2]*rig.Process{}}
	if err := p.start(ctx); err != nil {
		p.stop()
		return nil, err
	}
	return p, nil
}

func (p *peers) start(ctx context.Context) error {
	if err := os.Chmod(p.dir, 0o755); err != nil { // nginx's workers run as nobody
		return err
	}
	if err := p.certificates(); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(p.dir, "1k"), bytes.Repeat([]byte("x"), 1024), 0o644); err != nil {
		return err
	}
	backend := fmt.Sprintf(`http2_max_concurrent_streams 1000;
server { listen %s reuseport; listen %s http2; location / { root %s; try_files /1k =404; open_file_cache max=10; } }`, backends[httpPort], backends[h2Port], p.dir)
	if _, err := p.runNginx(ctx, "backend", backend, backends[httpPort]); err != nil {
		return err
	}
	if err := p.startNginx(ctx); err != nil {
		return err
	}
	for _, pair := range []struct {
		name, mode, proto, alpn string
		port                    int
		backend                 string
	}{
		{"http1", "http", "", "", haHTTPPort, backends[httpPort]},
		{"tcp", "tcp", "", "", haTCPPort, backends[tcpPort]},
		{"h2", "http", " proto h2", " alpn h2", haH2Port, backends[h2Port]},
		{"grpc", "http", " proto h2", " alpn h2", haGRPCPort, backends[grpcPort]},
	} {
		inner := fmt.Sprintf("127.0.0.1:%d", pair.port+1)
		client, err := p.runHAProxy(ctx, pair.name+"-client", pair.mode, fmt.Sprintf("127.0.0.1:%d", pair.port), pair.proto,
			fmt.Sprintf("%s%s ssl verify required ca-file %s/ca.crt crt %[3]s/client.pem verifyhost server ssl-min-ver TLSv1.3", inner, pair.alpn, p.dir))
		if err != nil {
			return err
		}
		server, err := p.runHAProxy(ctx, pair.name+"-server", pair.mode, inner,
			fmt.Sprintf(" ssl crt %s/server.pem ca-file %[1]s/ca.crt verify required ssl-min-ver TLSv1.3%s", p.dir, pair.alpn), pair.backend+pair.proto)
		if err != nil {
			return err
		}
		p.haproxy[pair.name] = [2]*rig.Process{client, server}
	}
	return nil
}

func (p *peers) stop() {
	for _, x := range p.processes {
		x.Stop()
	}
}

// runHAProxy runs one thread that forwards from bind to server.
func (p *peers) runHAProxy(ctx context.Context, name, mode, bind, bindOptions, server string) (*rig.Process, error) {
	reuse := ""
	if mode == "http" {
		reuse = " http-reuse always\n"
	}
	conf := fmt.Sprintf("global\n nbthread 1\n maxconn 8000\ndefaults\n mode %s\n timeout connect 5s\n timeout client 60s\n timeout server 60s\n%sfrontend f\n bind %s%s\n default_backend b\nbackend b\n server s %s\n",
		mode, reuse, bind, bindOptions, server)
	file := filepath.Join(p.dir, "haproxy-"+name+".cfg")
	if err := os.WriteFile(file, []byte(conf), 0o600); err != nil {
		return nil, err
	}
	return p.run(ctx, "haproxy-"+name, bind, "haproxy", "-f", file)
}

func (p *peers) runNginx(ctx context.Context, name, http, address string) (*rig.Process, error) {
	conf := fmt.Sprintf("worker_processes 1; daemon off; pid %s/%s.pid; error_log %[1]s/%[2]s.err; events { worker_connections 8192; }\nhttp { access_log off; keepalive_requests 100000000; keepalive_timeout 300;\n%[3]s\n}\n", p.dir, name, http)
	file := filepath.Join(p.dir, "nginx-"+name+".conf")
	if err := os.WriteFile(file, []byte(conf), 0o600); err != nil {
		return nil, err
	}
	return p.run(ctx, "nginx-"+name, address, "nginx", "-c", file)
}

func (p *peers) startNginx(ctx context.Context) (err error) {
	const up = `proxy_http_version 1.1; proxy_set_header Connection "";`
	const pool = `keepalive 512; keepalive_requests 100000000;`
	inner := fmt.Sprintf("127.0.0.1:%d", nginxPort+1)
	p.nginx[0], err = p.runNginx(ctx, "client", fmt.Sprintf(`upstream u { server %s; %s } server { listen 127.0.0.1:%d; location / { proxy_pass https://u; %s
proxy_ssl_certificate %s/client.crt; proxy_ssl_certificate_key %[5]s/client.key; proxy_ssl_trusted_certificate %[5]s/ca.crt;
proxy_ssl_verify on; proxy_ssl_name server; proxy_ssl_protocols TLSv1.3; } }`, inner, pool, nginxPort, up, p.dir), fmt.Sprintf("127.0.0.1:%d", nginxPort))
	if err != nil {
		return err
	}
	p.nginx[1], err = p.runNginx(ctx, "server", fmt.Sprintf(`upstream u { server %s; %s } server { listen %s ssl; ssl_certificate %s/server.crt; ssl_certificate_key %[4]s/server.key;
ssl_client_certificate %[4]s/ca.crt; ssl_verify_client on; ssl_protocols TLSv1.3; location / { proxy_pass http://u; %[5]s } }`, backends[httpPort], pool, inner, p.dir, up), inner)
	return err
}

func (p *peers) run(ctx context.Context, name, address string, argv ...string) (*rig.Process, error) {
	x, err := rig.Start(p.dir, name, argv, nil)
	if err != nil {
		return nil, err
	}
	p.processes = append(p.processes, x)
	return x, x.AwaitPort(ctx, address)
}

// certificates makes a CA and a certificate for each side: ECDSA P-256, as the
// sidecars have.
func (p *peers) certificates() error {
	ca := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{Organization: []string{"bench"}}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	caDER, err := p.certificate("ca", ca, ca, caKey, caKey)
	if err != nil {
		return err
	}
	parent, err := x509.ParseCertificate(caDER)
	if err != nil {
		return err
	}
	for i, name := range []string{"client", "server"} {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return err
		}
		cert := &x509.Certificate{SerialNumber: big.NewInt(int64(2 + i)), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
			URIs:        []*url.URL{{Scheme: "spiffe", Host: "cluster.local", Path: "/ns/bench/sa/" + name}},
			KeyUsage:    x509.KeyUsageDigitalSignature,
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
		der, err := p.certificate(name, cert, parent, key, caKey)
		if err != nil {
			return err
		}
		if name == "client" {
			p.client = tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
		}
	}
	return nil
}

// certificate writes NAME.crt, NAME.key and, both together, NAME.pem.
func (p *peers) certificate(name string, cert, parent *x509.Certificate, key, parentKey *ecdsa.PrivateKey) ([]byte, error) {
	cert.NotBefore, cert.NotAfter = time.Now().Add(-time.Minute), time.Now().Add(24*time.Hour)
	der, err := x509.CreateCertificate(rand.Reader, cert, parent, key.Public(), parentKey)
	if err != nil {
		return nil, err
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, err
	}
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER})
	for ext, b := range map[string][]byte{".crt": certPEM, ".key": keyPEM, ".pem": append(certPEM[:len(certPEM):len(certPEM)], keyPEM...)} {
		if err := os.WriteFile(filepath.Join(p.dir, name+ext), b, 0o600); err != nil {
			return nil, err
		}
	}
	return der, nil
}
