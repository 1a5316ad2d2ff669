package telemetry

import (
	"regexp"
	"testing"

	"github.com/signet-mesh/signet/proxy"
)

func TestCallersRequestIDIsKept(t *testing.T) {
	h := &proxy.Head{}
	h.Add("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	h.Add("x-request-id", "mine")
	h.Add("b3", "0")
	if got := EnsureRequestID(h); got != "mine" {
		t.Errorf("%q", got)
	}
	if len(h.Fields) != 3 || h.Fields[0].Name != "traceparent" || h.Fields[2].Value != "0" {
		t.Errorf("%v", h.Fields)
	}
}

func TestNewRequestIDs(t *testing.T) {
	v4 := regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`)
	seen := map[string]bool{}
	for range 1000 {
		h := &proxy.Head{}
		h.Add("x-request-id", "") // an empty one is none
		id := EnsureRequestID(h)
		if !v4.MatchString(id) || seen[id] {
			t.Fatalf("%q is no new UUID", id)
		}
		seen[id] = true
		if len(h.Fields) != 1 || h.Get("x-request-id") != id {
			t.Fatalf("%v", h.Fields)
		}
	}
	if got := string(appendUUID(nil, 0, 0)); got != "00000000-0000-4000-8000-000000000000" {
		t.Error(got)
	}
	if got := string(appendUUID(nil, 0x0123456789abcdef, ^uint64(0))); got != "01234567-89ab-4def-bfff-ffffffffffff" {
		t.Error(got)
	}
}

func TestRequestIDDoesNotAllocate(t *testing.T) {
	h := &proxy.Head{}
	if n := testing.AllocsPerRun(200, func() {
		h.Reset()
		EnsureRequestID(h)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
