# Who may call whom, by SPIFFE IDs.
package envoy.authz

import input.attributes.request.http as http_request
import input.attributes.source.principal as source

default allow := false

allow if {
	http_request.path == "/good/backend"
	http_request.method == "GET"
	source == "spiffe://cluster.local/ns/shop/sa/web"
}

allow if {
	http_request.path == "/good/db"
	http_request.method == "POST"
	startswith(source, "spiffe://cluster.local/ns/shop/")
	endswith(source, "/backend")
}
