package envoy.authz

allow if {
	input.attributes.request.http.headers["x-tier"] != "free"
	input.token.claims.level > 3
}

allow if lower(input.token.claims.role) == "admin"
