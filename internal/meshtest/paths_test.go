package meshtest

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// TestPathCorpus sends every path of the corpus through real proxies, in every
// mode of normalization, over HTTP/1.1 and HTTP/2, from a caller with a sidecar
// and from one without. The route that was taken, the path that policies saw
// and the path that reached the application must be the one of the table; and
// what an application makes of it must be what a policy would have seen.
func TestPathCorpus(t *testing.T) {
	cases, err := readCorpus("testdata/paths/corpus.txt")
	if err != nil {
		t.Fatal(err)
	}
	if len(cases) < 80 {
		t.Errorf("%d cases; the corpus promises 80", len(cases))
	}
	for _, mode := range pathModes {
		t.Run(mode, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newPathWorld(t, mode, cases)
				defer w.close()
				defer w.app.Close()
				for _, caller := range []string{"web", "legacy"} {
					for i := range cases {
						for _, protocol := range []string{"h1", "h2"} {
							if c := &cases[i]; c.only == "" || c.only == protocol {
								w.check(t, c, caller, protocol)
							}
						}
					}
				}
				w.checkLog(t)
			})
		})
	}
}

// checkLog compares what policies saw.
func (w *pathWorld) checkLog(t *testing.T) {
	pause(t.Context(), logBatch)
	synctest.Wait()
	for _, text := range w.target.log.since(0) {
		var line struct{ Request, Audit string }
		if err := json.Unmarshal([]byte(text), &line); err != nil {
			t.Fatal(err)
		}
		rule, where, _ := strings.Cut(w.judged[line.Request], " of ")
		if rule != "" && shortPolicy(line.Audit) != rule {
			t.Errorf("%s: policies saw %s, want %s", where, line.Audit, rule)
		}
		delete(w.judged, line.Request)
	}
	for _, missing := range w.judged {
		t.Errorf("not logged: %s", missing)
	}
}

// pathWorld is a mesh in which every path of the corpus has a route that says
// so to the application, and an AUDIT rule that says so to the log.
type pathWorld struct {
	*world
	mode   string
	index  map[string]int // by path without query
	target *pod
	app    net.Listener // the application's
	ids    int
	judged map[string]string // by id: the AUDIT rule that the log must name, and of which request

	mu   sync.Mutex
	seen map[string]*http.Request // what reached the application, by id
}

func newPathWorld(t testing.TB, mode string, cases []pathCase) *pathWorld {
	base, err := newWorld(overH1)
	if err != nil {
		t.Fatal(err)
	}
	w := &pathWorld{world: base, mode: mode, index: map[string]int{}, seen: map[string]*http.Request{}, judged: map[string]string{}}
	var routes, rules strings.Builder
	for i := range cases {
		p, _, _ := strings.Cut(cases[i].want[mode], "?")
		if _, known := w.index[p]; known || p == "400" || !utf8.ValidString(p) {
			continue
		}
		n := len(w.index)
		w.index[p] = n
		fmt.Fprintf(&routes, "  - {name: r%d, match: [{uri: {exact: %q}}], route: [{destination: {host: target}}], headers: {request: {set: {x-route: \"%d\"}}}}\n", n, p, n)
		if strings.ContainsAny(p, "{}") { // no value of operation.paths
			fmt.Fprintf(&rules, "  - when: [{key: \"request.headers[:path]\", values: [%q]}]\n", p)
		} else {
			fmt.Fprintf(&rules, "  - to: [{operation: {paths: [%q], ports: [\"8080\"]}}]\n", p)
		}
	}
	text, err := os.ReadFile("testdata/oracle/world.yaml")
	if err != nil {
		t.Fatal(err)
	}
	w.docs, _ = splitYAML("world.yaml", 1, strings.Split(string(text), "\n"))
	for _, d := range []string{
		strings.Replace(oracleMesh, "mesh: |\n", "mesh: |\n    pathNormalization: {normalization: "+mode+"}\n", 1),
		"apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: paths, namespace: shop}\nspec:\n  hosts: [target]\n  http:\n" + routes.String() + "  - route: [{destination: {host: target}}]\n",
		"apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: paths, namespace: shop}\nspec:\n  action: AUDIT\n  selector: {matchLabels: {app: target}}\n  rules:\n" + rules.String(),
	} {
		w.docs = append(w.docs, identify(document{file: "paths.yaml", line: 1, text: d}))
	}
	problems, err := w.reconcile()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		if !strings.Contains(p.Reason, "is TCP") {
			t.Errorf("%s", p)
		}
	}
	w.target = w.podsNamed("target")[0]
	w.target.app.close()
	w.app, err = w.target.host.listen(netip.AddrPortFrom(w.target.Address, 8080))
	if err != nil {
		t.Fatal(err)
	}
	go w.serve(w.app)
	return w
}

