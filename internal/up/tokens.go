package up

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/tulle-mesh/tulle/internal/resource"
)

// token is a JWT for one role of the example.
type token struct{ Role, JWT string }

// mint signs the demo tokens that Local objects ask for.
func mint(set *resource.Set) ([]token, error) {
	var out []token
	for _, l := range set.Local {
		t := l.Spec.Tokens
		if t == nil {
			continue
		}
		fail := func(field string, err error) error {
			return fmt.Errorf("%s: spec.tokens.%s: %w", l.At("spec.tokens."+field).Place(), field, err)
		}
		ttl := 24 * time.Hour
		if t.TTL != "" {
			var err error
			if ttl, err = time.ParseDuration(t.TTL); err != nil {
				return nil, fail("ttl", err)
			}
		}
		signer, err := signerOf(filepath.Join(filepath.Dir(l.Pos.File), t.KeyFile), t.KeyID)
		if err != nil {
			return nil, fail("keyFile", err)
		}
		now := time.Now()
		for _, role := range slices.Sorted(maps.Keys(t.Roles)) {
			claims := map[string]any{"iat": jwt.NewNumericDate(now), "exp": jwt.NewNumericDate(now.Add(ttl))}
			maps.Copy(claims, t.Claims)
			maps.Copy(claims, t.Roles[role])
			text, err := jwt.Signed(signer).Claims(claims).Serialize()
			if err != nil {
				return nil, fail("roles", err)
			}
			out = append(out, token{role, text})
		}
	}
	return out, nil
}

func signerOf(file, keyID string) (jose.Signer, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(b)
	if block == nil {
		return nil, fmt.Errorf("%s is not PEM", file)
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	opts := (&jose.SignerOptions{}).WithType("JWT")
	if keyID != "" {
		opts = opts.WithHeader("kid", keyID)
	}
	for _, alg := range []jose.SignatureAlgorithm{jose.ES256, jose.RS256} {
		if s, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: key}, opts); err == nil {
			if _, err := jwt.Signed(s).Claims(map[string]any{}).Serialize(); err == nil {
				return s, nil
			}
		}
	}
	return nil, fmt.Errorf("%s: want an EC P-256 or RSA key", file)
}

// fill replaces $TOKEN_ROLE and $GATEWAY in a command worth pasting.
func fill(command, gateway string, tokens []token) string {
	for _, t := range tokens {
		command = strings.ReplaceAll(command, "$TOKEN_"+strings.ToUpper(t.Role), t.JWT)
	}
	return strings.ReplaceAll(command, "$GATEWAY", gateway)
}
