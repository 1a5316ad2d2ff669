package envoy.authz

default allow := false

violations contains "method" if input.attributes.request.http.method == "DELETE"

violations contains "path" if "admin" in input.parsed_path

allow if count(violations) == 0

allow if count([r | some r in data.roles[input.source_principal]; r == "admin"]) > 0
