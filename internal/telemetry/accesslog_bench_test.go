package telemetry

import (
	"testing"
	"time"
)

func BenchmarkAccessLog(b *testing.B) {
	f, err := ParseFormat("")
	if err != nil {
		b.Fatal(err)
	}
	r := &Record{Start: time.Now(), Protocol: HTTP11, Method: "GET", Path: "/api/jobs?limit=3", Authority: "worker:8000", Status: 200, Details: "via_upstream",
		BytesSent: 1024, Duration: 3 * time.Millisecond, HasUpstreamTime: true, UpstreamTime: 2 * time.Millisecond, RequestID: "bfa6ffa1-f49f-45da-945e-bb934140e383",
		UpstreamHost: "10.244.0.11:8000", Cluster: "outbound|8000||worker.researchflow.svc.cluster.local", UpstreamLocal: "10.244.0.5:44582",
		DownstreamLocal: "10.96.80.219:8000", DownstreamRemote: "10.244.0.5:53510", Route: "default"}
	buf := make([]byte, 0, 1024)
	b.ReportAllocs()
	for b.Loop() {
		buf = f.Append(buf[:0], r)
	}
}
