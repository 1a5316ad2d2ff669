package menu

default decision := {"allowed": false, "http_status": 401, "headers": {"www-authenticate": "Bearer"}, "body": "who?"}

decision := {"allowed": true, "headers": {"x-user": "known"}, "response_headers_to_add": {"x-seen": ["a", "b"]}, "request_headers_to_remove": ["x-tier"]} if {
	input.token.subject
	"api" in input.token.audiences
}
