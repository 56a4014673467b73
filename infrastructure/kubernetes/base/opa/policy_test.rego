package envoy.authz_test

import data.envoy.authz

# A key of the test's own; the deployment's data.jwks plays no part.
key := {
	"kty": "EC",
	"crv": "P-256",
	"x": "3AawOAf8WE0Z8eYYcjnI622RKdq37br6hRw8OLtkqIM",
	"y": "ix54nss2AUWkM8xrr_ziLYcMD95Tje0YOK6m7RJOP-0",
	"d": "KtoW71GGmoHucpPtT-UZe-setOl30_pJJvQfKNR3ceA",
}

jwks := {"keys": [object.remove(key, {"d"})]}

hour := 3600

now := time.now_ns() / 1000000000

claims := {"iss": "https://researchflow.example", "aud": "researchflow-api", "sub": "someone", "exp": now + hour}

token(changes) := io.jwt.encode_sign({"alg": "ES256", "typ": "JWT"}, object.union(claims, changes), key)

of(role) := token({"roles": [role]})

request(method, path, token) := {"attributes": {"request": {"http": {
	"method": method,
	"path": path,
	"headers": {"authorization": concat(" ", ["Bearer", token])},
}}}}

graphql(query, token) := object.union(request("POST", "/graphql", token), {"parsed_body": {"query": query}})

allowed(r) if authz.allow with input as r with data.jwks as jwks

test_nobody if {
	not allowed({"attributes": {"request": {"http": {"method": "GET", "path": "/api/jobs", "headers": {}}}}})
}

test_viewer_reads if allowed(request("GET", "/api/jobs?limit=3", of("viewer")))

test_viewer_does_not_write if not allowed(request("POST", "/api/jobs", of("viewer")))

test_researcher_writes if allowed(request("POST", "/api/jobs", of("researcher")))

test_researcher_does_not_delete if not allowed(request("DELETE", "/api/jobs/1", of("researcher")))

test_admin_deletes if allowed(request("DELETE", "/api/jobs/1", of("admin")))

test_admin_area if {
	allowed(request("GET", "/api/admin/stats", of("admin")))
	not allowed(request("GET", "/api/admin/stats", of("researcher")))
	not allowed(request("GET", "/api/admin", of("viewer")))
}

test_admin_area_is_a_path_segment if allowed(request("GET", "/api/administrators", of("viewer")))

test_graphql_query if allowed(graphql("{ jobs { id } }", of("viewer")))

test_graphql_mutation if {
	not allowed(graphql("mutation { deleteJob(id: 1) { id } }", of("viewer")))
	allowed(graphql("mutation { createJob { id } }", of("researcher")))
}

test_graphql_without_readable_body if not allowed(request("POST", "/graphql", of("viewer")))

test_graphql_needs_a_token if not allowed(graphql("{ jobs { id } }", ""))

test_other_paths if not allowed(request("GET", "/secrets", of("admin")))

test_unknown_role if not allowed(request("GET", "/api/jobs", of("guest")))

test_expired if not allowed(request("GET", "/api/jobs", token({"roles": ["viewer"], "exp": now - 1})))

test_without_end if not allowed(request("GET", "/api/jobs", io.jwt.encode_sign({"alg": "ES256"}, object.remove(object.union(claims, {"roles": ["viewer"]}), {"exp"}), key)))

test_wrong_issuer if not allowed(request("GET", "/api/jobs", token({"roles": ["viewer"], "iss": "https://elsewhere.example"})))

test_wrong_audience if not allowed(request("GET", "/api/jobs", token({"roles": ["viewer"], "aud": "another-api"})))

test_other_key if {
	not authz.allow with input as request("GET", "/api/jobs", of("viewer"))
}

test_unsigned if {
	not allowed(request("GET", "/api/jobs", io.jwt.encode_sign({"alg": "HS256", "typ": "JWT"}, object.union(claims, {"roles": ["admin"]}), {"kty": "oct", "k": "c2VjcmV0"})))
}

test_tampered if {
	parts := split(of("viewer"), ".")
	payload := base64url.encode_no_pad(json.marshal(object.union(claims, {"roles": ["admin"]})))
	not allowed(request("DELETE", "/api/jobs/1", concat(".", [parts[0], payload, parts[2]])))
}
