package ir

import "strings"

// JWT verifies the tokens that requests carry (Envoy's jwt_authn filter). A
// request without a token passes and has no principal; with a token it passes
// when a provider accepts it.
type JWT struct {
	Providers []JWTProvider `json:"providers"`
	// ClearRouteCache: the token decides the route, so that it is chosen
	// afterwards (gateways).
	ClearRouteCache bool `json:"clearRouteCache,omitempty"`
}

// JWTProvider is one rule of a RequestAuthentication: an issuer, its keys, and
// where its tokens are found.
type JWTProvider struct {
	Name      string   `json:"name"`                // "origins-0", as Istio names it
	Issuer    string   `json:"issuer,omitempty"`    // empty: any that the keys verify
	Audiences []string `json:"audiences,omitempty"` // one must be the token's; empty: any
	// Keys is the JWK Set. KeysMissing says why there is none: then no token of
	// this provider is accepted.
	Keys        string `json:"keys,omitempty"`
	KeysMissing string `json:"keysMissing,omitempty"`
	// Where tokens are. With all three empty: "Authorization: Bearer" and the
	// query parameter access_token.
	FromHeaders []JWTHeader `json:"fromHeaders,omitempty"`
	FromParams  []string    `json:"fromParams,omitempty"`
	FromCookies []string    `json:"fromCookies,omitempty"`
	// What the upstream gets. The headers are taken off every request that
	// brings them itself.
	Forward       bool          `json:"forward,omitempty"`       // the token stays in the request
	PayloadHeader string        `json:"payloadHeader,omitempty"` // lower case; base64url payload
	ClaimHeaders  []ClaimHeader `json:"claimHeaders,omitempty"`
	// SpaceDelimited claims are lists written as one string.
	SpaceDelimited []string `json:"spaceDelimited,omitempty"`
	Origin         Origin   `json:"origin,omitzero"` // line of jwtRules[i]
}

// JWTHeader is a header (lower case) with tokens, behind Prefix.
type JWTHeader struct {
	Name   string `json:"name"`
	Prefix string `json:"prefix,omitempty"`
}

// ClaimHeader copies a claim, "a.b" for one inside another, into a header
// (lower case).
type ClaimHeader struct {
	Header string `json:"header"`
	Claim  string `json:"claim"`
}

// ClaimPath is the claim that a leaf of AttrClaim, AttrAudience or
// AttrPresenter looks at: Key is written "a][b" for claims[a][b].
func (e *Expr) ClaimPath() []string {
	switch e.Attr {
	case AttrAudience:
		return []string{"aud"}
	case AttrPresenter:
		return []string{"azp"}
	}
	return strings.Split(e.Key, "][")
}
