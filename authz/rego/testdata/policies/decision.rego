package menu

default allow := false

allow if {
	http := input.attributes.request.http
	http.headers["x-tier"] == "gold"
	http.method == "GET"
}

allow if is_admin(input.attributes.source.principal)

is_admin("spiffe://cluster.local/ns/shop/sa/boss")

is_admin(who) if who == "spiffe://cluster.local/ns/shop/sa/admin"

status := 404 if {
	input.parsed_path[0] == "hidden"
} else := 402 if {
	not input.attributes.request.http.headers["x-tier"]
} else := 403

decision := {
	"allowed": allow,
	"http_status": status,
	"headers": {"x-decided-by": "menu", "x-path": input.attributes.request.http.path},
	"body": "no",
}
