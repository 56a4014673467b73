package opa

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"strings"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	auth "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	typepb "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"github.com/fsnotify/fsnotify"
	"github.com/open-policy-agent/opa/v1/ast"
	oparego "github.com/open-policy-agent/opa/v1/rego"
	"golang.org/x/sync/errgroup"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/tulle-mesh/tulle/internal/authz"
	"github.com/tulle-mesh/tulle/internal/ir"
	"github.com/tulle-mesh/tulle/internal/rego"
)

// Options of Run.
type Options struct {
	Paths       []string // policy files and folders, watched
	Addr        string   // REST, default :8181
	GRPCAddr    string   // ext_authz, default :9191
	Path        string   // decision, default envoy/authz/allow
	Console     bool     // write the decision log (decision_logs.console), to DecisionLog
	DecisionLog io.Writer
	Log         *slog.Logger
}

// Run serves until ctx ends.
func Run(ctx context.Context, o Options) error {
	e := NewEngine(o.Path)
	if err := e.Load(o.Paths); err != nil {
		return err
	}
	for _, w := range e.Warnings() {
		o.Log.Warn(w)
	}
	s := &extAuthz{engine: e}
	if o.Console && o.DecisionLog != nil {
		s.log = rego.NewDecisionLog(o.DecisionLog)
	}
	rest, err := net.Listen("tcp", o.Addr)
	if err != nil {
		return err
	}
	check, err := net.Listen("tcp", o.GRPCAddr)
	if err != nil {
		rest.Close()
		return err
	}
	gs := grpc.NewServer(grpc.MaxRecvMsgSize(4 << 20))
	auth.RegisterAuthorizationServer(gs, s)
	grpc_health_v1.RegisterHealthServer(gs, health.NewServer())
	hs := &http.Server{Handler: e.Handler(), ReadHeaderTimeout: 10 * time.Second, IdleTimeout: time.Minute}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return gs.Serve(check) })
	g.Go(func() error {
		if err := hs.Serve(rest); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
	g.Go(func() error { return e.watch(ctx, o) })
	g.Go(func() error {
		<-ctx.Done()
		gs.GracefulStop()
		return hs.Close()
	})
	o.Log.Info("OPA serves", "rest", o.Addr, "ext_authz", o.GRPCAddr, "decision", rego.Query(e.path))
	return g.Wait()
}

// watch loads policies again when their files change. A bad one is logged with
// its position, and the last good one goes on deciding.
func (e *Engine) watch(ctx context.Context, o Options) error {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return err
	}
	defer w.Close()
	for _, p := range o.Paths {
		for _, dir := range []string{p, filepath.Dir(p)} {
			_ = w.Add(dir) // a file's folder sees its replacement
		}
	}
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case ev := <-w.Events:
			if ev.Op != fsnotify.Chmod {
				timer.Reset(50 * time.Millisecond)
			}
		case err := <-w.Errors:
			o.Log.Warn("watching policies", "err", err)
		case <-timer.C:
			if err := e.Load(o.Paths); err != nil {
				o.Log.Error("policy refused, the last good one stays in force", "err", err)
				continue
			}
			o.Log.Info("policy loaded")
		}
	}
}

// extAuthz serves envoy.service.auth.v3.
type extAuthz struct {
	auth.UnimplementedAuthorizationServer
	engine *Engine
	log    *rego.DecisionLog // nil: none
}

// Check decides one request of a foreign proxy.
func (s *extAuthz) Check(ctx context.Context, r *auth.CheckRequest) (*auth.CheckResponse, error) {
	v := s.engine.check(ctx, s.log, external(r))
	if v.Err != nil {
		// An error, not a denial: the proxy's own failure mode decides.
		return nil, fmt.Errorf("decision: %w", v.Err)
	}
	out := &auth.CheckResponse{Status: &status.Status{Code: int32(codes.OK)}}
	if v.Metadata != nil {
		m, err := structpb.NewStruct(plain(v.Metadata).(map[string]any))
		if err != nil {
			return nil, fmt.Errorf("decision: dynamic_metadata: %w", err)
		}
		out.DynamicMetadata = m
	}
	if v.Allow {
		out.HttpResponse = &auth.CheckResponse_OkResponse{OkResponse: &auth.OkHttpResponse{Headers: options(v.Headers), HeadersToRemove: v.RemoveHeaders, ResponseHeadersToAdd: responseOptions(v.ResponseHeaders),
			QueryParametersToSet: parameters(v.SetQuery), QueryParametersToRemove: v.RemoveQuery}}
		return out, nil
	}
	out.Status.Code = int32(codes.PermissionDenied)
	if v.Status == 0 {
		v.Status = http.StatusForbidden
	}
	out.HttpResponse = &auth.CheckResponse_DeniedResponse{DeniedResponse: &auth.DeniedHttpResponse{Status: &typepb.HttpStatus{Code: typepb.StatusCode(v.Status)}, Body: v.Body, Headers: options(v.Headers)}}
	return out, nil
}

func options(list []ir.Header) []*core.HeaderValueOption {
	var out []*core.HeaderValueOption
	for _, h := range list {
		out = append(out, &core.HeaderValueOption{Header: &core.HeaderValue{Key: h.Name, Value: h.Value}})
	}
	return out
}

