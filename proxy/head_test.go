package proxy

import (
	"strings"
	"testing"
)

// Strings of a head stay what they are while its arena grows, and a copy may be written to without touching them.
func TestHeadArena(t *testing.T) {
	var h Head
	first := h.Intern([]byte("first"))
	b := h.Copy([]byte("SECOND"))
	for i := range 1000 {
		if s := h.Intern([]byte("more")); s != "more" {
			t.Fatalf("string %d is %q", i, s)
		}
	}
	b[0] = 's'
	b = append(b, '!')
	if first != "first" || string(b) != "sECOND!" || h.Intern([]byte("last")) != "last" {
		t.Errorf("first %q, copy %q", first, b)
	}
}

func TestHeadReset(t *testing.T) {
	var h Head
	h.SetScanned(7)
	h.Add("a", h.Intern([]byte(strings.Repeat("x", keptArena/2))))
	h.Reset()
	if h.Scanned() != 0 || len(h.Fields) != 0 || cap(h.arena) == 0 {
		t.Errorf("scanned %d, %d fields, %d bytes kept", h.Scanned(), len(h.Fields), cap(h.arena))
	}
	h.Intern([]byte(strings.Repeat("x", 4*keptArena)))
	if h.Reset(); cap(h.arena) > keptArena {
		t.Errorf("%d bytes kept after a large head, want at most %d", cap(h.arena), keptArena)
	}
}

func TestHeadFields(t *testing.T) {
	var h Head
	h.Add("a", "1")
	h.Add("b", "2")
	h.Add("a", "3")
	v, next, ok := h.HeaderValue("a", 1)
	if v != "3" || next != 3 || !ok || h.Get("a") != "1" || h.Get("c") != "" {
		t.Errorf("a from 1: %q, %d, %v", v, next, ok)
	}
	h.Set("a", "4")
	if _, _, more := h.HeaderValue("a", 2); more || len(h.Fields) != 2 || h.Get("a") != "4" || h.Get("b") != "2" {
		t.Errorf("after Set: %v", h.Fields)
	}
}
