package http1

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/signet-mesh/signet/proxy"
)

// show writes what a head says, so that heads can be compared as text.
func show(h *proxy.Head) string {
	var b strings.Builder
	if h.Status != 0 {
		fmt.Fprintf(&b, "%d %q", h.Status, h.Reason)
	} else {
		fmt.Fprintf(&b, "%s %s|%s|%s|%s", h.Method, h.Scheme, h.Authority, h.Path, h.Query)
	}
	fmt.Fprintf(&b, " 1.%d body=%d/%d", h.Minor, h.Body, h.Length)
	if h.Close {
		b.WriteString(" close")
	}
	if h.Upgrade != "" {
		b.WriteString(" upgrade=" + h.Upgrade)
	}
	if h.Expect {
		b.WriteString(" expect")
	}
	if h.Trailers {
		b.WriteString(" te")
	}
	for _, f := range h.Fields {
		fmt.Fprintf(&b, " %s=%q", f.Name, f.Value)
	}
	return b.String()
}

func codeOf(t *testing.T, err error) proxy.Code {
	t.Helper()
	var f *proxy.Failure
	if !errors.As(err, &f) {
		t.Fatalf("%v (%T) is not a *proxy.Failure", err, err)
	}
	return f.Code
}

// accepted are requests and what is read of them.
var accepted = []struct{ name, raw, want string }{
	{"plain", "GET /a?b=c HTTP/1.1\r\nHost: x.example\r\nX-A: 1\r\n\r\n", `GET |x.example|/a|?b=c 1.1 body=0/0 x-a="1"`},
	{"leading empty line", "\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n", `GET |x|/| 1.1 body=0/0`},
	{"values trimmed, inner tab kept", "GET / HTTP/1.1\r\nHost:x\r\nA: \t b\tc \t\r\nB:\r\nC: \xe9\xff\r\n\r\n", `GET |x|/| 1.1 body=0/0 a="b\tc" b="" c="\xe9\xff"`},
	{"repeated fields keep their order", "GET / HTTP/1.1\r\nA: 1\r\nHost: x\r\na: 2\r\n\r\n", `GET |x|/| 1.1 body=0/0 a="1" a="2"`},
	{"long value, no control missed or invented", "GET / HTTP/1.1\r\nHost: x\r\nA: 0123456\t89\x80bcdef !~\xff012345678\r\n\r\n", `GET |x|/| 1.1 body=0/0 a="0123456\t89\x80bcdef !~\xff012345678"`},
	{"http/1.0", "GET / HTTP/1.0\r\n\r\n", `GET ||/| 1.0 body=0/0 close`},
	{"http/1.0 keep-alive", "GET / HTTP/1.0\r\nHost: x\r\nConnection: Keep-Alive\r\n\r\n", `GET |x|/| 1.0 body=0/0`},
	{"absolute-form wins over Host", "GET http://A.example:81/p?q HTTP/1.1\r\nHost: b.example\r\n\r\n", `GET http|A.example:81|/p|?q 1.1 body=0/0`},
	{"absolute-form, empty Host", "GET HTTP://a HTTP/1.1\r\nHost:\r\n\r\n", `GET http|a|/| 1.1 body=0/0`},
	{"absolute-form, query only", "GET http://a?q HTTP/1.1\r\nHost: a\r\n\r\n", `GET http|a|/|?q 1.1 body=0/0`},
	{"absolute-form OPTIONS", "OPTIONS http://a HTTP/1.1\r\nHost: a\r\n\r\n", `OPTIONS http|a|*| 1.1 body=0/0`},
	{"OPTIONS *", "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", `OPTIONS |a|*| 1.1 body=0/0`},
	{"CONNECT", "CONNECT a.example:443 HTTP/1.1\r\nHost: b\r\n\r\n", `CONNECT |a.example:443|| 1.1 body=0/0`},
	{"IPv6", "GET / HTTP/1.1\r\nHost: [::1]:8080\r\n\r\n", `GET |[::1]:8080|/| 1.1 body=0/0`},
	{"encoded and odd paths are not the codec's to judge", "GET //%2e%2e/a|b{}?<> HTTP/1.1\r\nHost: x\r\n\r\n", `GET |x|//%2e%2e/a|b{}|?<> 1.1 body=0/0`},
	{"length", "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9223372036854775807\r\n\r\n", `POST |x|/| 1.1 body=1/9223372036854775807`},
	{"length 0", "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nExpect: 100-continue\r\n\r\n", `POST |x|/| 1.1 body=0/0`},
	{"chunked", "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding:  ChunkeD \r\nExpect: 100-Continue\r\n\r\n", `POST |x|/| 1.1 body=2/0 expect`},
	{"expectations in 1.0 are ignored", "POST / HTTP/1.0\r\nContent-Length: 1\r\nExpect: magic\r\n\r\n", `POST ||/| 1.0 body=1/1 close`},
	{"websocket", "GET / HTTP/1.1\r\nHost: x\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: k\r\n\r\n", `GET |x|/| 1.1 body=0/0 upgrade=websocket sec-websocket-key="k"`},
	{"upgrade that Connection does not name", "GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n\r\n", `GET |x|/| 1.1 body=0/0`},
	{"upgrade with a body", "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n", `POST |x|/| 1.1 body=1/1`},
	{"upgrade in 1.0", "GET / HTTP/1.0\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n", `GET ||/| 1.0 body=0/0 close`},
	{"h2c", "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n", `GET |x|/| 1.1 body=0/0`},
	{"h2c among others", "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket, H2C\r\n\r\n", `GET |x|/| 1.1 body=0/0`},
	{"hop-by-hop", "GET / HTTP/1.1\r\nHost: x\r\nKeep-Alive: 5\r\nProxy-Connection: close\r\nProxy-Authorization: Basic eA==\r\nTE: gzip, trailers\r\nTrailer: a\r\nA: 1\r\n\r\n", `GET |x|/| 1.1 body=0/0 te a="1"`},
	{"named by Connection", "GET / HTTP/1.1\r\nHost: x\r\nX-Secret: 1\r\nA: 1\r\nConnection: x-sEcret,,close\r\nConnection: \r\nx-secret: 2\r\n\r\n", `GET |x|/| 1.1 body=0/0 close a="1"`},
	{"underscores", "GET / HTTP/1.1\r\nHost: x\r\nmy_field: 1\r\n\r\n", `GET |x|/| 1.1 body=0/0 my_field="1"`},
}

