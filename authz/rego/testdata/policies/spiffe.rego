package envoy.authz

import rego.v1

import input.attributes.request.http as http_request
import input.attributes.source.principal

default allow := false

allow if {
	http_request.method == "GET"
	principal in data.principals
	input.parsed_path[0] == "people"
	not blocked
}

allow if {
	some role in data.roles[principal]
	role == "admin"
}

allow if {
	input.parsed_path = ["each", id]
	id != "7"
	data.roles[principal][_] == "reader"
}

blocked if input.parsed_path[1] == "secret"
