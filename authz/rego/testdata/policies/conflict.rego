package envoy.authz

allow := true if input.attributes.request.http.method == "GET"

allow := false if input.parsed_path[0] == "admin"
