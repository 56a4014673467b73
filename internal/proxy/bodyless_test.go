package proxy

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/ir"
)

// Some statuses have no body, whatever a route or an authorizer gives them: what
// would follow the head would be read as the next response.
func TestStatusesWithoutBody(t *testing.T) {
	for name, edit := range map[string]func(*ir.Route){
		"204":       func(r *ir.Route) { r.Forward, r.Direct = nil, &ir.DirectResponse{Status: 204, Body: "no body"} },
		"304":       func(r *ir.Route) { r.Forward, r.Direct = nil, &ir.DirectResponse{Status: 304, Body: "no body"} },
		"204 abort": func(r *ir.Route) { r.Fault = &ir.Fault{Abort: &ir.FaultAbort{Status: 204, Share: ir.All}} },
	} {
		t.Run(name, func(t *testing.T) {
			m := newMesh(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "next") }), func(m *mesh) {
				routes := &m.snapA.Routes[0].VirtualHosts[0].Routes
				first := *(*routes)[0]
				first.Match.Path = &ir.Match{Kind: ir.Exact, Value: "/first"}
				edit(&first)
				*routes = append([]*ir.Route{&first}, *routes...)
			})
			c, err := net.Dial("tcp", strings.TrimPrefix(m.url, "http://"))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			c.SetDeadline(time.Now().Add(10 * time.Second))
			io.WriteString(c, "GET /first HTTP/1.1\r\nHost: x\r\n\r\nGET /next HTTP/1.1\r\nHost: x\r\n\r\n")
			r := bufio.NewReader(c)
			for _, want := range []string{name[:3], "200"} {
				resp, err := http.ReadResponse(r, nil)
				if err != nil {
					t.Fatal(err)
				}
				body, err := io.ReadAll(resp.Body)
				if err != nil || !strings.HasPrefix(resp.Status, want) || want == "200" && string(body) != "next" {
					t.Errorf("%s %q, %v", resp.Status, body, err)
				}
			}
		})
	}
}
