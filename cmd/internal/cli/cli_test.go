package cli

import (
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestStateDir(t *testing.T) {
	t.Setenv("HOME", "/home/me")
	for _, tc := range []struct{ xdg, given, td, want string }{
		{"", "", "cluster.local", "/home/me/.local/state/signet/cluster.local"},
		{"/xdg", "", "shop.example", "/xdg/signet/shop.example"},
		{"relative", "", "shop.example", "/home/me/.local/state/signet/shop.example"},
		{"/xdg", "/own", "shop.example", "/own"},
		{"/xdg", "/own", "..", "/own"}, // a name by the letter of SPIFFE
		{"/xdg", "", "..", ""},
		{"/xdg", "", "../x", ""},
		{"/xdg", "/own", "a/b", ""},
		{"/xdg", "/own", "Upper", ""},
		{"/xdg", "/own", "", ""},
	} {
		t.Setenv("XDG_STATE_HOME", tc.xdg)
		got, err := StateDir(tc.given, tc.td)
		if got != tc.want || (err == nil) != (tc.want != "") {
			t.Errorf("%+v: got %q, %v", tc, got, err)
		}
	}
	if got, err := StateDir("own", "x"); err != nil || !filepath.IsAbs(got) {
		t.Errorf("a relative path stays one: %q, %v", got, err)
	}
}

func TestCheckAddress(t *testing.T) {
	for _, good := range []string{"127.0.0.1:0", "0.0.0.0:15012", "[::1]:1", ":0", "localhost:15012", "a.example:1"} {
		if err := CheckAddress("--a", good); err != nil {
			t.Errorf("%q: %v", good, err)
		}
	}
	for _, bad := range []string{"", "x", "127.0.0.1", "127.0.0.1:", "127.0.0.1:65536", "127.0.0.1:http", "::1:1"} {
		if err := CheckAddress("--a", bad); err == nil || !strings.Contains(err.Error(), "want ADDRESS:PORT") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestCheckTTL(t *testing.T) {
	for d, ok := range map[time.Duration]bool{0: true, 5 * time.Second: true, 24 * time.Hour: true, 90 * 24 * time.Hour: true,
		-time.Hour: false, time.Nanosecond: false, 4 * time.Second: false, 90*24*time.Hour + 1: false} {
		if err := CheckTTL(d); (err == nil) != ok {
			t.Errorf("%s: %v", d, err)
		}
	}
}
