package ca

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/tulle-mesh/tulle/internal/identity"
)

const (
	// JWTLifetime of a JWT-SVID. It can be used by whoever sees it, so it is
	// short; SPIRE's default.
	JWTLifetime = 5 * time.Minute
	// A key signs for keySigns. It is in the bundle keySpread before, for those
	// who only look at the bundle now and then, and keyStays after: until the last
	// token that it signed has ended, by clocks that are a minute slow.
	keySigns  = 24 * time.Hour
	keySpread = time.Hour
	keyStays  = JWTLifetime + time.Minute
)

// JWTKeys sign JWT-SVIDs (ES256). They are no keys of the Authority: a token is
// no certificate, and what signs one must not be able to make the other. They
// are in memory only, change by themselves, and never print. Safe for
// concurrent use.
type JWTKeys struct {
	mu   sync.Mutex
	keys []jwtKey // guarded by mu; oldest first; at most one has still to begin
}

type jwtKey struct {
	id    string
	from  time.Time // it signs from then on, until the next one does
	key   *ecdsa.PrivateKey
	token jose.Signer
}

// NewJWTKeys makes the first key.
func NewJWTKeys() (*JWTKeys, error) {
	k := &JWTKeys{}
	return k, k.add(time.Now())
}

// String names the keys by their IDs.
func (k *JWTKeys) String() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	var ids []string
	for _, key := range k.keys {
		ids = append(ids, key.id)
	}
	return fmt.Sprintf("JWT keys %v", ids)
}

// GoString implements fmt.GoStringer.
func (k *JWTKeys) GoString() string { return k.String() }

// Sign makes a JWT-SVID for an identity that the caller has proved, for these
// audiences, of which there must be one.
func (k *JWTKeys) Sign(id identity.ID, audience []string) (string, error) {
	if len(audience) == 0 {
		return "", fmt.Errorf("a JWT-SVID of %s needs an audience", id)
	}
	now := time.Now()
	signer, err := k.signer(now)
	if err != nil {
		return "", err
	}
	return jwt.Signed(signer).Claims(jwt.Claims{
		Subject: id.String(), Audience: audience, IssuedAt: jwt.NewNumericDate(now), Expiry: jwt.NewNumericDate(now.Add(JWTLifetime)),
	}).Serialize()
}

func (k *JWTKeys) signer(now time.Time) (jose.Signer, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.turn(now); err != nil {
		return nil, err
	}
	newest := len(k.keys) - 1
	if k.keys[newest].from.After(now) {
		newest--
	}
	return k.keys[newest].token, nil
}

// Bundle is what JWT-SVIDs are verified with, a JWK Set (RFC 7517), and when it
// will be another one.
func (k *JWTKeys) Bundle() (set []byte, until time.Time, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.turn(time.Now()); err != nil {
		return nil, time.Time{}, err
	}
	var out jose.JSONWebKeySet
	for _, key := range k.keys {
		out.Keys = append(out.Keys, jose.JSONWebKey{Key: key.key.Public(), KeyID: key.id, Algorithm: string(jose.ES256), Use: "sig"})
	}
	until = k.nextDue()
	if len(k.keys) > 1 {
		until = earlier(until, k.keys[1].from.Add(keyStays))
	}
	set, err = json.Marshal(out)
	return set, until, err
}

// turn makes the next key when it is due, and lets go of those that no valid
// token is of. Called with mu held.
func (k *JWTKeys) turn(now time.Time) error {
	if due := k.nextDue(); !now.Before(due) {
		from := due.Add(keySpread)
		if from.Before(now) {
			from = now // nobody has looked at the bundle for long: nobody has to be told before
		}
		if err := k.add(from); err != nil {
			return err
		}
	}
	for len(k.keys) > 1 && !now.Before(k.keys[1].from.Add(keyStays)) {
		k.keys = k.keys[1:]
	}
	return nil
}

// nextDue is when the next key is to be in the bundle. Called with mu held.
func (k *JWTKeys) nextDue() time.Time {
	return k.keys[len(k.keys)-1].from.Add(keySigns - keySpread)
}

// add makes a key that signs from then on. Called with mu held, or before
// anybody else has k.
func (k *JWTKeys) add(from time.Time) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	id := rand.Text()
	token, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: key}, (&jose.SignerOptions{}).WithType("JWT").WithHeader("kid", id))
	if err != nil {
		return err
	}
	k.keys = append(k.keys, jwtKey{id, from, key, token})
	return nil
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}
