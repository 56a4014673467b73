package xds

import (
	"errors"
	"io"
	"strconv"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"
)

// request is what both forms of ADS ask, on common ground.
type request struct {
	typeURL                string
	nonce                  string
	nack                   *status.Status
	subscribe, unsubscribe []string
	all                    bool              // state of the world: subscribe is the whole list
	initial                map[string]string // delta: versions the peer kept from an earlier stream
}

// sender sends one response in the stream's form.
type sender func(typeURL string, r *Resources, sub *subscription, changed []*Resource, removed []string, nonce string) error

// DeltaAggregatedResources implements delta ADS.
func (s *Server) DeltaAggregatedResources(stream discovery.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	first, err := stream.Recv()
	if err != nil {
		return end(err)
	}
	c, err := s.admit(stream.Context(), first.Node)
	if err != nil {
		return err
	}
	defer s.leave(c)
	convert := func(m *discovery.DeltaDiscoveryRequest) *request {
		return &request{typeURL: m.TypeUrl, nonce: m.ResponseNonce, nack: m.ErrorDetail, subscribe: m.ResourceNamesSubscribe, unsubscribe: m.ResourceNamesUnsubscribe, initial: m.InitialResourceVersions}
	}
	send := func(typeURL string, r *Resources, _ *subscription, changed []*Resource, removed []string, nonce string) error {
		m := &discovery.DeltaDiscoveryResponse{TypeUrl: typeURL, SystemVersionInfo: r.Version, Nonce: nonce, RemovedResources: removed}
		for _, res := range changed {
			m.Resources = append(m.Resources, &discovery.Resource{Name: res.Name, Version: res.Version, Resource: res.Body})
		}
		return stream.Send(m)
	}
	recv := func() (*request, error) {
		m, err := stream.Recv()
		if err != nil {
			return nil, err
		}
		return convert(m), nil
	}
	return s.serve(stream.Context().Done(), c, convert(first), recv, send)
}

// StreamAggregatedResources implements state-of-the-world ADS.
func (s *Server) StreamAggregatedResources(stream discovery.AggregatedDiscoveryService_StreamAggregatedResourcesServer) error {
	first, err := stream.Recv()
	if err != nil {
		return end(err)
	}
	c, err := s.admit(stream.Context(), first.Node)
	if err != nil {
		return err
	}
	defer s.leave(c)
	convert := func(m *discovery.DiscoveryRequest) *request {
		return &request{typeURL: m.TypeUrl, nonce: m.ResponseNonce, nack: m.ErrorDetail, subscribe: m.ResourceNames, all: true}
	}
	send := func(typeURL string, r *Resources, sub *subscription, _ []*Resource, _ []string, nonce string) error {
		m := &discovery.DiscoveryResponse{TypeUrl: typeURL, VersionInfo: r.Version, Nonce: nonce}
		for _, name := range r.names(typeURL) {
			if sub.wanted(name) {
				m.Resources = append(m.Resources, (*anypb.Any)(r.ByType[typeURL][name].Body))
			}
		}
		return stream.Send(m)
	}
	recv := func() (*request, error) {
		m, err := stream.Recv()
		if err != nil {
			return nil, err
		}
		return convert(m), nil
	}
	return s.serve(stream.Context().Done(), c, convert(first), recv, send)
}

