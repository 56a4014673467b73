package proxy

import (
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/tulle-mesh/tulle/internal/authz"
	"github.com/tulle-mesh/tulle/internal/header"
	"github.com/tulle-mesh/tulle/internal/ir"
	"github.com/tulle-mesh/tulle/internal/telemetry"
)

// stampHeaders sets what a proxy tells the next hop about this one, and takes
// away what the previous hop had no right to say.
func (x *exchange) stampHeaders() {
	h := &x.req.Fields
	if h.Has(peerHeader) {
		intro := h.First(peerHeader)
		if d := x.d; !x.chain.outbound && d.peer != "" {
			if p := introduced(intro, d.peer, d.peerNamespace); p != nil {
				d.peerInfo.Store(p)
			}
		}
		h.Del(peerHeader)
	}
	if x.d.p.debugs && h.Has(debugHeader) {
		x.debug = h.First(debugHeader)
		h.Del(debugHeader)
	}
	if x.chain.HTTP.UseRemoteAddress {
		x.stampEdge()
	}
	switch proto, _ := h.Get("x-forwarded-proto"); proto { // repeated, it names no scheme (Envoy)
	case "":
		h.Set("x-forwarded-proto", x.scheme)
	case "http", "https": // the edge's word: between sidecars everything is TLS
		x.scheme = proto
	}
	if !h.Has("x-request-id") {
		h.Add("x-request-id", x.newID())
	}
	x.rec.RequestID = h.First("x-request-id")
	x.stampClientCert()
}

// stampEdge: at a gateway nothing the outside says about itself is believed
// beyond the trusted hops (Envoy's use_remote_address).
func (x *exchange) stampEdge() {
	h := &x.req.Fields
	h.DelPrefix("x-envoy-")
	if x.chain.HTTP.TrustedHops == 0 {
		h.Del("x-request-id")
		h.Del("x-forwarded-proto")
	}
	addr := x.d.remote.Addr().String()
	if before, ok := h.Get("x-forwarded-for"); ok && before != "" {
		addr = before + "," + addr
	}
	h.Set("x-forwarded-for", addr)
}

// stampClientCert applies forward_client_cert_details.
func (x *exchange) stampClientCert() {
	h := &x.req.Fields
	how := x.chain.HTTP.ForwardClientCert
	switch {
	case how == "alwaysForwardOnly":
	case x.d.xfcc == "" || how == "" || how == "sanitize":
		// Who shows no certificate has nothing to say about one: a plaintext
		// caller must not be able to invent a proof.
		h.Del("x-forwarded-client-cert")
	case how == "sanitizeSet":
		h.Set("x-forwarded-client-cert", x.d.xfcc)
	case how == "appendForward":
		v := x.d.xfcc
		if before, ok := h.Get("x-forwarded-client-cert"); ok {
			v = before + "," + v
		}
		h.Set("x-forwarded-client-cert", v)
	}
}

// remoteIP is the client's address for remoteIpBlocks: behind trusted hops it
// comes from x-forwarded-for, else it is the peer's.
func (x *exchange) remoteIP() netip.Addr {
	peer := x.d.remote.Addr()
	if x.chain.gateway && x.chain.HTTP.TrustedHops == 0 {
		return peer
	}
	xff, ok := x.req.Fields.Get("x-forwarded-for")
	if !ok {
		return peer
	}
	// At a gateway the peer itself was appended last and each trusted hop takes
	// one more step back.
	return authz.RemoteIP(peer, xff, x.chain.HTTP.TrustedHops)
}

// newID makes a random UUID (version 4) in the exchange's own memory.
func (x *exchange) newID() string {
	var b [16]byte
	hi, lo := rand.Uint64(), rand.Uint64()
	for i := range 8 {
		b[i], b[8+i] = byte(hi>>(8*i)), byte(lo>>(8*i))
	}
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	t := x.idText[:]
	hex.Encode(t[0:8], b[0:4])
	hex.Encode(t[9:13], b[4:6])
	hex.Encode(t[14:18], b[6:8])
	hex.Encode(t[19:23], b[8:10])
	hex.Encode(t[24:36], b[10:16])
	t[8], t[13], t[18], t[23] = '-', '-', '-', '-'
	return view(t)
}

// apply performs header operations: remove, set, add. Values with operators
// are formatted; one that comes to nothing is not sent.
func (x *exchange) apply(h *header.Map, ops *ir.HeaderOps) {
	for _, name := range ops.Remove {
		h.Del(name)
	}
	for i := range ops.Set {
		if v := x.value(&ops.Set[i]); v != "" || ops.Set[i].Value == "" {
			h.Set(ops.Set[i].Name, v)
		}
	}
	for i := range ops.Add {
		if v := x.value(&ops.Add[i]); v != "" || ops.Add[i].Value == "" {
			h.Add(ops.Add[i].Name, v)
		}
	}
}

// value is what an operation's value comes to for this request.
func (x *exchange) value(f *ir.Header) string {
	if strings.IndexByte(f.Value, '%') < 0 {
		return f.Value
	}
	format := x.rt.formats[f.Value]
	if format == nil {
		return f.Value // build has seen every operation: not reached
	}
	x.describe(&x.rec)
	return string(format.Append(nil, &x.rec))
}

// appendField adds to a list that one field carries, joined with ",".
func appendField(h *header.Map, name, value string) {
	if before, ok := h.Get(name); ok && before != "" {
		value = before + "," + value
	}
	h.Set(name, value)
}

// formats compiles the values with operators in a snapshot's routes.
func formats(tables []*ir.RouteTable) (map[string]*telemetry.Format, error) {
	out := map[string]*telemetry.Format{}
	var err error
	add := func(ops ...*ir.HeaderOps) {
		for _, o := range ops {
			for _, f := range slices.Concat(o.Set, o.Add) {
				if err == nil && strings.IndexByte(f.Value, '%') >= 0 && out[f.Value] == nil {
					if out[f.Value], err = telemetry.ParseValue(f.Value); err != nil {
						err = fmt.Errorf("header %s: %w", f.Name, err)
					}
				}
			}
		}
	}
	for _, t := range tables {
		for _, v := range t.VirtualHosts {
			for _, r := range v.Routes {
				add(&r.Request, &r.Response)
				if r.Forward != nil {
					for i := range r.Forward.Clusters {
						add(&r.Forward.Clusters[i].Request, &r.Forward.Clusters[i].Response)
					}
				}
			}
		}
	}
	return out, err
}

// smallInts are header values that need no allocation.
var smallInts = func() (s [64]string) {
	for i := range s {
		s[i] = strconv.Itoa(i)
	}
	return s
}()

func itoa(n int) string {
	if n >= 0 && n < len(smallInts) {
		return smallInts[n]
	}
	return strconv.Itoa(n)
}
