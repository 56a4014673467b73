package interop

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	pb "google.golang.org/grpc/interop/grpc_testing"
)

type unary struct {
	pb.UnimplementedTestServiceServer
}

func (unary) UnaryCall(_ context.Context, r *pb.SimpleRequest) (*pb.SimpleResponse, error) {
	return &pb.SimpleResponse{Payload: &pb.Payload{Body: make([]byte, r.ResponseSize)}}, nil
}

// Many calls at once on few connections all come back whole.
func TestManyCalls(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	pb.RegisterTestServiceServer(server, unary{})
	go server.Serve(l)
	defer server.Stop()
	pair := NewPair(t, l.Addr().String())
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var wg sync.WaitGroup
	for range 4 {
		conn, err := grpc.NewClient("passthrough:///"+pair.Outbound, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		client := pb.NewTestServiceClient(conn)
		for range 8 {
			wg.Go(func() {
				for i := range 500 {
					answer, err := client.UnaryCall(ctx, &pb.SimpleRequest{ResponseSize: 1024})
					if err != nil || len(answer.GetPayload().GetBody()) != 1024 {
						t.Errorf("call %d: %v", i, err)
						return
					}
				}
			})
		}
	}
	wg.Wait()
}