func TestParseRequest(t *testing.T) {
	for _, c := range accepted {
		t.Run(c.name, func(t *testing.T) {
			h := new(proxy.Head)
			rest := "GET /smuggled HTTP/1.1\r\n\r\n"
			n, err := ParseRequest([]byte(c.raw+rest), h, nil)
			if err != nil || n != len(c.raw) {
				t.Fatalf("n = %d of %d, err = %v", n, len(c.raw), err)
			}
			if got := show(h); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

// get is a request of one more line.
func get(line string) string { return "GET / HTTP/1.1\r\nHost: x\r\n" + line + "\r\n\r\n" }

// refused are requests that end the connection.
var refused = []struct {
	name, raw string
	code      proxy.Code
}{
	{"CL+TE", get("Content-Length: 5\r\nTransfer-Encoding: chunked"), proxy.BadRequest},
	{"TE+CL", get("Transfer-Encoding: chunked\r\nContent-Length: 5"), proxy.BadRequest},
	{"CL+TE of another coding", get("Content-Length: 5\r\nTransfer-Encoding: identity"), proxy.BadRequest},
	{"two CL", get("Content-Length: 5\r\nContent-Length: 6"), proxy.BadRequest},
	{"two equal CL", get("Content-Length: 5\r\nContent-Length: 5"), proxy.BadRequest},
	{"CL list", get("Content-Length: 5, 5"), proxy.BadRequest},
	{"CL plus", get("Content-Length: +5"), proxy.BadRequest},
	{"CL minus", get("Content-Length: -5"), proxy.BadRequest},
	{"CL hex", get("Content-Length: 0x5"), proxy.BadRequest},
	{"CL underscore", get("Content-Length: 1_0"), proxy.BadRequest},
	{"CL empty", get("Content-Length:"), proxy.BadRequest},
	{"CL inner space", get("Content-Length: 1 0"), proxy.BadRequest},
	{"CL 2^63", get("Content-Length: 9223372036854775808"), proxy.BadRequest},
	{"CL 2^64+1", get("Content-Length: 18446744073709551617"), proxy.BadRequest},
	{"CL arabic digits", get("Content-Length: \xd9\xa5"), proxy.BadRequest},
	{"CL fullwidth digits", get("Content-Length: \xef\xbc\x95"), proxy.BadRequest},
	{"TE list", get("Transfer-Encoding: gzip, chunked"), proxy.UnsupportedTransferEncoding},
	{"TE list, chunked twice", get("Transfer-Encoding: chunked, chunked"), proxy.UnsupportedTransferEncoding},
	{"TE identity", get("Transfer-Encoding: identity"), proxy.UnsupportedTransferEncoding},
	{"TE xchunked", get("Transfer-Encoding: xchunked"), proxy.UnsupportedTransferEncoding},
	{"TE quoted", get("Transfer-Encoding: \"chunked\""), proxy.UnsupportedTransferEncoding},
	{"TE parameter", get("Transfer-Encoding: chunked;q=1"), proxy.UnsupportedTransferEncoding},
	{"TE empty", get("Transfer-Encoding:"), proxy.UnsupportedTransferEncoding},
	{"TE 0x85", get("Transfer-Encoding: chunked\x85"), proxy.UnsupportedTransferEncoding},
	{"TE 0x0b", get("Transfer-Encoding: \x0bchunked"), proxy.BadRequest},
	{"TE NUL", get("Transfer-Encoding: chunked\x00"), proxy.BadRequest},
	{"two TE", get("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"), proxy.BadRequest},
	{"two TE, identity", get("Transfer-Encoding: chunked\r\nTransfer-encoding: identity"), proxy.BadRequest},
	{"TE obs-fold", get("Transfer-Encoding:\r\n chunked"), proxy.BadRequest},
	{"TE then obs-fold", get("Transfer-Encoding: chunked\r\n X"), proxy.BadRequest},
	{"TE tab before colon", get("Transfer-Encoding\t: chunked"), proxy.BadRequest},
	{"TE space before colon", get("Transfer-Encoding : chunked"), proxy.BadRequest},
	{"TE leading space", get(" Transfer-Encoding: chunked"), proxy.BadRequest},
	{"TE with underscore", get("Transfer_Encoding: chunked"), proxy.BadRequest},
	{"CL with underscore", get("Content_Length: 5"), proxy.BadRequest},
	{"hop-by-hop name with underscore", get("Proxy_Authorization: Basic eA=="), proxy.BadRequest},
	{"XFCC with underscores", get("X_Forwarded_Client-Cert: URI=x"), proxy.BadRequest},
	{"TE in 1.0", "POST / HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", proxy.BadRequest},
	{"bare LF", "GET / HTTP/1.1\nHost: x\n\n", proxy.BadRequest},
	{"bare LF at a field", "GET / HTTP/1.1\r\nHost: x\nA: b\r\n\r\n", proxy.BadRequest},
	{"bare LF at the end", "GET / HTTP/1.1\r\nHost: x\r\n\n", proxy.BadRequest},
	{"bare CR in a value", get("A: b\rContent-Length: 5"), proxy.BadRequest},
	{"bare CR in the request line", "GET /\r HTTP/1.1\r\nHost: x\r\n\r\n", proxy.BadRequest},
	{"CR CR LF", get("A: b\r"), proxy.BadRequest},
	{"obs-fold with tab", get("A: b\r\n\tc"), proxy.BadRequest},
	{"obs-fold at the first field", "GET / HTTP/1.1\r\n Host: x\r\n\r\n", proxy.BadRequest},
	{"NUL in a value", get("A: b\x00c"), proxy.BadRequest},
	{"NUL in a name", get("A\x00: b"), proxy.BadRequest},
	{"DEL in a value", get("A: 0123456789\x7f"), proxy.BadRequest},
	{"vertical tab in a value", get("A: b\x0bc"), proxy.BadRequest},
	{"form feed in a value", get("A: 01234567\x0c9"), proxy.BadRequest},
	{"empty name", get(": b"), proxy.BadRequest},
	{"no colon", get("Abc"), proxy.BadRequest},
	{"name with space", get("A B: c"), proxy.BadRequest},
	{"name beyond ASCII", get("\xc3\x84: c"), proxy.BadRequest},
	{"name with quotes", get("\"a\": c"), proxy.BadRequest},
	{"no Host", "GET / HTTP/1.1\r\nA: b\r\n\r\n", proxy.BadRequest},
	{"no Host, absolute-form", "GET http://a/ HTTP/1.1\r\n\r\n", proxy.BadRequest},
	{"two Hosts", get("Host: x"), proxy.BadRequest},
	{"two Hosts, absolute-form", "GET http://a/ HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", proxy.BadRequest},
	{"two Hosts in 1.0", "GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n", proxy.BadRequest},
	{"empty Host", "GET / HTTP/1.1\r\nHost:\r\n\r\n", proxy.BadRequest},
	{"OPTIONS *, empty Host", "OPTIONS * HTTP/1.1\r\nHost:\r\n\r\n", proxy.BadRequest},
	{"Host list", "GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", proxy.BadRequest},
	{"Host with userinfo", "GET / HTTP/1.1\r\nHost: a@b\r\n\r\n", proxy.BadRequest},
	{"Host with path", "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", proxy.BadRequest},
	{"Host with escape", "GET / HTTP/1.1\r\nHost: a%2eb\r\n\r\n", proxy.BadRequest},
	{"Host, empty port", "GET / HTTP/1.1\r\nHost: a:\r\n\r\n", proxy.BadRequest},
	{"Host, port 0", "GET / HTTP/1.1\r\nHost: a:0\r\n\r\n", proxy.BadRequest},
	{"Host, port 080", "GET / HTTP/1.1\r\nHost: a:080\r\n\r\n", proxy.BadRequest},
	{"Host, port 65536", "GET / HTTP/1.1\r\nHost: a:65536\r\n\r\n", proxy.BadRequest},
	{"Host, port only", "GET / HTTP/1.1\r\nHost: :80\r\n\r\n", proxy.BadRequest},
	{"Host, two ports", "GET / HTTP/1.1\r\nHost: a:80:80\r\n\r\n", proxy.BadRequest},
	{"Host, bare IPv6", "GET / HTTP/1.1\r\nHost: ::1\r\n\r\n", proxy.BadRequest},
	{"Host, IPv6 zone", "GET / HTTP/1.1\r\nHost: [fe80::1%25eth0]\r\n\r\n", proxy.BadRequest},
	{"Host, open bracket", "GET / HTTP/1.1\r\nHost: [::1\r\n\r\n", proxy.BadRequest},
	{"Host, IPv4 in brackets", "GET / HTTP/1.1\r\nHost: [127.0.0.1]\r\n\r\n", proxy.BadRequest},
	{"Host, beyond a name's length", "GET / HTTP/1.1\r\nHost: " + strings.Repeat("a", 261) + "\r\n\r\n", proxy.BadRequest},
	{"absolute-form with userinfo", "GET http://u@a/ HTTP/1.1\r\nHost: a\r\n\r\n", proxy.BadRequest},
	{"absolute-form, bad Host", "GET http://a/ HTTP/1.1\r\nHost: b@c\r\n\r\n", proxy.BadRequest},
	{"absolute-form without host", "GET http:///p HTTP/1.1\r\nHost: a\r\n\r\n", proxy.BadRequest},
	{"https", "GET https://a/ HTTP/1.1\r\nHost: a\r\n\r\n", proxy.BadRequest},
	{"other scheme", "GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n", proxy.BadRequest},
	{"relative target", "GET a HTTP/1.1\r\nHost: a\r\n\r\n", proxy.BadRequest},
	{"authority-form GET", "GET a:80 HTTP/1.1\r\nHost: a\r\n\r\n", proxy.BadRequest},
	{"GET *", "GET * HTTP/1.1\r\nHost: a\r\n\r\n", proxy.BadRequest},
	{"CONNECT without port", "CONNECT a HTTP/1.1\r\nHost: a\r\n\r\n", proxy.BadRequest},
	{"CONNECT path", "CONNECT /a HTTP/1.1\r\nHost: a\r\n\r\n", proxy.BadRequest},
	{"CONNECT absolute-form", "CONNECT http://a:80/ HTTP/1.1\r\nHost: a\r\n\r\n", proxy.BadRequest},
	{"CONNECT with a body", "CONNECT a:80 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n", proxy.BadRequest},
	{"TRACE with a body", "TRACE / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", proxy.BadRequest},
	{"fragment", "GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", proxy.BadRequest},
	{"target beyond ASCII", "GET /\xc3\xa4 HTTP/1.1\r\nHost: a\r\n\r\n", proxy.BadRequest},
	{"target with tab", "GET /a\tb HTTP/1.1\r\nHost: a\r\n\r\n", proxy.BadRequest},
	{"target with NUL", "GET /a\x00b HTTP/1.1\r\nHost: a\r\n\r\n", proxy.BadRequest},
	{"target with space", "GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", proxy.BadRequest},
	{"two spaces", "GET  / HTTP/1.1\r\nHost: a\r\n\r\n", proxy.BadRequest},
	{"tab for space", "GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n", proxy.BadRequest},
	{"trailing space", "GET / HTTP/1.1 \r\nHost: a\r\n\r\n", proxy.BadRequest},
	{"leading space", " GET / HTTP/1.1\r\nHost: a\r\n\r\n", proxy.BadRequest},
	{"two leading empty lines", "\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", proxy.BadRequest},
	{"leading CR", "\rGET / HTTP/1.1\r\nHost: a\r\n\r\n", proxy.BadRequest},
	{"leading LF", "\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", proxy.BadRequest},
	{"bad method", "G(T / HTTP/1.1\r\nHost: a\r\n\r\n", proxy.BadRequest},
	{"endless method", strings.Repeat("A", 65), proxy.BadRequest},
	{"TLS", "\x16\x03\x01\x02\x00\x01", proxy.BadRequest},
	{"HTTP/0.9", "GET /\r\n\r\n", proxy.BadRequest},
	{"version in lower case", "GET / http/1.1\r\nHost: a\r\n\r\n", proxy.BadRequest},
	{"version without minor", "GET / HTTP/1\r\nHost: a\r\n\r\n", proxy.BadRequest},
	{"HTTP/1.2", "GET / HTTP/1.2\r\nHost: a\r\n\r\n", proxy.UnsupportedVersion},
	{"HTTP/3.0", "GET / HTTP/3.0\r\nHost: a\r\n\r\n", proxy.UnsupportedVersion},
	{"HTTP/2 preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", proxy.UnsupportedVersion},
	{"unknown expectation", get("Content-Length: 1\r\nExpect: 200-ok"), proxy.ExpectationFailed},
	{"two expectations", get("Content-Length: 1\r\nExpect: 100-continue\r\nExpect: 100-continue"), proxy.ExpectationFailed},
	{"Connection: Host", get("Connection: close, Host"), proxy.BadRequest},
	{"Connection: Content-Length", get("Content-Length: 1\r\nConnection: content-length"), proxy.BadRequest},
	{"Connection: Transfer-Encoding", get("Connection: Transfer-Encoding"), proxy.BadRequest},
	{"Connection: Authorization", get("Connection: authorization"), proxy.BadRequest},
	{"Connection: Cookie", get("Connection: Cookie"), proxy.BadRequest},
	{"Connection: XFCC", get("Connection: X-Forwarded-Client-Cert"), proxy.BadRequest},
	{"Connection: no token", get("Connection: \"close\""), proxy.BadRequest},
	{"Connection: too many", get("Connection: " + strings.Repeat("a,", 17)), proxy.BadRequest},
	{"Upgrade twice", get("Connection: upgrade\r\nUpgrade: websocket\r\nUpgrade: x"), proxy.BadRequest},
	{"Upgrade malformed", get("Connection: upgrade\r\nUpgrade: web socket"), proxy.BadRequest},
	{"100 fields and one", "GET / HTTP/1.1\r\nHost: x\r\n" + strings.Repeat("a: b\r\n", 100) + "\r\n", proxy.HeadTooLarge},
	{"head too large", get("A: " + strings.Repeat("a", 64<<10)), proxy.HeadTooLarge},
	{"head too large, no end", "GET / HTTP/1.1\r\nA: " + strings.Repeat("a", 64<<10), proxy.HeadTooLarge},
	{"target too long", "GET /" + strings.Repeat("a", 8<<10) + " HTTP/1.1\r\nHost: a\r\n\r\n", proxy.TargetTooLong},
	{"target too long, no end", "GET /" + strings.Repeat("a", 8<<10), proxy.TargetTooLong},
}

func TestParseRequestRefuses(t *testing.T) {
	for _, c := range refused {
		t.Run(c.name, func(t *testing.T) {
			h := new(proxy.Head)
			n, err := ParseRequest([]byte(c.raw), h, nil)
			if err == nil {
				t.Fatalf("accepted %d bytes: %s", n, show(h))
			}
			if code := codeOf(t, err); code != c.code || n != 0 {
				t.Errorf("code %v with n = %d, want %v and 0: %v", code, n, c.code, err)
			}
		})
	}
}

// Whatever the segmentation, the outcome is the same: accepted heads as whole, refused ones with the same code.
func TestRequestSegmentation(t *testing.T) {
	check := func(raw, want string, code proxy.Code) {
		t.Helper()
		if len(raw) > 4<<10 {
			return // covered by TestSlowSender
		}
		h := new(proxy.Head)
		for end := 0; end <= len(raw); end++ {
			n, err := ParseRequest([]byte(raw[:end]), h, nil)
			switch {
			case err != nil:
				if got := codeOf(t, err); code == proxy.OK || got != code {
					t.Errorf("%q at %d: %v, want code %v", raw, end, err, code)
				}
				return
			case n > 0:
				if got := show(h); code != proxy.OK || got != want || n != len(raw) {
					t.Errorf("%q at %d: n = %d, %s, want %s", raw, end, n, got, want)
				}
				return
			}
		}
		t.Errorf("%q: still incomplete", raw)
	}
	for _, c := range accepted {
		check(c.raw, c.want, proxy.OK)
	}
	for _, c := range refused {
		check(c.raw, "", c.code)
	}
}

// A head that comes byte by byte must not be searched from its start each time, and the memory of the search must not
// outlive the head.
func TestSlowSender(t *testing.T) {
	raw := []byte("GET / HTTP/1.1\r\nHost: x\r\nA: " + strings.Repeat("a", 60<<10) + "\r\n\r\n")
	h := new(proxy.Head)
	for end := range raw {
		if n, err := ParseRequest(raw[:end], h, nil); n != 0 || err != nil {
			t.Fatalf("at %d: n = %d, %v", end, n, err)
		}
		if end > 100 && h.Scanned() != end {
			t.Fatalf("searched %d of %d bytes", h.Scanned(), end)
		}
	}
	if n, err := ParseRequest(raw, h, nil); n != len(raw) || err != nil || h.Scanned() != 0 {
		t.Fatalf("n = %d, %v, %d searched", n, err, h.Scanned())
	}
	if n, err := ParseRequest([]byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"), h, nil); n == 0 || err != nil {
		t.Fatalf("next head: n = %d, %v", n, err)
	}
}

func TestLimits(t *testing.T) {
	lim := &Limits{HeadBytes: 64, Fields: 2, TargetBytes: 8}
	for raw, code := range map[string]proxy.Code{
		"GET /2345678 HTTP/1.1\r\nHost: x\r\nA: b\r\n\r\n":                        proxy.OK,
		"GET /23456789 HTTP/1.1\r\nHost: x\r\n\r\n":                               proxy.TargetTooLong,
		"GET / HTTP/1.1\r\nHost: x\r\nA: b\r\nA: b\r\n\r\n":                       proxy.HeadTooLarge,
		"GET / HTTP/1.1\r\nHost: x\r\nA: " + strings.Repeat("a", 32) + "\r\n\r\n": proxy.OK, // 64 bytes
		"GET / HTTP/1.1\r\nHost: x\r\nA: " + strings.Repeat("a", 33) + "\r\n\r\n": proxy.HeadTooLarge,
	} {
		n, err := ParseRequest([]byte(raw), new(proxy.Head), lim)
		if code == proxy.OK {
			if n != len(raw) || err != nil {
				t.Errorf("%q (%d bytes): n = %d, %v", raw, len(raw), n, err)
			}
		} else if err == nil || codeOf(t, err) != code {
			t.Errorf("%q: %v, want code %v", raw, err, code)
		}
	}
}

// The head shares no memory with the buffer it was read from.
func TestHeadOwnsItsBytes(t *testing.T) {
	buf := []byte(accepted[0].raw)
	h := new(proxy.Head)
	if _, err := ParseRequest(buf, h, nil); err != nil {
		t.Fatal(err)
	}
	clear(buf)
	if got := show(h); got != accepted[0].want {
		t.Errorf("after the buffer was cleared: %s", got)
	}
}
