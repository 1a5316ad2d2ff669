package envoy.authz

import input.attributes.request.http as http

default allow := false

# Two iterations that must meet.
allow if data.roles[_][_] == input.token.claims.groups[_]

# A composite compared with a composite.
allow if data.roles[input.source_principal] == ["reader"]

# A set of mixed kinds, and members that are composite.
allow if input.token.claims.role in {1, true, null, "guest", ["admin"]}

# A function with patterns, else and several definitions.
allow if kind(input.parsed_path) == "pair"

kind([_, second]) := "pair" if {
	second == "7"
} else := "odd pair" if second == "8"

kind([first]) := first

# A key that is only known from the request.
allow if {
	key := lower(http.method)
	data.methods[key].ok
}

allow if {
	name := input.parsed_path[0]
	input.token.claims[name]
	not input.token.claims[name] == "guest"
}

# Negation over an iteration, and of something undefined.
allow if {
	not any_group
	not http.headers["x-tier"]
	http.method != "DELETE"
	input.parsed_path[1] == "8"
}

allow if {
	not any_group
	trim_prefix(http.path, "/people/") == "8"
}

any_group if input.token.claims.groups[_]

# Truth of values that are no booleans.
allow if {
	input.token
	input.token.claims.level
	input.token.claims.level >= 4
	http.headers[":method"] == "HEAD"
}

# Rules that depend on rules, each with a value.
tier := http.headers["x-tier"]

tier := "free" if not http.headers["x-tier"]

allow if {
	tier == "gold"
	[tier, http.method] == ["gold", "HEAD"]
}

allow if {
	[a, "8"] = input.parsed_path
	a == input.parsed_path[0]
	tier != "free"
}
