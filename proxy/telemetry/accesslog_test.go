package telemetry

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"
)

func TestTextLines(t *testing.T) {
	for name, rec := range records() {
		t.Run(name, func(t *testing.T) {
			golden(t, name+".text", appendText(nil, "shop.cart", rec))
		})
	}
}

func TestJSONLines(t *testing.T) {
	for name, rec := range records() {
		t.Run(name, func(t *testing.T) {
			line := appendJSON(nil, "shop.cart", rec)
			golden(t, name+".json", line)
			var members map[string]any
			if err := json.Unmarshal(line, &members); err != nil {
				t.Fatalf("no JSON: %v\n%s", err, line)
			}
			want := []string{"authority", "bytes_received", "bytes_sent", "connection_termination_details", "downstream_local_address",
				"downstream_remote_address", "duration", "method", "path", "protocol", "request_id", "requested_server_name",
				"response_code", "response_code_details", "response_flags", "route_name", "start_time", "upstream_cluster",
				"upstream_host", "upstream_local_address", "upstream_service_time", "upstream_transport_failure_reason",
				"user_agent", "workload", "x_forwarded_for"}
			if rec.Audited != "" {
				want = slices.Insert(want, 0, "audit")
			}
			if got := slices.Sorted(maps.Keys(members)); !slices.Equal(got, want) {
				t.Errorf("members %q, want %q", got, want)
			}
		})
	}
}

// A caller decides what is in these values; it must not decide how many lines or words there are.
func TestLinesCanNotBeForged(t *testing.T) {
	plain := string(appendText(nil, "shop.cart", exchange()))
	for _, evil := range []string{"\n", "\r\n", "\" 200", " - ", "\x1b[2J", "\x00", "\\", "\\\"", "\xff\xfe", "\u2028", strings.Repeat("\n", 9000)} {
		rec := exchange()
		rec.Method, rec.Path, rec.Query, rec.UserAgent, rec.RequestID = evil, evil, evil, evil, evil
		rec.Authority, rec.SNI, rec.ForwardedFor, rec.RouteName, rec.TransportFailure = evil, evil, evil, evil, evil
		text := string(appendText(nil, "shop.cart", rec))
		if strings.Count(text, "\n") != 1 || !strings.HasSuffix(text, "\n") {
			t.Errorf("%q makes %d lines", evil[:1], strings.Count(text, "\n"))
		}
		if got, want := quotes(text), quotes(plain); got != want {
			t.Errorf("%q makes %d quotes that are not escaped, want %d: %s", evil[:1], got, want, text)
		}
		for _, c := range []byte(strings.TrimSuffix(text, "\n")) {
			if c < ' ' || c > '~' {
				t.Errorf("%q leaves byte %#x in the line", evil[:1], c)
			}
		}
		if len(text) > 64<<10 {
			t.Errorf("%q makes a line of %d bytes", evil[:1], len(text))
		}
		if line := appendJSON(nil, "shop.cart", rec); strings.Count(string(line), "\n") != 1 || !json.Valid(line) {
			t.Errorf("%q breaks the JSON line: %s", evil[:1], line)
		}
	}
}

// quotes counts the quotes that no backslash escapes.
func quotes(s string) (n int) {
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case '"':
			n++
		}
	}
	return n
}
