package envoy.authz

default allow := false

allow if {
	input.parsed_body.role == "reader"
	not input.truncated_body
	input.attributes.destination.address.socketAddress.portValue == 8080
}
