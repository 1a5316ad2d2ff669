package node

import (
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// fileResident is RssFile of this process in kB.
func fileResident(t *testing.T) int {
	t.Helper()
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(b), "RssFile:")
	if !ok {
		t.Fatal("no RssFile")
	}
	n, err := strconv.Atoi(strings.Fields(rest)[0])
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// The pages go, and come back when they are used: code, constants and what was computed from them are as before.
func TestForgetStart(t *testing.T) {
	before := fileResident(t)
	text := fmt.Sprintf("%08.3f %q", 3.25, "a\n")
	for range 3 {
		forgetStart()
		if got := fmt.Sprintf("%08.3f %q", 3.25, "a\n"); got != text {
			t.Errorf("%q, before %q", got, text)
		}
		var out map[string][]int
		if err := json.Unmarshal([]byte(`{"a":[1,2]}`), &out); err != nil || len(out["a"]) != 2 || !regexp.MustCompile(`^\d+$`).MatchString("42") {
			t.Error(out, err)
		}
	}
	forgetStart()
	if after := fileResident(t); after >= before {
		t.Errorf("RssFile %d kB, before %d kB", after, before)
	}
}

func TestParseMapping(t *testing.T) {
	for line, want := range map[string]bool{
		"00400000-01200000 r-xp 00000000 fe:01 42                         /bin/x":     true,
		"01200000-02200000 r--p 00e00000 fe:01 42                         /bin/x":     true,
		"02200000-02300000 rw-p 01e00000 fe:01 42                         /bin/x":     false,
		"02200000-02300000 r--s 01e00000 fe:01 42                         /bin/x":     false,
		"7f0000000000-7f0000001000 r-xp 00000000 fe:01 43                 /lib/other": false,
		"7f0000000000-7f0000001000 rw-p 00000000 00:00 0 ":                            false,
		"00400000-01200000 r-xp 00000000 fe:01 42                 /bin/x (deleted)":   false,
	} {
		if m, ok := parseMapping(line, "/bin/x"); !ok || m.clean != want || m.from >= m.to {
			t.Errorf("%s: %+v, %v", line, m, ok)
		}
	}
	for _, line := range []string{"Rss:                 100 kB", "VmFlags: rd ex mr mw me sd", ""} {
		if m, ok := parseMapping(line, "/bin/x"); ok {
			t.Errorf("%s: %+v", line, m)
		}
	}
}
