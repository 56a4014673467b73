package workloadapi

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/spiffe/go-spiffe/v2/bundle/jwtbundle"
	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/tulle-mesh/tulle/internal/ca"
	"github.com/tulle-mesh/tulle/internal/identity"
)

var (
	worker      = identity.ID{TrustDomain: "cluster.local", Namespace: "shop", ServiceAccount: "worker"}
	trustDomain = spiffeid.RequireTrustDomainFromString("cluster.local")
)

// issuer is a control plane that may come and go, with keys that tests may
// replace, for callers that have proved that they are worker.
type issuer struct {
	t      *testing.T
	path   string
	conn   *grpc.ClientConn
	server *grpc.Server
	ended  chan struct{}
	keys   Keys
}

func newIssuer(t *testing.T) *issuer {
	t.Helper()
	keys, err := ca.NewJWTKeys()
	if err != nil {
		t.Fatal(err)
	}
	i := &issuer{t: t, path: filepath.Join(t.TempDir(), "control"), keys: keys}
	if i.conn, err = grpc.NewClient("unix:"+i.path, grpc.WithTransportCredentials(insecure.NewCredentials())); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		i.conn.Close()
		i.stop()
	})
	i.start(true)
	return i
}

// start serves; knows: JWT-SVIDs.
func (i *issuer) start(knows bool) {
	i.t.Helper()
	l, err := net.Listen("unix", i.path)
	if err != nil {
		i.t.Fatal(err)
	}
	i.server = grpc.NewServer()
	if knows {
		RegisterIssuer(i.server, "cluster.local", i.keys, func(context.Context) (identity.ID, error) { return worker, nil })
	}
	i.ended = make(chan struct{})
	go func() {
		defer close(i.ended)
		_ = i.server.Serve(l) // ends with stop
	}()
}

// stop returns when the socket is gone.
func (i *issuer) stop() {
	i.server.Stop()
	<-i.ended
}

// testKeys sign what tests want.
type testKeys struct {
	mu    sync.Mutex
	key   *ecdsa.PrivateKey
	id    string
	until time.Duration // how long a bundle lives
	made  int           // bundles
}

func newTestKeys(t *testing.T, id string) *testKeys {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &testKeys{key: key, id: id, until: time.Hour}
}

func (k *testKeys) Sign(id identity.ID, audience []string) (string, error) {
	return k.sign(jwt.Claims{Subject: id.String(), Audience: audience, Expiry: jwt.NewNumericDate(time.Now().Add(time.Minute))})
}

func (k *testKeys) sign(claims any) (string, error) {
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: k.key}, (&jose.SignerOptions{}).WithHeader("kid", k.id))
	if err != nil {
		return "", err
	}
	return jwt.Signed(s).Claims(claims).Serialize()
}

// Bundle has one key more each time.
func (k *testKeys) Bundle() ([]byte, time.Time, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.made++
	var set jose.JSONWebKeySet
	for n := range k.made {
		set.Keys = append(set.Keys, jose.JSONWebKey{Key: k.key.Public(), KeyID: k.id + strings.Repeat("+", n)})
	}
	b, err := json.Marshal(set)
	return b, time.Now().Add(k.until), err
}

