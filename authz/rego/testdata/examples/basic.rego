# Roles of users who log in by HTTP Basic authentication.
package envoy.authz

import input.attributes.request.http as http_request

default allow := false

allow if {
	some role in roles_of_user
	role in required_roles
}

roles_of_user contains role if {
	some role in user_roles[user_name]
}

required_roles contains role if {
	some role, perms in role_perms
	some perm in perms
	perm.method == http_request.method
	perm.path == http_request.path
}

user_name := parsed if {
	[_, encoded] := split(http_request.headers.authorization, " ")
	[parsed, _] := split(base64url.decode(encoded), ":")
}

user_roles := {
	"alice": ["guest"],
	"bob": ["admin"],
}

role_perms := {
	"guest": [{"method": "GET", "path": "/people"}],
	"admin": [
		{"method": "GET", "path": "/people"},
		{"method": "POST", "path": "/people"},
	],
}
