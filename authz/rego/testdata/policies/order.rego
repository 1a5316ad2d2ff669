package envoy.authz

import input.attributes.request.http as http

default allow := false

# What may fail comes before what is cheap: it must fail whatever comes after.
allow if {
	startswith(input.token.claims.role, "adm")
	http.method == "GET"
	input.parsed_path[0] == "people"
}

# A rule in conflict with itself, asked before and after a comparison.
allow if {
	not kind == "word"
	http.method == "HEAD"
	input.parsed_path[1] == "8"
}

allow if {
	http.method == "DELETE"
	kind == "word"
	http.headers["x-tier"]
}

kind := "word" if lower(input.token.claims.role) == "admin"

kind := "list" if input.token.claims.groups[_] == "ops"

# Names: of what is absent, of what is used several times, of names, and in a negation.
allow if {
	tier := http.headers["x-tier"]
	other := http.headers["x-other"]
	http.method == "POST"
	[first, second] := [tier, other]
	first == second
}

allow if {
	subject := input.token.subject
	who := subject
	http.method == "POST"
	not who == "bob"
	who != http.host
	endswith(who, "ice")
	http.path in data.paths
}

allow if {
	absent := data.nothing.here
	not absent == 1
}

allow if {
	caller := input.source_principal
	not caller
}

# Many members, few, an object's, and none.
allow if {
	input.parsed_path[1] in {"a", "b", "c", "d", "e", "8"}
	http.method in ["HEAD"]
	not http.host in data.roles
	not input.parsed_path[0] in []
}

# Globs, simple and other.
allow if {
	glob.match("/people/**", ["/"], http.path)
	glob.match("**", [], http.path)
	not glob.match("/people/?", ["/"], http.path)
	not glob.match("*:80", null, http.host)
	glob.match("menu*", [":"], http.host)
	glob.match("DELETE", [], http.method)
}

# A false rule that is the value of another, and one without a default.
allow if {
	not off
	maybe
	input.token.audiences == ["web", "api"]
}

off := false if http.method == "GET"

maybe if http.method == "GET"

maybe if http.headers.authorization