// go-spiffe gets a JWT-SVID for an audience, verifies it with the bundle by
// itself and has it verified.
func TestGoSPIFFEJWT(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	p := open(t, Options{})
	at := workloadapi.WithAddr(p.addr)
	source, err := workloadapi.NewJWTSource(ctx, workloadapi.WithClientOptions(at))
	if err != nil {
		t.Fatal(err)
	}
	defer source.Close()
	svid, err := source.FetchJWTSVID(ctx, jwtsvid.Params{Audience: "db", ExtraAudiences: []string{"cache"}})
	if err != nil {
		t.Fatal(err)
	}
	if svid.ID.String() != worker.String() || strings.Join(svid.Audience, " ") != "db cache" || time.Until(svid.Expiry) > ca.JWTLifetime || time.Until(svid.Expiry) < ca.JWTLifetime-time.Minute {
		t.Errorf("JWT-SVID of %s for %v until %s", svid.ID, svid.Audience, svid.Expiry)
	}
	for _, audience := range []string{"db", "cache"} {
		if _, err := jwtsvid.ParseAndValidate(svid.Marshal(), source, []string{audience}); err != nil {
			t.Errorf("for %s: %v", audience, err)
		}
		if got, err := workloadapi.ValidateJWTSVID(ctx, svid.Marshal(), audience, at); err != nil || got.ID != svid.ID {
			t.Errorf("for %s: %v %v", audience, got, err)
		}
	}
	if _, err := jwtsvid.ParseAndValidate(svid.Marshal(), source, []string{"web"}); err == nil {
		t.Error("it is valid for an audience that was not asked for")
	}
	if bundles, err := workloadapi.FetchJWTBundles(ctx, at); err != nil || bundles.Len() != 1 || !bundles.Has(trustDomain) {
		t.Errorf("bundles %v %v", bundles, err)
	}
	own, err := workloadapi.FetchJWTSVID(ctx, jwtsvid.Params{Audience: "db", ExtraAudiences: []string{"cache"}, Subject: svid.ID}, at)
	if err != nil || own.ID != svid.ID {
		t.Errorf("by its own name: %v", err)
	}
	again, err := source.FetchJWTSVID(ctx, jwtsvid.Params{Audience: "db", ExtraAudiences: []string{"cache"}})
	if err != nil || again.Marshal() != svid.Marshal() {
		t.Errorf("another token at once: %v", err)
	}
	other, err := source.FetchJWTSVID(ctx, jwtsvid.Params{Audience: "db cache"})
	if err != nil || other.Marshal() == svid.Marshal() {
		t.Errorf("the token of other audiences: %v", err)
	}
	if p.wanted.Load() != 0 {
		t.Error("a certificate was made for who wants none")
	}
}

func TestJWTRequestsThatAreRefused(t *testing.T) {
	p := open(t, Options{})
	conn, err := grpc.NewClient("unix:"+strings.TrimPrefix(p.addr, "unix://"), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithUnaryInterceptor(func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			return invoke(metadata.AppendToOutgoingContext(ctx, securityHeader, "true"), method, req, reply, cc, opts...)
		}))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	client := workload.NewSpiffeWorkloadAPIClient(conn)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for _, tc := range []struct {
		name string
		r    *workload.JWTSVIDRequest
		code codes.Code
	}{
		{"no audience", &workload.JWTSVIDRequest{}, codes.InvalidArgument},
		{"an empty audience", &workload.JWTSVIDRequest{Audience: []string{"db", ""}}, codes.InvalidArgument},
		{"many audiences", &workload.JWTSVIDRequest{Audience: strings.Split(strings.Repeat("a,", maxAudiences)+"a", ",")}, codes.InvalidArgument},
		{"a long audience", &workload.JWTSVIDRequest{Audience: []string{strings.Repeat("a", maxAudienceText+1)}}, codes.InvalidArgument},
		{"another identity", &workload.JWTSVIDRequest{Audience: []string{"db"}, SpiffeId: "spiffe://cluster.local/ns/shop/sa/admin"}, codes.PermissionDenied},
	} {
		if _, err := client.FetchJWTSVID(ctx, tc.r); status.Code(err) != tc.code {
			t.Errorf("%s: %v", tc.name, err)
		}
	}
	for _, r := range []*workload.ValidateJWTSVIDRequest{{Svid: "x.y.z"}, {Audience: "db"}} {
		if _, err := client.ValidateJWTSVID(ctx, r); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%v: %v", r, err)
		}
	}
}

