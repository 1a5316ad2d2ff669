package envoy.authz

default allow := false

allow if {
	every part in input.parsed_path {
		part != "admin"
		not startswith(part, ".")
	}
	count(input.parsed_path) < 4
	input.attributes.request.http.headers.authorization
}

allow if {
	some i, method in ["GET", "POST"]
	method == input.attributes.request.http.method
	input.parsed_path[i] == "people"
}

allow if {
	some name, value in input.token.claims
	name == "role"
	value == "admin"
}
