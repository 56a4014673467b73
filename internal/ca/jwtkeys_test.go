package ca

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/json"
	"github.com/go-jose/go-jose/v4/jwt"
)

// keySet reads a bundle and checks what must hold of each.
func keySet(t *testing.T, k *JWTKeys) (set jose.JSONWebKeySet, until time.Time) {
	t.Helper()
	text, until, err := k.Bundle()
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &set); err != nil {
		t.Fatal(err)
	}
	if n := len(set.Keys); n < 1 || n > 2 || !until.After(time.Now()) {
		t.Fatalf("%d keys until %s", n, until)
	}
	for _, key := range set.Keys {
		if !key.IsPublic() || key.Algorithm != "ES256" || key.KeyID == "" {
			t.Fatalf("key %q of %s, public: %v", key.KeyID, key.Algorithm, key.IsPublic())
		}
	}
	return set, until
}

// verified reports whether a token is of one of the keys and valid now.
func verified(token string, set jose.JSONWebKeySet) error {
	tok, err := jwt.ParseSigned(token, []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		return err
	}
	var claims jwt.Claims
	if err := tok.Claims(set, &claims); err != nil {
		return err
	}
	return claims.ValidateWithLeeway(jwt.Expected{Subject: worker.String(), AnyAudience: jwt.Audience{"db"}, Time: time.Now()}, 0)
}

// Over some days, whoever looks at the bundle once an hour can verify every
// token that is made, and whoever looks now every token that has not ended.
func TestJWTKeysTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, err := NewJWTKeys()
		if err != nil {
			t.Fatal(err)
		}
		var hourly jose.JSONWebKeySet
		var before string // the token of four minutes ago
		signers := map[string]bool{}
		for minute := 0; minute < 60*60; minute += 4 {
			now, _ := keySet(t, k)
			if minute%60 == 0 {
				hourly = now
			}
			token, err := k.Sign(worker, []string{"db"})
			if err != nil {
				t.Fatal(err)
			}
			tok, err := jwt.ParseSigned(token, []jose.SignatureAlgorithm{jose.ES256})
			if err != nil {
				t.Fatal(err)
			}
			signers[tok.Headers[0].KeyID] = true
			if err := verified(token, hourly); err != nil {
				t.Fatalf("minute %d: by a bundle that is %d minutes old: %v", minute, minute%60, err)
			}
			if before != "" {
				if err := verified(before, now); err != nil {
					t.Fatalf("minute %d: a token of four minutes: %v", minute, err)
				}
			}
			before = token
			advance(4 * time.Minute)
		}
		if len(signers) != 3 {
			t.Errorf("%d keys have signed", len(signers))
		}
		last, _ := keySet(t, k)
		advance(JWTLifetime - 4*time.Minute + time.Second)
		if verified(before, last) == nil {
			t.Error("a token that has ended is valid")
		}
	})
}

// A bundle says when it will be another one: exactly then it is, and a key that
// has gone verifies nothing.
func TestJWTBundleUntil(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, err := NewJWTKeys()
		if err != nil {
			t.Fatal(err)
		}
		var sizes []int
		var gone string
		for range 6 {
			before, until := keySet(t, k)
			sizes = append(sizes, len(before.Keys))
			advance(time.Until(until) - time.Nanosecond)
			if same, _ := keySet(t, k); len(same.Keys) != len(before.Keys) {
				t.Errorf("another bundle before %s", until)
			}
			advance(time.Nanosecond)
			after, _ := keySet(t, k)
			if len(after.Keys) == len(before.Keys) {
				t.Errorf("the same bundle after %s", until)
			}
			if len(after.Keys) < len(before.Keys) {
				gone = before.Keys[0].KeyID
			}
			if len(after.Key(gone)) > 0 && gone != "" {
				t.Errorf("key %s is back", gone)
			}
		}
		if fmt.Sprint(sizes) != "[1 2 1 2 1 2]" {
			t.Errorf("keys in the bundle: %v", sizes)
		}
		advance(30 * 24 * time.Hour) // nobody asked
		token, err := k.Sign(worker, []string{"db"})
		if err != nil {
			t.Fatal(err)
		}
		if now, _ := keySet(t, k); verified(token, now) != nil {
			t.Error("after a month in which nobody asked")
		}
	})
}

func TestJWTNeedsAnAudience(t *testing.T) {
	k, err := NewJWTKeys()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := k.Sign(worker, nil); err == nil {
		t.Error("a token that everybody takes")
	}
	for _, text := range []string{fmt.Sprint(k), fmt.Sprintf("%+v", k), fmt.Sprintf("%#v", k)} {
		if !strings.HasPrefix(text, "JWT keys [") || len(text) > 60 {
			t.Errorf("printed as %s", text)
		}
	}
}
