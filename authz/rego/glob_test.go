package rego

import (
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/gobwas/glob"
)

// TestSimpleGlob compares the matchers of simple patterns with the library's.
func TestSimpleGlob(t *testing.T) {
	simple := 0
	for _, pattern := range []string{"", "/", "/a", "/a/*", "/a/**", "*", "**", "a*", "a**", "ü*", "***", "a***", "*a", "a*b", "a?", "[a]*", "a\\*", "{a,b}", "a,*", "!a*", "a.*", "-*"} {
		for _, delimiters := range [][]rune{nil, {'/'}, {'.'}, {'/', '.'}, {'ü'}, {'-'}} {
			match := simpleGlob(pattern, delimiters)
			if match == nil {
				continue
			}
			simple++
			want, err := glob.Compile(pattern, delimiters...)
			if err != nil {
				t.Fatalf("%q: %v", pattern, err)
			}
			d := dice{rand.New(rand.NewPCG(7, 8))}
			for range 2000 {
				var s strings.Builder
				for range d.IntN(6) {
					s.WriteString(d.of("a", "/", ".", "ü", "\xff", "\xc3", "*", "b", "-", ",", "!", "/a/", "\n", "\x00"))
				}
				if got := match(s.String()); got != want.Match(s.String()) {
					t.Fatalf("%q with %q of %q: %v", pattern, string(delimiters), s.String(), got)
				}
			}
		}
	}
	if simple < 40 {
		t.Errorf("only %d patterns are simple", simple)
	}
}
