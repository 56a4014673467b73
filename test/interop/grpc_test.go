package interop

import (
	"context"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// cases are grpc-go's interoperability cases that need neither Google's
// credentials nor a load balancer or load reports configured in the client.
var cases = []string{
	"empty_unary", "large_unary", "client_streaming", "server_streaming", "ping_pong", "empty_stream",
	"timeout_on_sleeping_server", "cancel_after_begin", "cancel_after_first_response",
	"status_code_and_message", "special_status_message", "custom_metadata", "unimplemented_method", "unimplemented_service",
	"rpc_soak", "channel_soak",
}

// TestGRPC runs grpc-go's own client program against its own server program,
// through the pair.
func TestGRPC(t *testing.T) {
	dir := t.TempDir()
	for _, program := range []string{"client", "server"} {
		build(t, filepath.Join(dir, program), "google.golang.org/grpc/interop/"+program)
	}
	port := freePort(t)
	server := exec.Command(filepath.Join(dir, "server"), "--use_tls=false", "--port="+port)
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Process.Kill(); server.Wait() })
	backend := net.JoinHostPort("127.0.0.1", port)
	awaitPort(t, backend)
	pair := NewPair(t, backend)
	_, outbound, _ := net.SplitHostPort(pair.Outbound)
	for _, name := range cases {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			out, err := exec.CommandContext(ctx, filepath.Join(dir, "client"), "--use_tls=false", "--server_host=127.0.0.1",
				"--server_port="+outbound, "--test_case="+name, "--soak_iterations=50").CombinedOutput()
			if err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}

func build(t testing.TB, into, pkg string) {
	t.Helper()
	if out, err := exec.Command("go", "build", "-o", into, pkg).CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v\n%s", pkg, err, out)
	}
}

// freePort finds a port that was free a moment ago.
func freePort(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return fmt.Sprint(l.Addr().(*net.TCPAddr).Port)
}

// awaitPort waits until something listens.
func awaitPort(t testing.TB, address string) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		c, err := net.Dial("tcp", address)
		if err == nil {
			c.Close()
			return
		}
		if time.Now().After(deadline) || !strings.Contains(err.Error(), "refused") {
			t.Fatal(err)
		}
		<-tick.C
	}
}
