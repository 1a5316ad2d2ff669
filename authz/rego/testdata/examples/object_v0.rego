# A decision of several rules.
package envoy.authz

default allow = false

allow {
	input.attributes.request.http.method == "GET"
	input.parsed_path = ["people"]
	count(input.parsed_query.lang) == 1
}

decision["allowed"] = allow

decision["headers"] = {"x-ext-auth-allow": word} {
	word := {true: "yes", false: "no"}[allow]
}

decision["response_headers_to_add"] = {"x-lang": lang} {
	lang := input.parsed_query.lang[0]
}

decision["request_headers_to_remove"] = ["x-secret"] { allow }

decision["http_status"] = 404 { not allow }

decision["body"] = "no such thing" { not allow }
