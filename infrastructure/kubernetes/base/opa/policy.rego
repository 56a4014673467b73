# Who may use ResearchFlow's API. The input is what the proxy asks through
# ext_authz; the caller proves itself with a JWT, which this policy verifies.
#
#   viewer      reads
#   researcher  reads and writes
#   admin       also deletes, and has /api/admin
package envoy.authz

default allow := false

methods := {
	"viewer": {"GET", "HEAD"},
	"researcher": {"GET", "HEAD", "POST", "PUT", "PATCH"},
	"admin": {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"},
}

allow if {
	startswith(path, "/api/")
	not administration
	some role in roles
	http.method in methods[role]
}

allow if {
	administration
	"admin" in roles
	http.method in methods.admin
}

# GraphQL reads and writes with the same method; the operation makes the
# difference.
allow if {
	path == "/graphql"
	operation == "query"
	some role in roles
	methods[role]
}

allow if {
	path == "/graphql"
	operation == "mutation"
	some role in roles
	"POST" in methods[role]
}

administration if path == "/api/admin"

administration if startswith(path, "/api/admin/")

# What cannot be read is taken for a mutation.
default operation := "mutation"

operation := "query" if http.method == "GET"

operation := "query" if {
	http.method == "POST"
	not contains(lower(input.parsed_body.query), "mutation")
}

http := input.attributes.request.http

path := split(http.path, "?")[0]

# Empty unless the token's signature, issuer, audience and times hold.
roles contains role if {
	some role in claims.roles
}

claims := payload if {
	header := http.headers.authorization
	startswith(header, "Bearer ")
	token := substring(header, count("Bearer "), -1)
	[valid, _, payload] := io.jwt.decode_verify(token, {
		"cert": json.marshal(data.jwks),
		"alg": "ES256",
		"iss": "https://researchflow.example",
		"aud": "researchflow-api",
	})
	valid
	payload.exp # a token without an end is no token
}
