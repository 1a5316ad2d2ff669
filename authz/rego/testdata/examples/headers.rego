# What looks at all headers and at the query.
package envoy.authz

default allow := false

allow if {
	every name, value in input.attributes.request.http.headers {
		not startswith(name, "x-internal-")
		value != ""
	}
	not "1" in input.parsed_query.debug
	input.version.ext_authz == "v3"
	input.attributes.destination.address.socketAddress.portValue == 8080
	net.cidr_contains("10.0.0.0/8", input.attributes.source.address.socketAddress.address)
}
