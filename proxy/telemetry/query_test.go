package telemetry

import (
	"strings"
	"testing"
)

func TestTokensAreNotLogged(t *testing.T) {
	const token = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJhIn0.c2ln"
	for query, want := range map[string]string{
		"":                        "",
		"?a=1&b":                  "?a=1&b",
		"?t=" + token:             "?t=***",
		"?a=1&t=" + token + "&b":  "?a=1&t=***&b",
		"?access_token=opaque&a":  "?access_token=***&a",
		"?a&access_token=" + "x":  "?a&access_token=***",
		"?key=eyes&other=ey":      "?key=eyes&other=ey",
		"?t=" + token + "&access": "?t=***&access",
	} {
		if got := withoutTokens(query); got != want {
			t.Errorf("%q is shown as %q, want %q", query, got, want)
		}
	}
	rec := exchange()
	rec.Query = "?t=" + token
	for _, line := range []string{string(appendText(nil, "shop.cart", rec)), string(appendJSON(nil, "shop.cart", rec))} {
		if strings.Contains(line, token) || !strings.Contains(line, "?t=***") {
			t.Errorf("the log shows a token: %s", line)
		}
	}
	if n := testing.AllocsPerRun(100, func() { withoutTokens("?full=yes&key=1") }); n != 0 {
		t.Errorf("a query without a token allocates %v times", n)
	}
}