func responseOptions(list []authz.ResponseHeader) []*core.HeaderValueOption {
	var out []*core.HeaderValueOption
	for _, h := range list {
		out = append(out, &core.HeaderValueOption{Header: &core.HeaderValue{Key: h.Name, Value: h.Value}})
	}
	return out
}

func parameters(list []ir.Header) []*core.QueryParameter {
	var out []*core.QueryParameter
	for _, h := range list {
		out = append(out, &core.QueryParameter{Key: h.Name, Value: h.Value})
	}
	return out
}

// plain makes of a decision's numbers what protobuf's Struct takes.
func plain(v any) any {
	switch v := v.(type) {
	case json.Number:
		f, _ := v.Float64() // Rego's numbers are JSON's
		return f
	case map[string]any:
		out := make(map[string]any, len(v))
		for k, one := range v {
			out[k] = plain(one)
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i, one := range v {
			out[i] = plain(one)
		}
		return out
	}
	return v
}

// external reads a CheckRequest.
func external(r *auth.CheckRequest) *authz.External {
	a := r.GetAttributes()
	h := a.GetRequest().GetHttp()
	e := &authz.External{
		SourceAddress: addr(a.GetSource()), DestinationAddress: addr(a.GetDestination()), SourcePrincipal: a.GetSource().GetPrincipal(), DestinationPrincipal: a.GetDestination().GetPrincipal(),
		SNI: a.GetTlsSession().GetSni(), ContextExtensions: a.GetContextExtensions(), Time: a.GetRequest().GetTime().AsTime(), HTTP: h != nil,
	}
	if h == nil {
		return e
	}
	e.ID, e.Method, e.Path, e.Host, e.Scheme, e.Protocol = h.Id, h.Method, h.Path, h.Host, h.Scheme, h.Protocol
	own := map[string]bool{":authority": true, ":method": true, ":path": true, ":scheme": true, "x-envoy-auth-partial-body": true}
	e.Headers = func(yield func(name, value string) bool) {
		for k, v := range h.Headers {
			if !own[k] && !yield(k, v) {
				return
			}
		}
	}
	e.Body = []byte(h.Body)
	if len(h.RawBody) > 0 {
		e.Body, e.RawBody = h.RawBody, true
	}
	e.BodyTruncated = h.Headers["x-envoy-auth-partial-body"] == "true"
	return e
}

func addr(p *auth.AttributeContext_Peer) netip.AddrPort {
	s := p.GetAddress().GetSocketAddress()
	a, err := netip.ParseAddr(s.GetAddress())
	if err != nil {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(a, uint16(s.GetPortValue()))
}

const maxRESTBody = 8 << 20

// Handler is the part of OPA's REST API that asks: /v1/data, /v1/policies,
// /health. Policies come from files; requests that would change them are
// refused.
func (e *Engine) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /health", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "{}") })
	mux.HandleFunc("POST /v1/data/{path...}", e.data)
	mux.HandleFunc("GET /v1/data/{path...}", e.data)
	mux.HandleFunc("POST /v1/data", e.data)
	mux.HandleFunc("GET /v1/data", e.data)
	mux.HandleFunc("GET /v1/policies", func(w http.ResponseWriter, _ *http.Request) {
		list := []map[string]string{}
		for name, text := range e.current.Load().Modules() {
			list = append(list, map[string]string{"id": name, "raw": text})
		}
		reply(w, http.StatusOK, map[string]any{"result": list})
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodPost {
			apiError(w, http.StatusMethodNotAllowed, "invalid_operation", "policies and data come from files here: edit them, and they are loaded")
			return
		}
		apiError(w, http.StatusNotFound, "resource_not_found", "served are /v1/data/…, /v1/policies and /health")
	})
	return mux
}

// data evaluates data.<path>, as OPA's data API does.
func (e *Engine) data(w http.ResponseWriter, r *http.Request) {
	var body struct {
		Input any `json:"input"`
	}
	if r.Method == http.MethodPost {
		dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxRESTBody))
		dec.UseNumber()
		if err := dec.Decode(&body); err != nil && !errors.Is(err, io.EOF) {
			apiError(w, http.StatusBadRequest, "invalid_parameter", "body: "+err.Error())
			return
		}
	}
	ref := ast.DefaultRootRef
	for _, part := range strings.Split(strings.Trim(r.PathValue("path"), "/"), "/") {
		if part != "" {
			ref = ref.Append(ast.StringTerm(part))
		}
	}
	p := e.current.Load()
	opts := []func(*oparego.Rego){oparego.ParsedQuery(ast.NewBody(ast.NewExpr(ast.NewTerm(ref)))), oparego.Compiler(p.Compiler()), oparego.Store(p.Store())}
	if body.Input != nil {
		opts = append(opts, oparego.Input(body.Input))
	}
	rs, err := oparego.New(opts...).Eval(r.Context())
	if err != nil {
		apiError(w, http.StatusInternalServerError, "internal_error", err.Error())
		return
	}
	out := map[string]any{}
	if len(rs) > 0 && len(rs[0].Expressions) > 0 {
		out["result"] = rs[0].Expressions[0].Value
	}
	reply(w, http.StatusOK, out)
}

func reply(w http.ResponseWriter, code int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(v) // the caller may have gone
}

func apiError(w http.ResponseWriter, code int, kind, message string) {
	reply(w, code, map[string]string{"code": kind, "message": message})
}
