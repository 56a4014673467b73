// Package h2spec runs the h2spec conformance suite (RFC 9113 and RFC 7541 as
// RFC 7540 had them) against a server that listens somewhere. Tests only.
package h2spec

import (
	"fmt"
	"net"
	"strconv"
	"testing"
	"time"

	"github.com/summerwind/h2spec/config"
	"github.com/summerwind/h2spec/generic"
	"github.com/summerwind/h2spec/hpack"
	"github.com/summerwind/h2spec/http2"
	"github.com/summerwind/h2spec/spec"
)

// Options say how to reach the server.
type Options struct {
	Addr string // host:port
	TLS  bool   // with any certificate
	Path string // of a resource that answers GET and POST with a body; "/"
	// Timeout is how long one case waits for a frame; 2 s. Cases that prove
	// that nothing more comes take all of it.
	Timeout time.Duration
	// Sections, if any, are the only ones to run: "http2/5.1", "hpack".
	Sections []string
	// Known are cases ("http2/6.5.3/1") allowed to fail, each with the reason.
	Known map[string]string
}

// Run fails t for every case that fails, strict ones included.
func Run(t *testing.T, o Options) {
	t.Helper()
	host, port, err := net.SplitHostPort(o.Addr)
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	c := &config.Config{
		Host: host, Port: n, Path: o.Path, Timeout: o.Timeout, MaxHeaderLen: 4000,
		Strict: true, TLS: o.TLS, Insecure: true, Sections: o.Sections,
	}
	if c.Path == "" {
		c.Path = "/"
	}
	if c.Timeout == 0 {
		c.Timeout = 2 * time.Second
	}
	passed := 0
	for _, group := range []*spec.TestGroup{generic.Spec(), http2.Spec(), hpack.Spec()} {
		group.Test(c)
		report(t, group, o.Known)
		passed += group.PassedCount
	}
	if passed == 0 {
		t.Error("no case ran")
	}
	t.Logf("h2spec: %d cases passed", passed)
}

func report(t *testing.T, g *spec.TestGroup, known map[string]string) {
	t.Helper()
	for i, tc := range append(append([]*spec.TestCase{}, g.Tests...), g.StrictTests...) {
		r := tc.Result
		if r == nil || !r.Failed {
			continue
		}
		id := fmt.Sprintf("%s/%d", g.ID(), i+1)
		if why, ok := known[id]; ok {
			t.Logf("%s fails as known: %s", id, why)
			continue
		}
		t.Errorf("%s: %s: %v", id, tc.Desc, r.Error)
	}
	for _, sub := range g.Groups {
		report(t, sub, known)
	}
}
