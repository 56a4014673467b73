package explain

import (
	"strings"
	"time"

	"github.com/tulle-mesh/tulle/internal/authz"
	"github.com/tulle-mesh/tulle/internal/header"
	"github.com/tulle-mesh/tulle/internal/ir"
	"github.com/tulle-mesh/tulle/internal/jwt"
)

// Authenticate implements authz.Authenticator: the question's tokens are
// verified as the proxy would, and what follows sees the request without them.
func (k *asker) Authenticate(f *ir.JWT) (*authz.Token, *authz.Refusal) {
	filter, err := jwt.New(f, jwt.NewVerifier)
	if err != nil {
		return nil, &authz.Refusal{Status: 401, Reason: "Jwt verification fails", Hint: err.Error()}
	}
	sent := &k.q.sent
	h := &header.Map{}
	for name, value := range sent.headers {
		h.Add(strings.ToLower(name), value)
	}
	path, query := cutQuery(sent.path)
	r := jwt.Request{Method: k.q.Method, Query: query, Fields: h, Time: time.Now()}
	token, refused := filter.Check(&r)
	sent.path, sent.headers = path+r.Query, fields{}
	for _, f := range h.Fields {
		sent.headers[f.Name] = f.Value
	}
	return token, refused
}

func because(hint string) string {
	if hint == "" {
		return ""
	}
	return " (" + hint + ")"
}
