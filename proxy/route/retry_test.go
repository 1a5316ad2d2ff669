package route

import (
	"slices"
	"testing"
	"time"
)

func TestParseRetryOn(t *testing.T) {
	on, codes, err := ParseRetryOn("5xx, gateway-error,reset,503,409,unavailable")
	if err != nil || on != On5xx|OnGatewayError|OnReset|OnRetriableStatusCodes|OnUnavailable || !slices.Equal(codes, []int{503, 409}) {
		t.Errorf("got %b %v %v", on, codes, err)
	}
	for _, bad := range []string{"5XX", "sometimes", "99", "600", "5xx reset"} {
		if _, _, err := ParseRetryOn(bad); err == nil {
			t.Errorf("%q was not refused", bad)
		}
	}
}

func TestJudge(t *testing.T) {
	def := DefaultRetry()
	asked := func(s string) Retry {
		on, codes, err := ParseRetryOn(s)
		if err != nil {
			t.Fatal(err)
		}
		return Retry{Attempts: 2, On: on, StatusCodes: codes, Explicit: true}
	}
	implicit := asked("5xx,reset")
	implicit.Explicit = false
	for _, c := range []struct {
		name      string
		r         Retry
		o         Outcome
		get, post bool
	}{
		{"default: connect failure", def, Outcome{ConnectFailure: true}, true, true},
		{"default: refused", def, Outcome{Refused: true}, true, true},
		{"default: unsent", def, Outcome{Reset: true, Unsent: true}, true, true},
		{"default: stale", def, Outcome{Reset: true, Stale: true}, true, false},
		{"default: reset", def, Outcome{Reset: true}, false, false},
		{"default: per-try timeout", def, Outcome{Timeout: true}, false, false},
		{"default: 503", def, Outcome{Status: 503}, false, false},
		{"default: grpc unavailable", def, Outcome{Status: 200, GRPCStatus: "14"}, true, false},
		{"default: grpc internal", def, Outcome{Status: 200, GRPCStatus: "13"}, false, false},
		{"default: success", def, Outcome{Status: 200}, false, false},
		{"default: nothing known", def, Outcome{}, false, false},
		{"off", Retry{}, Outcome{ConnectFailure: true}, false, false},
		{"off with conditions", Retry{On: DefaultOn}, Outcome{Reset: true, Stale: true}, false, false},
		{"asked 5xx: 500", asked("5xx"), Outcome{Status: 500}, true, true},
		{"asked 5xx: 499", asked("5xx"), Outcome{Status: 499}, false, false},
		{"asked 5xx: reset", asked("5xx"), Outcome{Reset: true}, true, true},
		{"asked 5xx: timeout", asked("5xx"), Outcome{Timeout: true}, true, true},
		{"asked 5xx: stale", asked("5xx"), Outcome{Reset: true, Stale: true}, true, true},
		{"asked gateway-error: 500", asked("gateway-error"), Outcome{Status: 500}, false, false},
		{"asked gateway-error: 502", asked("gateway-error"), Outcome{Status: 502}, true, true},
		{"asked 503: 503", asked("503"), Outcome{Status: 503}, true, true},
		{"asked 503: 502", asked("503"), Outcome{Status: 502}, false, false},
		{"asked 503: connect failure", asked("503"), Outcome{ConnectFailure: true}, false, false},
		{"asked 503: stale", asked("503"), Outcome{Reset: true, Stale: true}, true, false},
		{"asked connect-failure: reset", asked("connect-failure"), Outcome{Reset: true}, false, false},
		{"asked retriable-4xx", asked("retriable-4xx"), Outcome{Status: 409}, true, true},
		{"not asked: 503", implicit, Outcome{Status: 503}, true, false},
		{"not asked: reset", implicit, Outcome{Reset: true}, true, false},
		{"not asked: timeout", implicit, Outcome{Timeout: true}, true, false},
	} {
		for _, m := range []struct {
			method string
			want   bool
		}{{"GET", c.get}, {"POST", c.post}} {
			o := c.o
			o.Idempotent = IdempotentMethod(m.method)
			if got := c.r.Judge(o); got != m.want {
				t.Errorf("%s, %s: retried = %v, want %v", c.name, m.method, got, m.want)
			}
		}
	}
}

func TestDelay(t *testing.T) {
	r := DefaultRetry()
	for made, most := range []time.Duration{25, 75, 175, 250, 250, 250} {
		var got time.Duration
		for random := range uint64(1000) {
			got = max(got, r.Delay(made, random*1_000_003))
		}
		if most *= time.Millisecond; got >= most || got < most*9/10 {
			t.Errorf("delay before retry %d went up to %v, want just below %v", made+1, got, most)
		}
	}
	if Backoff(nil, 0) != 0 || r.Delay(1000, 1) < 0 {
		t.Error("delays at the edges")
	}
}
