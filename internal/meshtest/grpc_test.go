package meshtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// rpcService is web under a port for gRPC.
const rpcService = `apiVersion: v1
kind: Service
metadata: {name: rpc, namespace: shop}
spec:
  selector: {app: web}
  ports: [{name: %s, port: 9000, targetPort: 8080}]
`

// overGRPCWays runs body with a grpc-go client of worker-v1-0, against web's
// grpc-go server, as bytes inside mutual TLS and (ports named grpc) as calls.
func overGRPCWays(t *testing.T, body func(t *testing.T, w *world, cc *grpc.ClientConn, web *app)) {
	for _, port := range grpcPorts {
		t.Run(port, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := shopWorld(t, fmt.Sprintf(rpcService, port))
				defer w.close()
				c := w.pods["worker-v1-0"].client
				cc, err := c.grpc.conn(c, "rpc:9000", nil)
				if err != nil {
					t.Fatal(err)
				}
				body(t, w, cc, w.pods["web-0"].app)
			})
		})
	}
}

var grpcPorts = []string{"tcp-rpc", "grpc"}

func TestGRPCStreams(t *testing.T) {
	overGRPCWays(t, func(t *testing.T, _ *world, cc *grpc.ClientConn, web *app) {
		// Echoes until the caller half-closes, then says how much it was.
		web.stream = func(_ string, s grpc.ServerStream) error {
			s.SetHeader(metadata.Pairs("x-first", "word"))
			total := 0
			for {
				var b []byte
				err := s.RecvMsg(&b)
				if errors.Is(err, io.EOF) {
					s.SetTrailer(metadata.Pairs("x-total", fmt.Sprint(total)))
					return nil
				}
				if err != nil {
					return err
				}
				total += len(b)
				if err := s.SendMsg(&b); err != nil {
					return err
				}
			}
		}
		s, err := cc.NewStream(t.Context(), &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, "/shop.Chat/Talk")
		if err != nil {
			t.Fatal(err)
		}
		total := 0
		for _, n := range []int{0, 1, 100, 16 << 10, 70_000, 1 << 20} {
			pause(t.Context(), time.Minute) // a stream may be silent
			sent := bytes.Repeat([]byte("m"), n)
			if err := s.SendMsg(&sent); err != nil {
				t.Fatalf("%d bytes: %v", n, err)
			}
			var got []byte
			if err := s.RecvMsg(&got); err != nil || !bytes.Equal(got, sent) {
				t.Fatalf("%d bytes: %d came back, %v", n, len(got), err)
			}
			total += n
		}
		if h, err := s.Header(); err != nil || h.Get("x-first")[0] != "word" {
			t.Errorf("header %v, %v", h, err)
		}
		s.CloseSend()
		var last []byte
		if err := s.RecvMsg(&last); !errors.Is(err, io.EOF) {
			t.Errorf("end: %v", err)
		}
		if v := s.Trailer().Get("x-total"); len(v) != 1 || v[0] != fmt.Sprint(total) {
			t.Errorf("trailer %v, want %d", v, total)
		}
	})
}

func TestGRPCStatusAndDeadline(t *testing.T) {
	overGRPCWays(t, func(t *testing.T, _ *world, cc *grpc.ClientConn, web *app) {
		var deadline time.Duration
		var gone error
		web.stream = func(method string, s grpc.ServerStream) error {
			var b []byte
			if err := s.RecvMsg(&b); err != nil {
				return err
			}
			if d, ok := s.Context().Deadline(); ok {
				deadline = time.Until(d)
			}
			if method == "/shop.Cart/Wait" {
				<-s.Context().Done()
				gone = s.Context().Err()
				return status.FromContextError(gone).Err()
			}
			return status.Error(codes.ResourceExhausted, "no more apples: 100% gone")
		}
		call := func(ctx context.Context, method string) *status.Status {
			in, out := []byte("x"), []byte(nil)
			return status.Convert(cc.Invoke(ctx, method, &in, &out))
		}
		if s := call(t.Context(), "/shop.Cart/Add"); s.Code() != codes.ResourceExhausted || s.Message() != "no more apples: 100% gone" {
			t.Errorf("status %v", s)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		start := time.Now()
		if s := call(ctx, "/shop.Cart/Wait"); s.Code() != codes.DeadlineExceeded || time.Since(start) != 3*time.Second {
			t.Errorf("%v after %v", s, time.Since(start))
		}
		synctest.Wait()
		if deadline <= 2*time.Second || deadline > 3*time.Second || gone == nil {
			t.Errorf("the server had a deadline of %v and saw %v", deadline, gone)
		}
		// A caller that gives up is gone for the server too.
		gone = nil
		ctx, stop := context.WithCancel(t.Context())
		go func() { pause(t.Context(), time.Second); stop() }()
		if s := call(ctx, "/shop.Cart/Wait"); s.Code() != codes.Canceled {
			t.Errorf("%v", s)
		}
		synctest.Wait()
		if !errors.Is(gone, context.Canceled) {
			t.Errorf("the server saw %v", gone)
		}
	})
}
