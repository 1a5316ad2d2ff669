package envoy.authz

import input.attributes.request.http as http_request

default allow := false

allow if {
	glob.match("/people/*", ["/"], http_request.path)
	http_request.method in {"GET", "HEAD"}
}

allow if {
	startswith(http_request.path, "/public/")
	endswith(http_request.path, ".css")
}

allow if {
	array.slice(input.parsed_path, 0, 2) == ["admin", "people"]
	input.token.claims.role == "admin"
}

allow if {
	some group in input.token.claims.groups
	group in ["ops", "security"]
	contains(http_request.path, "/admin")
}