// What is wrong in one respect is not valid.
func TestJWTSVIDsThatAreRefused(t *testing.T) {
	keys, stranger := newTestKeys(t, "k"), newTestKeys(t, "k")
	p := open(t, Options{})
	p.issuer.stop()
	p.issuer.keys = keys
	p.issuer.start(true)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	in := func(d time.Duration) *jwt.NumericDate { return jwt.NewNumericDate(time.Now().Add(d)) }
	unsigned := "eyJhbGciOiJub25lIiwia2lkIjoiayJ9.eyJzdWIiOiJzcGlmZmU6Ly9jbHVzdGVyLmxvY2FsL25zL3Nob3Avc2Evd29ya2VyIiwiYXVkIjoiZGIiLCJleHAiOjQ4NzYwMDAwMDB9."
	for _, tc := range []struct {
		name   string
		by     *testKeys
		claims jwt.Claims
		good   bool
	}{
		{"good", keys, jwt.Claims{Subject: worker.String(), Audience: jwt.Audience{"db"}, Expiry: in(time.Minute)}, true},
		{"ended", keys, jwt.Claims{Subject: worker.String(), Audience: jwt.Audience{"db"}, Expiry: in(-time.Minute)}, false},
		{"without end", keys, jwt.Claims{Subject: worker.String(), Audience: jwt.Audience{"db"}}, false},
		{"for somebody else", keys, jwt.Claims{Subject: worker.String(), Audience: jwt.Audience{"web"}, Expiry: in(time.Minute)}, false},
		{"for nobody", keys, jwt.Claims{Subject: worker.String(), Expiry: in(time.Minute)}, false},
		{"of another trust domain", keys, jwt.Claims{Subject: "spiffe://elsewhere/ns/shop/sa/worker", Audience: jwt.Audience{"db"}, Expiry: in(time.Minute)}, false},
		{"of no SPIFFE ID", keys, jwt.Claims{Subject: "worker", Audience: jwt.Audience{"db"}, Expiry: in(time.Minute)}, false},
		{"of another key with the same ID", stranger, jwt.Claims{Subject: worker.String(), Audience: jwt.Audience{"db"}, Expiry: in(time.Minute)}, false},
		{"unsigned", nil, jwt.Claims{}, false},
	} {
		token := unsigned
		if tc.by != nil {
			var err error
			if token, err = tc.by.sign(tc.claims); err != nil {
				t.Fatal(err)
			}
		}
		_, err := workloadapi.ValidateJWTSVID(ctx, token, "db", workloadapi.WithAddr(p.addr))
		if tc.good != (err == nil) || !tc.good && status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: %v", tc.name, err)
		}
	}
}

// jwtUpdates are the bundles that a client that watches has been sent.
type jwtUpdates chan *jwtbundle.Set

func (u jwtUpdates) OnJWTBundlesUpdate(s *jwtbundle.Set) { u <- s }
func (u jwtUpdates) OnJWTBundlesWatchError(error)        {} // the client tries again by itself
func (u jwtUpdates) keys(t *testing.T, ok func(int) bool) { // waits for so many keys
	t.Helper()
	for s := range u {
		b, err := s.GetJWTBundleForTrustDomain(trustDomain)
		if err != nil {
			t.Fatal(err)
		}
		if ok(len(b.JWTAuthorities())) {
			return
		}
	}
	t.Fatal("they did not come")
}

// Every change of the keys reaches who watches. While the control plane is away
// the last keys stay good and no token is signed; afterwards it is followed again.
func TestJWTBundlesAreFollowed(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	p := open(t, Options{})
	keys := newTestKeys(t, "k")
	keys.until = 10 * time.Millisecond
	p.issuer.stop()
	p.issuer.keys = keys
	p.issuer.start(true)
	updates := make(jwtUpdates, 1000)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		defer close(updates)
		_ = workloadapi.WatchJWTBundles(ctx, updates, workloadapi.WithAddr(p.addr)) // ends with ctx
	}()
	defer func() {
		cancel()
		<-watched
	}()
	updates.keys(t, func(n int) bool { return n >= 3 })
	p.issuer.stop()
	token, err := keys.Sign(worker, []string{"db"})
	if err != nil {
		t.Fatal(err)
	}
	at := workloadapi.WithAddr(p.addr)
	if _, err := workloadapi.ValidateJWTSVID(ctx, token, "db", at); err != nil {
		t.Errorf("while the control plane is away: %v", err)
	}
	if _, err := workloadapi.FetchJWTSVID(ctx, jwtsvid.Params{Audience: "db"}, at); status.Code(err) != codes.Unavailable {
		t.Errorf("a token while the control plane is away: %v", err)
	}
	p.issuer.keys = newTestKeys(t, "other")
	p.issuer.start(true)
	updates.keys(t, func(n int) bool { return n == 1 })
}

// A control plane of another make says what it does not have, and so do we.
func TestControlPlaneWithoutJWT(t *testing.T) {
	p := open(t, Options{})
	p.issuer.stop()
	p.issuer.start(false)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	at := workloadapi.WithAddr(p.addr)
	if _, err := workloadapi.FetchJWTSVID(ctx, jwtsvid.Params{Audience: "db"}, at); status.Code(err) != codes.Unimplemented {
		t.Errorf("JWT-SVID: %v", err)
	}
	if _, err := workloadapi.FetchJWTBundles(ctx, at); status.Code(err) != codes.Unimplemented {
		t.Errorf("bundles: %v", err)
	}
	if _, err := workloadapi.ValidateJWTSVID(ctx, "x.y.z", "db", at); status.Code(err) != codes.Unimplemented {
		t.Errorf("validation: %v", err)
	}
}
