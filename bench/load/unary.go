package load

import (
	"context"
	"fmt"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	testing "google.golang.org/grpc/interop/grpc_testing"
)

// UnaryServer answers grpc.testing.TestService/UnaryCall with as many bytes as
// the request asks for.
type UnaryServer struct {
	testing.UnimplementedTestServiceServer
	server *grpc.Server
}

// NewUnaryServer serves on address (cleartext, prior knowledge).
func NewUnaryServer(address string) (*UnaryServer, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, err
	}
	s := &UnaryServer{server: grpc.NewServer()}
	testing.RegisterTestServiceServer(s.server, s)
	go func() { _ = s.server.Serve(l) }() // ends with Close
	return s, nil
}

// UnaryCall implements TestService.
func (s *UnaryServer) UnaryCall(_ context.Context, r *testing.SimpleRequest) (*testing.SimpleResponse, error) {
	return &testing.SimpleResponse{Payload: &testing.Payload{Body: make([]byte, r.ResponseSize)}}, nil
}

// Close stops the server.
func (s *UnaryServer) Close() { s.server.Stop() }

// Unary calls address from workers at once over one connection each 8 workers,
// 1 KB answers, and returns the latencies.
func Unary(ctx context.Context, address string, workers int, d time.Duration) (*Histogram, error) {
	conns := make([]*grpc.ClientConn, (workers+7)/8)
	for i := range conns {
		c, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithAuthority("server-grpc"))
		if err != nil {
			return nil, err
		}
		defer c.Close()
		conns[i] = c
	}
	ctx, cancel := context.WithTimeout(ctx, d+10*time.Second)
	defer cancel()
	histograms := make([]Histogram, workers)
	start := time.Now()
	err := each(workers, func(i int) error {
		client := testing.NewTestServiceClient(conns[i/8])
		for time.Since(start) < d {
			sent := time.Now()
			answer, err := client.UnaryCall(ctx, &testing.SimpleRequest{ResponseSize: 1024})
			if err != nil {
				return err
			}
			if n := len(answer.GetPayload().GetBody()); n != 1024 {
				return fmt.Errorf("the answer has %d bytes", n)
			}
			histograms[i].Record(time.Since(sent))
		}
		return nil
	})
	all := &Histogram{}
	for i := range histograms {
		all.Add(&histograms[i])
	}
	return all, err
}
