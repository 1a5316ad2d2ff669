package http1

import (
	"strings"
	"testing"

	"github.com/signet-mesh/signet/proxy"
)

var responses = []struct{ name, method, raw, want string }{
	{"length", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nA: b\r\n\r\n", `200 "OK" 1.1 body=1/5 a="b"`},
	{"empty", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", `200 "OK" 1.1 body=0/0`},
	{"chunked", "GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x\r\n\r\n", `200 "OK" 1.1 body=2/-1`},
	{"until close", "GET", "HTTP/1.1 200 OK\r\n\r\n", `200 "OK" 1.1 body=3/-1 close`},
	{"reason with spaces", "GET", "HTTP/1.1 404 Not  \xe9 Found\r\nContent-Length: 0\r\n\r\n", `404 "Not  \xe9 Found" 1.1 body=0/0`},
	{"empty reason", "GET", "HTTP/1.1 200 \r\nContent-Length: 0\r\n\r\n", `200 "" 1.1 body=0/0`},
	{"no reason", "GET", "HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", `200 "" 1.1 body=0/0`},
	{"1.0", "GET", "HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\n", `200 "OK" 1.0 body=1/1 close`},
	{"1.0 keep-alive", "GET", "HTTP/1.0 200 OK\r\nContent-Length: 1\r\nConnection: keep-alive\r\n\r\n", `200 "OK" 1.0 body=1/1`},
	{"close", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nConnection: Close\r\n\r\n", `200 "OK" 1.1 body=1/1 close`},
	{"HEAD with length", "HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", `200 "OK" 1.1 body=0/5`},
	{"HEAD without", "HEAD", "HTTP/1.1 200 OK\r\n\r\n", `200 "OK" 1.1 body=0/-1`},
	{"HEAD chunked", "HEAD", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", `200 "OK" 1.1 body=0/-1`},
	{"304", "GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\nETag: x\r\n\r\n", `304 "Not Modified" 1.1 body=0/5 etag="x"`},
	{"204", "GET", "HTTP/1.1 204 No Content\r\n\r\n", `204 "No Content" 1.1 body=0/-1`},
	{"204 with length 0", "GET", "HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", `204 "No Content" 1.1 body=0/-1`},
	{"100", "GET", "HTTP/1.1 100 Continue\r\n\r\n", `100 "Continue" 1.1 body=0/-1`},
	{"103", "GET", "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", `103 "Early Hints" 1.1 body=0/-1 link="</a>"`},
	{"101", "GET", "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", `101 "Switching Protocols" 1.1 body=0/-1 upgrade=websocket`},
	{"Upgrade advertised", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", `200 "OK" 1.1 body=0/0`},
	{"426", "GET", "HTTP/1.1 426 Upgrade Required\r\nContent-Length: 0\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", `426 "Upgrade Required" 1.1 body=0/0 upgrade=websocket`},
	{"CONNECT 200", "CONNECT", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", `200 "OK" 1.1 body=0/-1`},
	{"CONNECT 403", "CONNECT", "HTTP/1.1 403 No\r\nContent-Length: 5\r\n\r\n", `403 "No" 1.1 body=1/5`},
	{"underscores", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\ncontent_length: 5\r\n\r\n", `200 "OK" 1.1 body=0/0 content_length="5"`},
}

func TestParseResponse(t *testing.T) {
	for _, c := range responses {
		t.Run(c.name, func(t *testing.T) {
			h := new(proxy.Head)
			for end := 0; end < len(c.raw); end++ {
				if n, err := ParseResponse([]byte(c.raw[:end]), h, c.method, nil); n != 0 || err != nil {
					t.Fatalf("at %d: n = %d, %v", end, n, err)
				}
			}
			n, err := ParseResponse([]byte(c.raw+"HTTP/1.1 200 OK\r\n\r\n"), h, c.method, nil)
			if err != nil || n != len(c.raw) {
				t.Fatalf("n = %d of %d, err = %v", n, len(c.raw), err)
			}
			if got := show(h); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

func ok(line string) string { return "HTTP/1.1 200 OK\r\n" + line + "\r\n\r\n" }

var refusedResponses = []struct{ name, raw string }{
	{"CL+TE", ok("Content-Length: 5\r\nTransfer-Encoding: chunked")},
	{"two CL", ok("Content-Length: 5\r\nContent-Length: 5")},
	{"CL list", ok("Content-Length: 5, 5")},
	{"CL overflow", ok("Content-Length: 9223372036854775808")},
	{"TE list", ok("Transfer-Encoding: gzip, chunked")},
	{"two TE", ok("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked")},
	{"TE in 1.0", "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"},
	{"obs-fold", ok("A: b\r\n c")},
	{"bare LF", "HTTP/1.1 200 OK\nA: b\n\n"},
	{"bare CR", ok("A: b\rSet-Cookie: x")},
	{"space before colon", ok("A : b")},
	{"NUL", ok("A: \x00")},
	{"leading empty line", "\r\n" + ok("A: b")},
	{"status 099", "HTTP/1.1 099 X\r\n\r\n"},
	{"status 600", "HTTP/1.1 600 X\r\n\r\n"},
	{"status 20", "HTTP/1.1 20 OK\r\n\r\n"},
	{"status 2000", "HTTP/1.1 2000 OK\r\n\r\n"},
	{"status +20", "HTTP/1.1 +20 OK\r\n\r\n"},
	{"two spaces", "HTTP/1.1  200 OK\r\n\r\n"},
	{"HTTP/2.0", "HTTP/2.0 200 OK\r\n\r\n"},
	{"HTTP/1.2", "HTTP/1.2 200 OK\r\n\r\n"},
	{"no version", "200 OK\r\n\r\n"},
	{"not HTTP", "SSH-2.0-OpenSSH"},
	{"control in reason", "HTTP/1.1 200 O\x0bK\r\n\r\n"},
	{"101 without Upgrade", "HTTP/1.1 101 Switching Protocols\r\n\r\n"},
	{"101 h2c", "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"},
	{"101 that Connection does not name", "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"},
	{"100 with a body", "HTTP/1.1 100 Continue\r\nContent-Length: 5\r\n\r\n"},
	{"204 with a body", "HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n"},
	{"204 chunked", "HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n"},
	{"Connection: Set-Cookie", ok("Connection: set-cookie\r\nSet-Cookie: a")},
	{"too large", ok("A: " + strings.Repeat("a", 64<<10))},
	{"too large, no end", "HTTP/1.1 200 OK\r\nA: " + strings.Repeat("a", 64<<10)},
}

func TestParseResponseRefuses(t *testing.T) {
	for _, c := range refusedResponses {
		t.Run(c.name, func(t *testing.T) {
			h := new(proxy.Head)
			n, err := ParseResponse([]byte(c.raw), h, "GET", nil)
			if err == nil {
				t.Fatalf("accepted %d bytes: %s", n, show(h))
			}
			if code := codeOf(t, err); code != proxy.UpstreamProtocol {
				t.Errorf("code %v, want UpstreamProtocol: %v", code, err)
			}
		})
	}
}
