package telemetry

import (
	"encoding/json"
	"io"
	"strings"
	"sync"
	"testing"
	"time"
)

type headers map[string]string

func (h headers) Get(name string) (string, bool) { v, ok := h[name]; return v, ok }

func sample() *Record {
	return &Record{
		Start: time.Date(2026, 1, 2, 3, 4, 5, 678_900_000, time.FixedZone("east", 3600)), Duration: 12*time.Millisecond + 900*time.Microsecond,
		Protocol: HTTP11, Method: "GET", Path: "/a?b=c", Authority: "worker:8000", Status: 200, Details: "via_upstream",
		Request:       headers{"user-agent": "curl/8", "x-request-id": "r-1", "x-forwarded-for": "1.2.3.4"},
		BytesReceived: 1, BytesSent: 2, UpstreamTime: 11 * time.Millisecond, HasUpstreamTime: true, Attempts: 1,
		Route: "default", Cluster: "outbound|8000||worker.shop.svc.cluster.local", UpstreamHost: "10.244.0.3:8080", UpstreamLocal: "10.244.0.1:40000",
		DownstreamLocal: "10.96.0.2:8000", DownstreamRemote: "10.244.0.1:39000",
	}
}

func line(t *testing.T, format string, r *Record) string {
	t.Helper()
	f, err := ParseFormat(format)
	if err != nil {
		t.Fatal(err)
	}
	return string(f.Append(nil, r))
}

// TE6: byte for byte what Istio writes; people grep it.
func TestDefaultText(t *testing.T) {
	if got, want := line(t, "", sample()), `[2026-01-02T02:04:05.678Z] "GET /a?b=c HTTP/1.1" 200 - via_upstream - "-" 1 2 12 11 "1.2.3.4" "curl/8" "r-1" "worker:8000" "10.244.0.3:8080" outbound|8000||worker.shop.svc.cluster.local 10.244.0.1:40000 10.96.0.2:8000 10.244.0.1:39000 - default`+"\n"; got != want {
		t.Errorf("have %s\nwant %s", got, want)
	}
	refused := &Record{Start: time.Unix(0, 0), Protocol: HTTP11, Method: "GET", Path: "/", Authority: "w", Status: 503, Flags: UpstreamConnectFailure | UpstreamRetryLimit, Details: "upstream_reset_before_response_started{connection_failure}", Failure: "delayed_connect_error:_111"}
	if got, want := line(t, "", refused), `[1970-01-01T00:00:00.000Z] "GET / HTTP/1.1" 503 UF,URX upstream_reset_before_response_started{connection_failure} - "delayed_connect_error:_111" 0 0 0 - "-" "-" "-" "w" "-" - - - - - -`+"\n"; got != want {
		t.Errorf("have %s\nwant %s", got, want)
	}
	tcp := &Record{Start: time.Unix(0, 0), BytesReceived: 5, BytesSent: 6, Duration: time.Second, Cluster: "c", SNI: "s"}
	if got, want := line(t, "", tcp), `[1970-01-01T00:00:00.000Z] "- - -" 0 - - - "-" 5 6 1000 - "-" "-" "-" "-" "-" c - - - s -`+"\n"; got != want {
		t.Errorf("have %s\nwant %s", got, want)
	}
}

func TestOperators(t *testing.T) {
	r := sample()
	r.Response = headers{"server": "istio-envoy"}
	r.PeerPrincipal = "spiffe://td/ns/a/sa/b"
	for format, want := range map[string]string{
		"plain":                             "plain\n",
		"%PROTOCOL%":                        "HTTP/1.1\n",
		"%PROTOCOL%\n":                      "HTTP/1.1\n", // Istio adds the newline only where it is missing
		"100%% %RESPONSE_CODE%":             "100% 200\n",
		"%REQ(User-Agent)%":                 "curl/8\n",
		"%REQ(NONE)%":                       "-\n",
		"%REQ(NONE?USER-AGENT)%":            "curl/8\n",
		"%REQ(USER-AGENT):4%":               "curl\n",
		"%REQ(:PATH):99%":                   "/a?b=c\n",
		"%RESP(SERVER)%":                    "istio-envoy\n",
		"%RESP(NONE?SERVER):2%":             "is\n",
		"%UPSTREAM_REQUEST_ATTEMPT_COUNT%":  "1\n",
		"%DOWNSTREAM_PEER_URI_SAN%":         "spiffe://td/ns/a/sa/b\n",
		"%UPSTREAM_CLUSTER_RAW%|%DURATION%": "outbound|8000||worker.shop.svc.cluster.local|12\n",
	} {
		if got := line(t, format, r); got != want {
			t.Errorf("%s: have %q, want %q", format, got, want)
		}
	}
	for _, format := range []string{"%NOPE%", "%PROTOCOL", "%REQ(X%", "%REQ(X):-1%", "%REQ(X):y%", "%DYNAMIC_METADATA(a)%", "%START_TIME(%Y)%"} {
		if _, err := ParseFormat(format); err == nil || !strings.Contains(err.Error(), "access log format") {
			t.Errorf("%s: error %v", format, err)
		}
		if _, err := ParseJSON(map[string]string{"k": format}); err == nil || !strings.Contains(err.Error(), `field "k"`) {
			t.Errorf("JSON %s: error %v", format, err)
		}
	}
}

// What a peer sends cannot write a line of its own.
func TestTextCannotBeForged(t *testing.T) {
	r := sample()
	r.Path = "/\" 200 - \n[forged]\x1b\x7f\\"
	got := line(t, "%REQ(:PATH)%", r)
	if want := `/\" 200 - \x0a[forged]\x1b\x7f\\` + "\n"; got != want {
		t.Errorf("have %q, want %q", got, want)
	}
}

