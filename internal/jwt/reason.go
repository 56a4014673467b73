// Package jwt verifies the JSON Web Tokens of requests as Envoy's jwt_authn
// filter does for Istio: where tokens are found, which are accepted, what the
// upstream gets of them. The signatures are go-jose's work, the policy around
// them is here. It may be asked without a proxy.
package jwt

import "net/http"

// Bounds of what a caller may send. Envoy has none of its own beyond those on
// headers.
const (
	MaxToken  = 16 << 10 // bytes of one token
	maxTokens = 8        // in one request
)

// clockSkew is how far clocks may differ (Envoy's default).
const clockSkew = 60 // seconds

// reason is Envoy's text for what is wrong with a token; it is the body of the
// answer, and with underscores the response code details.
type reason string

const (
	missing         reason = "Jwt is missing"
	notYetValid     reason = "Jwt not yet valid"
	expired         reason = "Jwt is expired"
	badFormat       reason = "Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections"
	headerBase64    reason = "Jwt header is an invalid Base64url encoded"
	headerJSON      reason = "Jwt header is an invalid JSON"
	badAlg          reason = "Jwt header [alg] field is required and must be a string"
	unknownAlg      reason = "Jwt header [alg] is not supported"
	badKid          reason = "Jwt header [kid] field is not a string"
	payloadBase64   reason = "Jwt payload is an invalid Base64url encoded"
	payloadJSON     reason = "Jwt payload is an invalid JSON"
	badAudience     reason = "Jwt payload [aud] field is not a string or string list"
	signatureBase64 reason = "Jwt signature is an invalid Base64url encoded"
	signatureLength reason = "Jwt ED25519 signature is wrong length"
	unknownIssuer   reason = "Jwt issuer is not configured"
	wrongAudience   reason = "Audiences in Jwt are not allowed"
	wrongSignature  reason = "Jwt verification fails"
	noKey           reason = "Jwks doesn't have key to match kid or alg from Jwt"

	// Ours: Envoy takes what fits into the headers.
	tooLarge reason = "Jwt is too large"
	tooMany  reason = "Jwt is in too many places"
)

func notString(claim string) reason {
	return reason("Jwt payload [" + claim + "] field is not a string")
}
func notInteger(claim string) reason {
	return reason("Jwt payload [" + claim + "] field is not an integer")
}
func outOfRange(claim string) reason {
	return reason("Jwt payload [" + claim + "] field is not a positive 64 bit integer")
}

// status is what the caller is answered.
func (r reason) status() int {
	if r == wrongAudience {
		return http.StatusForbidden
	}
	return http.StatusUnauthorized
}

// weight ranks what several providers say of one request: that a token is not
// theirs tells less than what is wrong with it.
func (r reason) weight() int {
	switch r {
	case missing:
		return 0
	case unknownIssuer:
		return 1
	}
	return 2
}
