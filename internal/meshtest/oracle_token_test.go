package meshtest

import (
	"encoding/json"
	"errors"
	"time"

	"github.com/tulle-mesh/tulle/internal/authz"
	"github.com/tulle-mesh/tulle/internal/header"
	"github.com/tulle-mesh/tulle/internal/ir"
	"github.com/tulle-mesh/tulle/internal/jwt"
)

func hasTokens(blocks []block) bool {
	for _, b := range blocks {
		for i := range b.cases {
			if b.cases[i].token != "" {
				return true
			}
		}
	}
	return false
}

const oracleIssuer = "https://a.example.com"

// issue makes the tables' issuer and the rule that target verifies it by.
func (o *oracle) issue() (document, error) {
	var err error
	if o.issuer, err = newIssuer(oracleIssuer); err != nil {
		return document{}, err
	}
	keys := string(o.issuer.document())
	return identify(document{file: "tokens.yaml", line: 1, text: `apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: tokens, namespace: shop}
spec:
  selector: {matchLabels: {app: target}}
  jwtRules:
  - {issuer: "` + oracleIssuer + `", jwks: '` + keys + `', forwardOriginalToken: true, spaceDelimitedClaims: [roles]}
  - {issuer: b, jwks: '` + keys + `', forwardOriginalToken: true}
`}), nil
}

// bear gives a case its token.
func (o *oracle) bear(c *oracleCase) error {
	if c.token == "" {
		return nil
	}
	claims := map[string]any{"iss": oracleIssuer, "exp": time.Now().Add(time.Hour).Unix()}
	if err := json.Unmarshal([]byte(c.token), &claims); err != nil {
		return err
	}
	made, err := o.issuer.sign("ES256", "", claims)
	c.req.header.Set("Authorization", "Bearer "+made)
	return err
}

// verifying is a request's tokens, for policies in process.
type verifying struct {
	method, query string
	fields        *header.Map
}

// Ask implements authz.Asker.
func (*verifying) Ask(*ir.ExtAuthz) authz.Verdict {
	return authz.Verdict{Err: errors.New("nobody is there to be asked")}
}

// Authenticate implements authz.Authenticator.
func (v *verifying) Authenticate(f *ir.JWT) (*authz.Token, *authz.Refusal) {
	filter, err := jwt.New(f, jwt.NewVerifier)
	if err != nil {
		return nil, &authz.Refusal{Status: 401, Reason: err.Error()}
	}
	return filter.Check(&jwt.Request{Method: v.method, Query: v.query, Fields: v.fields, Time: time.Now()})
}