func TestDefaultJSON(t *testing.T) {
	f, err := ParseJSON(DefaultJSON())
	if err != nil {
		t.Fatal(err)
	}
	want := `{"authority":"worker:8000","bytes_received":1,"bytes_sent":2,"connection_termination_details":null,"downstream_local_address":"10.96.0.2:8000","downstream_remote_address":"10.244.0.1:39000",` +
		`"duration":12,"method":"GET","path":"/a?b=c","protocol":"HTTP/1.1","request_id":"r-1","requested_server_name":null,"response_code":200,"response_code_details":"via_upstream","response_flags":"-","route_name":"default",` +
		`"start_time":"2026-01-02T02:04:05.678Z","upstream_cluster":"outbound|8000||worker.shop.svc.cluster.local","upstream_host":"10.244.0.3:8080","upstream_local_address":"10.244.0.1:40000","upstream_service_time":"11",` +
		`"upstream_transport_failure_reason":null,"user_agent":"curl/8","x_forwarded_for":"1.2.3.4"}` + "\n"
	if got := string(f.Append(nil, sample())); got != want {
		t.Errorf("have %s\nwant %s", got, want)
	}
}

// Every line is JSON, and says what was sent.
func TestJSONIsValid(t *testing.T) {
	f, err := ParseJSON(map[string]string{"q\"": "%REQ(:PATH)%", "mixed": "\"%REQ(NONE)%\\ %RESPONSE_CODE%", "empty": "", "cut": "%REQ(:PATH):1%"})
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/plain", "/\"quoted\"", `/back\slash`, "/\n\t\x00\x07\x0b\x1b\x7f", "/\xff\xfe", "/\u0085\u200b\U000e0001", "é"} {
		r := sample()
		r.Path = path
		b := f.Append(nil, r)
		var got map[string]any
		if err := json.Unmarshal(b, &got); err != nil {
			t.Errorf("%q: %v in %s", path, err, b)
			continue
		}
		if got["q\""] != strings.ToValidUTF8(path, "\ufffd") && got["q\""] != strings.ReplaceAll(strings.ReplaceAll(path, "\xff", "\ufffd"), "\xfe", "\ufffd") {
			t.Errorf("%q became %q", path, got["q\""])
		}
		if got["mixed"] != `"-\ 200` || got["empty"] != "" {
			t.Errorf("have %q and %q", got["mixed"], got["empty"])
		}
		if strings.Count(string(b), "\n") != 1 {
			t.Errorf("%q is more than one line: %q", path, b)
		}
	}
	none, err := ParseJSON(nil)
	if err != nil || string(none.Append(nil, sample())) != "{}\n" {
		t.Errorf("no fields: %q, %v", none.Append(nil, sample()), err)
	}
}

// In Envoy's order, so that "UF,URX" is found by who greps for it.
func TestFlags(t *testing.T) {
	for f, want := range map[Flags]string{
		0: "-", NoHealthyUpstream: "UH", UpstreamConnectFailure: "UF", UpstreamOverflow: "UO", NoRoute: "NR", UpstreamRequestTimeout: "UT", UpstreamConnTermination: "UC",
		UpstreamRetryLimit: "URX", DownstreamTermination: "DC", ExternalDenied: "UAEX", LocalReset: "LR", UpstreamRemoteReset: "UR", DownstreamProtocolError: "DPE",
		UpstreamProtocolError: "UPE", NoCluster: "NC", StreamIdleTimeout: "SI", DurationTimeout: "DT", OverloadShed: "OM",
		UpstreamRetryLimit | UpstreamConnectFailure: "UF,URX", UpstreamRetryLimit | UpstreamRequestTimeout: "UT,URX", UpstreamRetryLimit | UpstreamConnTermination: "UC,URX",
		DownstreamTermination | UpstreamRequestTimeout: "UT,DC",
		OverloadShed<<1 - 1:                            "UH,UT,LR,UR,UF,UC,UO,NR,UAEX,DC,URX,SI,DPE,DT,UPE,NC,OM",
	} {
		if got := f.String(); got != want {
			t.Errorf("%b: have %s, want %s", f, got, want)
		}
	}
}

type buffer struct {
	mu     sync.Mutex
	b      strings.Builder
	closed bool
}

func (b *buffer) Write(p []byte) (int, error) { b.mu.Lock(); defer b.mu.Unlock(); return b.b.Write(p) }
func (b *buffer) Close() error                { b.closed = true; return nil }

var _ io.WriteCloser = (*buffer)(nil)

// Nothing that was logged is lost by Close, and lines do not mix.
func TestLogger(t *testing.T) {
	out := &buffer{}
	l := NewLogger(out)
	f, err := ParseFormat("%REQ(:PATH)%")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 500 {
				l.Log(f, &Record{Path: "/line"})
			}
		})
	}
	wg.Wait()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if got := out.b.String(); got != strings.Repeat("/line\n", 4000) || !out.closed || l.Dropped() != 0 {
		t.Errorf("have %d bytes, closed %v, dropped %d", len(got), out.closed, l.Dropped())
	}
}

// Looking at eight bytes at once finds what looking at each finds.
func TestCleanFindsEveryByte(t *testing.T) {
	for n := 1; n <= 24; n++ {
		for at := range n {
			for c := range 256 {
				s := []byte(strings.Repeat("\xff", n))
				s[at] = byte(c)
				if got := clean(string(s)); got == escaped(byte(c)) {
					t.Fatalf("%q: clean is %v", s, got)
				}
				for i := range s {
					s[i] = ' '
				}
				s[at] = byte(c)
				if got := clean(string(s)); got == escaped(byte(c)) {
					t.Fatalf("%q: clean is %v", s, got)
				}
			}
		}
	}
}
