# Who may call whom, by the header in which a proxy in front names its client's certificate.
package envoy.authz

import input.attributes.request.http as http_request

default allow = false

allow {
	http_request.path == "/good/db"
	http_request.method == "GET"
	svc_spiffe_id == "spiffe://cluster.local/ns/shop/sa/web"
}

svc_spiffe_id = client_id {
	[_, _, uri_type_san] := split(http_request.headers["x-forwarded-client-cert"], ";")
	[_, client_id] := split(uri_type_san, "=")
}