func end(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// serve is one stream's loop. It alone touches the subscriptions; a second
// goroutine only receives, and ends with the stream.
func (s *Server) serve(done <-chan struct{}, c *Conn, first *request, recv func() (*request, error), send sender) error {
	requests := make(chan *request)
	failed := make(chan error, 1)
	go func() {
		for {
			m, err := recv()
			if err != nil {
				failed <- end(err)
				return
			}
			select {
			case requests <- m:
			case <-done:
				return
			}
		}
	}()
	st := &streamState{server: s, conn: c, subs: map[string]*subscription{}, send: send}
	if err := st.take(first); err != nil {
		return err
	}
	check := time.NewTicker(s.opts.StuckAfter / 4)
	defer check.Stop()
	for {
		if err := st.push(); err != nil {
			return err
		}
		select {
		case <-done:
			return nil
		case err := <-failed:
			return err
		case m := <-requests:
			if err := st.take(m); err != nil {
				return err
			}
		case <-c.wake:
		case now := <-check.C:
			if st.isStuck(now) {
				s.stuck.Add(1)
				s.opts.Log.Warn("stream closed: a push was not acknowledged", "proxy", c.node.Name)
				return grpcstatus.Error(codes.DeadlineExceeded, "a push was not acknowledged in time")
			}
		}
	}
}

type streamState struct {
	server *Server
	conn   *Conn
	subs   map[string]*subscription
	send   sender
	nonces int
}

// take applies one request: acknowledgement and changes of subscription.
func (st *streamState) take(m *request) error {
	known := false
	for _, t := range Types {
		known = known || t == m.typeURL
	}
	if !known {
		return grpcstatus.Errorf(codes.InvalidArgument, "type %q is not served", m.typeURL)
	}
	sub := st.subs[m.typeURL]
	if sub == nil {
		sub = newSubscription()
		sub.wildcard = len(m.subscribe) == 0
		for name, version := range m.initial {
			sub.sent[name] = version
		}
		st.subs[m.typeURL] = sub
	}
	switch {
	case m.nonce == "":
	case m.nonce != sub.nonce:
		if m.all {
			return nil // an answer to an older push: the newer one decides
		}
	default:
		st.acknowledge(m, sub)
	}
	if m.all {
		if len(m.subscribe) > 0 {
			clear(sub.names)
			sub.wildcard = false
		}
	}
	for _, n := range m.unsubscribe {
		if n == "*" {
			sub.wildcard = false
		}
		delete(sub.names, n)
		delete(sub.sent, n)
	}
	for _, n := range m.subscribe {
		if n == "*" {
			sub.wildcard = true
			continue
		}
		if len(sub.names) >= maxSubscriptions {
			return grpcstatus.Errorf(codes.ResourceExhausted, "more than %d subscriptions", maxSubscriptions)
		}
		if !m.all && m.nonce == "" {
			delete(sub.sent, n) // asking again means: send again
		}
		sub.names[n] = true
	}
	return nil
}

func (st *streamState) acknowledge(m *request, sub *subscription) {
	version := sub.version
	sub.nonce = ""
	st.conn.update(m.typeURL, func(t *TypeStatus) {
		if m.nack != nil {
			t.Nack = m.nack.Message
			return
		}
		t.Acked, t.Nack = version, ""
	})
	if m.nack != nil {
		st.server.opts.Log.Warn("configuration refused", "proxy", st.conn.node.Name, "type", m.typeURL, "version", version, "why", m.nack.Message)
	}
}

// push sends every type that has changed and is not waiting for an
// acknowledgement.
func (st *streamState) push() error {
	r := st.conn.latest.Load()
	if r == nil {
		return nil
	}
	settled := true
	for _, t := range Types {
		sub := st.subs[t]
		if sub == nil {
			continue
		}
		if sub.nonce != "" {
			settled = false
			continue
		}
		changed, removed := sub.diff(r, t)
		if len(changed)+len(removed) == 0 && sub.answered {
			continue
		}
		settled = false
		st.nonces++
		nonce := strconv.Itoa(st.nonces)
		if err := st.send(t, r, sub, changed, removed, nonce); err != nil {
			return err
		}
		for _, res := range changed {
			sub.sent[res.Name] = res.Version
		}
		for _, name := range removed {
			delete(sub.sent, name)
		}
		sub.answered, sub.nonce, sub.since, sub.version = true, nonce, time.Now(), r.Version
		st.conn.update(t, func(ts *TypeStatus) { ts.Sent = r.Version })
	}
	if settled {
		st.conn.settle(r.Version)
	}
	return nil
}

func (st *streamState) isStuck(now time.Time) bool {
	for _, sub := range st.subs {
		if sub.nonce != "" && now.Sub(sub.since) > st.server.opts.StuckAfter {
			return true
		}
	}
	return false
}
