# Decisions that are objects: where a request goes that is refused, and what is changed of one that is not.
package envoy.authz

import input.attributes.request.http as http_request

default allow := {
	"allowed": false,
	"http_status": 301,
	"headers": {"location": "https://login.example/", "x-ext-auth-allow": "no"},
	"body": "Unauthorized Request",
}

allow := response if {
	http_request.method == "GET"
	input.parsed_path[0] == "people"
	response := {
		"allowed": true,
		"headers": {"x-ext-auth-allow": "yes", "x-seen-path": http_request.path},
		"response_headers_to_add": {"x-served-by": "people"},
		"request_headers_to_remove": ["authorization", "x-secret"],
	}
}