// serve is an application that takes every path: net/http's own server refuses
// some before anybody sees them.
func (w *pathWorld) serve(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() { // ends with its connection
			in := bufio.NewReader(c)
			for {
				line, err := in.ReadString('\n')
				if err != nil {
					return
				}
				words := strings.SplitN(strings.TrimSuffix(line, "\r\n"), " ", 2)
				target := strings.TrimSuffix(words[1], " HTTP/1.1")
				rest, err := http.ReadRequest(bufio.NewReader(&io1{"GET / HTTP/1.1\r\n", in}))
				if err != nil {
					return
				}
				rest.RequestURI = target
				w.mu.Lock()
				w.seen[rest.Header.Get(requestHeader)] = rest
				w.mu.Unlock()
				if _, err := c.Write([]byte("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")); err != nil {
					return
				}
			}
		}()
	}
}

// io1 gives a text, then a head from in and no byte more.
type io1 struct {
	text string
	in   *bufio.Reader
}

func (r *io1) Read(b []byte) (int, error) {
	if r.text == "" {
		line, err := r.in.ReadString('\n')
		if err != nil {
			return 0, err
		}
		r.text = line
	}
	n := copy(b, r.text)
	r.text = r.text[n:]
	return n, nil
}

// reached is what the application got of a request.
func (w *pathWorld) reached(id string) *http.Request {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.seen[id]
}

func (w *pathWorld) check(t *testing.T, c *pathCase, caller, protocol string) {
	t.Helper()
	w.ids++
	id := strconv.Itoa(w.ids)
	where := fmt.Sprintf("%s: %s over %s from %s", c.place, strconv.Quote(c.sent), protocol, caller)
	status, err := w.send(caller, protocol, c.sent, id)
	got := w.reached(id)
	if c.want[w.mode] == "400" {
		if got != nil || status == 200 {
			t.Errorf("%s: reached the application as %q with status %d", where, got.RequestURI, status)
		}
		return
	}
	if err != nil || status != 200 || got == nil {
		t.Errorf("%s: status %d, %v", where, status, err)
		return
	}
	if got.RequestURI != c.want[w.mode] {
		t.Errorf("%s: forwarded as %q, want %q", where, got.RequestURI, c.want[w.mode])
	}
	p, _, _ := strings.Cut(got.RequestURI, "?")
	n, known := w.index[p]
	if caller == "web" && known && got.Header.Get("x-route") != strconv.Itoa(n) {
		t.Errorf("%s: took route %q, want %d", where, got.Header.Get("x-route"), n)
	}
	if known {
		w.judged[id] = fmt.Sprintf("paths[%d] of %s", n, where)
	}
	if why := bypass(w.mode, p); why != "" {
		t.Errorf("%s: %s", where, why)
	}
}

// bypass reports a path that a policy about /admin and /admin/* does not
// match although an application takes it for one of them. Applications follow
// RFC 3986; of those behind DECODE_AND_MERGE_SLASHES it is said that they also
// decode escapes, once.
func bypass(mode, forwarded string) string {
	if mode == "NONE" {
		return ""
	}
	meant := strings.ReplaceAll(forwarded, `\`, "/")
	if mode == "DECODE_AND_MERGE_SLASHES" {
		if decoded, err := url.PathUnescape(meant); err == nil {
			meant = strings.ReplaceAll(decoded, `\`, "/")
		}
	}
	if mode == "BASE" { // an empty segment is one
		meant = strings.ReplaceAll(meant, "//", "/\x01/")
		meant = strings.ReplaceAll(meant, "//", "/\x01/")
	}
	under := func(p string) bool { return p == "/admin" || strings.HasPrefix(p, "/admin/") }
	if under(path.Clean(meant)) && !under(forwarded) {
		return fmt.Sprintf("%q passes by a policy about /admin, and means %q", forwarded, path.Clean(meant))
	}
	return ""
}

// send makes a request byte for byte; the status is 0 when there was no answer.
func (w *pathWorld) send(caller, protocol, target, id string) (int, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	conn, err := w.podsNamed(caller)[0].client.dial(ctx, "tcp", targetHost+":80")
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(time.Minute))
	if protocol == "h2" {
		return sendH2(conn, target, id)
	}
	fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: %s\r\n%s: %s\r\n\r\n", target, targetHost, requestHeader, id)
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return 0, err
	}
	resp.Body.Close()
	return resp.StatusCode, nil
}

func sendH2(conn net.Conn, target, id string) (int, error) {
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	for _, f := range [][2]string{{":method", "GET"}, {":scheme", "http"}, {":authority", targetHost}, {":path", target}, {strings.ToLower(requestHeader), id}} {
		enc.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]})
	}
	conn.Write([]byte(http2.ClientPreface))
	framer := http2.NewFramer(conn, conn)
	framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	framer.WriteSettings()
	framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndHeaders: true, EndStream: true})
	for {
		frame, err := framer.ReadFrame()
		if err != nil {
			return 0, err
		}
		switch f := frame.(type) {
		case *http2.MetaHeadersFrame:
			return strconv.Atoi(f.PseudoValue("status"))
		case *http2.RSTStreamFrame:
			return 0, fmt.Errorf("stream reset: %v", f.ErrCode)
		case *http2.GoAwayFrame:
			return 0, fmt.Errorf("GOAWAY: %v", f.ErrCode)
		}
	}
}
