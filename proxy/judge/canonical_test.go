package judge

import (
	"math/rand/v2"
	"net/url"
	"path"
	"strings"
	"testing"

	"github.com/signet-mesh/signet/mesh"
	"github.com/signet-mesh/signet/proxy"
)

const (
	none   = mesh.NoNormalization
	base   = mesh.Base
	merged = mesh.MergeSlashes
	decode = mesh.DecodeAndMergeSlashes
)

func TestCanonical(t *testing.T) {
	// What NONE gives is always the path itself. full has the decoded readings that DECODE_AND_MERGE_SLASHES does not give.
	full := map[string]string{
		"/a%20b%3A%3b":        "/a b:;",
		"/%2561dmin":          "/%61dmin",
		"/a%252Fb":            "/a%2Fb",
		"/%252e%252e/admin":   "/%2e%2e/admin",
		"/%25%32%46":          "/%2F",
		"/%c0%ae%c0%ae/admin": "/\xc0\xae\xc0\xae/admin",
		"/%c0%af":             "/\xc0\xaf",
		"/%e2%82%ac":          "/€",
		"/a%23b%3Fc":          "/a#b?c",
		"/v1/job%3Acancel":    "/v1/job:cancel",
		"/caf%c3%A9":          "/caf\xc3\xa9",
	}
	for _, c := range []struct{ in, base, merge, decode string }{
		{"/", "/", "/", "/"},
		{"/a/b.c/~d", "/a/b.c/~d", "/a/b.c/~d", "/a/b.c/~d"},
		{"/.well-known/x", "/.well-known/x", "/.well-known/x", "/.well-known/x"},
		{"/a/.../b", "/a/.../b", "/a/.../b", "/a/.../b"},
		{"/Admin/", "/Admin/", "/Admin/", "/Admin/"},

		// unreserved characters
		{"/%61dmin", "/admin", "/admin", "/admin"},
		{"/%7Euser/%2D%5f%2e%41%39", "/~user/-_.A9", "/~user/-_.A9", "/~user/-_.A9"},
		{"/a%20b%3A%3b", "/a%20b%3A%3b", "/a%20b%3A%3b", "/a%20b%3A%3b"},

		// dot segments
		{"/x/../admin", "/admin", "/admin", "/admin"},
		{"/./admin", "/admin", "/admin", "/admin"},
		{"/%2e%2E/admin", "/admin", "/admin", "/admin"},
		{"/x/%2e./admin", "/admin", "/admin", "/admin"},
		{"/x/.%2e/admin", "/admin", "/admin", "/admin"},
		{"/a/b/..", "/a/", "/a/", "/a/"},
		{"/a/b/.", "/a/b/", "/a/b/", "/a/b/"},
		{"/..", "/", "/", "/"},
		{"/../../../a", "/a", "/a", "/a"},
		{"/a/b/../../../../c", "/c", "/c", "/c"},

		// slashes; dot segments are resolved before slashes are merged, as Envoy does it
		{"//admin", "//admin", "/admin", "/admin"},
		{"/a///b//", "/a///b//", "/a/b/", "/a/b/"},
		{"/a//..b/./c//d", "/a//..b/c//d", "/a/..b/c/d", "/a/..b/c/d"},
		{"//", "//", "/", "/"},

		// backslashes
		{`/x\..\admin`, "/admin", "/admin", "/admin"},
		{`/\admin`, "//admin", "/admin", "/admin"},
		{`/a\b`, "/a/b", "/a/b", "/a/b"},

		// encoded slashes keep their case where they are kept
		{"/a%2Fb", "/a%2Fb", "/a%2Fb", "/a/b"},
		{"/a%2fb", "/a%2fb", "/a%2fb", "/a/b"},
		{"/a%5Cb%5cc", "/a%5Cb%5cc", "/a%5Cb%5cc", "/a/b/c"},
		{"/x%2F..%2Fadmin", "/x%2F..%2Fadmin", "/x%2F..%2Fadmin", "/admin"},
		{"/%2Fadmin", "/%2Fadmin", "/%2Fadmin", "/admin"},
		{"/x/..%2Fadmin", "/x/..%2Fadmin", "/x/..%2Fadmin", "/admin"},
		{"/x%2F%2e%2e/a//b", "/x%2F../a//b", "/x%2F../a/b", "/a/b"},

		// nothing is decoded twice
		{"/%2561dmin", "/%2561dmin", "/%2561dmin", "/%2561dmin"},
		{"/a%252Fb", "/a%252Fb", "/a%252Fb", "/a%252Fb"},
		{"/%252e%252e/admin", "/%252e%252e/admin", "/%252e%252e/admin", "/%252e%252e/admin"},
		{"/%25%32%46", "/%252F", "/%252F", "/%252F"},

		// parameters are part of their segment; overlong UTF-8 is not a dot or a slash
		{"/x/..;/admin", "/x/..;/admin", "/x/..;/admin", "/x/..;/admin"},
		{"/a;b=c/../d", "/d", "/d", "/d"},
		{"/%c0%ae%c0%ae/admin", "/%c0%ae%c0%ae/admin", "/%c0%ae%c0%ae/admin", "/%c0%ae%c0%ae/admin"},
		{"/%c0%af", "/%c0%af", "/%c0%af", "/%c0%af"},
		{"/%e2%82%ac", "/%e2%82%ac", "/%e2%82%ac", "/%e2%82%ac"},
		{"/a%23b%3Fc", "/a%23b%3Fc", "/a%23b%3Fc", "/a%23b%3Fc"},
		{"/v1/job%3Acancel", "/v1/job%3Acancel", "/v1/job%3Acancel", "/v1/job%3Acancel"},
		{"/caf%c3%A9", "/caf%c3%A9", "/caf%c3%A9", "/caf%c3%A9"},
	} {
		t.Run(c.in, func(t *testing.T) {
			wanted := c.decode
			if w, ok := full[c.in]; ok {
				wanted = w
			}
			var s Scratch
			for mode, want := range map[mesh.Normalization]string{none: c.in, base: c.base, merged: c.merge, decode: c.decode} {
				got, decoded, failure := Canonical(c.in, mode, &s)
				if failure != nil || got != want || decoded != wanted {
					t.Errorf("mode %d: %q, decoded %q, %v; want %q, %q", mode, got, decoded, failure, want, wanted)
				}
			}
		})
	}
}

// Where merging slashes before and after resolving ".." leads to two places, none is guessed. What is forwarded counts: a
// plain // is resolved before anybody else sees it, save in mode NONE.
func TestCanonicalAmbiguous(t *testing.T) {
	for _, c := range []struct{ in, none, base, merge, decode string }{
		{"/x//../admin", "", "/x/admin", "/x/admin", "/x/admin"},
		{"/x%2F%2F..%2Fadmin", "", "", "", "/x/admin"},
		{"/x/%2F../admin", "", "", "", "/x/admin"},
		{"/x%5C%5c..%5Cadmin", "", "", "", "/x/admin"},
		{"/a%2F%2F%2F..%2F..%2Fadmin", "", "", "", "/a/admin"},
		{"/public/%2F..%2Fsecret", "", "", "", "/public/secret"},
		{"/a//b%2F..%2Fc", "/a//b%2F..%2Fc", "/a//b%2F..%2Fc", "/a/b%2F..%2Fc", "/a/c"},
		{"/a//..%2Fb", "", "", "/a/..%2Fb", "/a/b"},
	} {
		var s Scratch
		for mode, want := range map[mesh.Normalization]string{none: c.none, base: c.base, merged: c.merge, decode: c.decode} {
			got, _, failure := Canonical(c.in, mode, &s)
			if want == "" {
				if failure == nil || failure.Code != proxy.BadPath || failure.Detail != DetailAmbiguous || got != "" {
					t.Errorf("%s in mode %d: %q, %+v; want %s", c.in, mode, got, failure, DetailAmbiguous)
				}
			} else if failure != nil || got != want {
				t.Errorf("%s in mode %d: %q, %+v; want %q", c.in, mode, got, failure, want)
			}
		}
	}
}

// What is decoded is what a program gets by the standard library from what is forwarded.
func TestDecodedAgainstClean(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 9))
	pieces := []string{"a", "..", ".", "/", "/", "%2F", "%2f", "%2E", "%5C", "%25", "%3a", "%C3%a9", `\`}
	ambiguous, differs := 0, 0
	for range 40000 {
		in := "/"
		for range 1 + r.IntN(8) {
			in += pieces[r.IntN(len(pieces))]
		}
		mode := mesh.Normalization(r.IntN(4))
		var s Scratch
		got, decoded, failure := Canonical(in, mode, &s)
		if failure != nil {
			ambiguous++
			continue
		}
		once, err := url.PathUnescape(got)
		if err != nil {
			t.Fatalf("%q in mode %d gave %q: %v", in, mode, got, err)
		}
		want := path.Clean(strings.ReplaceAll(once, `\`, "/"))
		if strings.TrimSuffix(decoded, "/") != strings.TrimSuffix(want, "/") {
			t.Fatalf("%q in mode %d gave %q, decoded %q; a program reads %q", in, mode, got, decoded, want)
		}
		if got != decoded {
			differs++
		}
	}
	if ambiguous < 100 || ambiguous > 20000 || differs < 5000 {
		t.Errorf("%d ambiguous, %d with two readings", ambiguous, differs)
	}
}

func TestCanonicalRefuses(t *testing.T) {
	for _, c := range []struct{ in, detail string }{
		{"", DetailRelative},
		{"admin", DetailRelative},
		{"*", DetailRelative},
		{`\admin`, DetailRelative},
		{"%2Fadmin", DetailRelative},
		{"http://h/x", DetailRelative},
		{"/a\x00b", DetailNUL},
		{"/a%00b", DetailNUL},
		{"/xyz/.%00../abc", DetailNUL},
		{"/a\tb", DetailControl},
		{"/a\r\nb", DetailControl},
		{"/a\x7f", DetailControl},
		{"/a%0d%0ab", DetailControl},
		{"/a%1F", DetailControl},
		{"/a%7f", DetailControl},
		{"/%", DetailPercent},
		{"/%4", DetailPercent},
		{"/%zz", DetailPercent},
		{"/%4g/", DetailPercent},
		{"/%%30%30", DetailPercent},
		{"/%2%46", DetailPercent},
		{"/%u002f", DetailPercent},
		{"/a#b", DetailFragment},
		{"/a?b", DetailQuery},
		{"/a b", DetailRaw},
		{"/caf\xc3\xa9", DetailRaw},
		{"/\xc0\xae", DetailRaw},
	} {
		t.Run(c.in, func(t *testing.T) {
			var s Scratch
			for mode := merged; mode <= decode; mode++ {
				got, decoded, failure := Canonical(c.in, mode, &s)
				if failure == nil || failure.Code != proxy.BadPath || failure.Detail != c.detail || got != "" || decoded != "" {
					t.Errorf("mode %d: %q, %q, %+v; want BadPath %s", mode, got, decoded, failure, c.detail)
				}
			}
		})
	}
	if a := proxy.BadPath.Answer(); a.Status != 400 {
		t.Errorf("BadPath answers %d", a.Status)
	}
}

// path.Clean of the standard library is the oracle of MERGE_SLASHES for paths without escapes whose ".." follows no
// empty segment; it drops the trailing slash that a URL keeps.
func TestCanonicalAgainstClean(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	pieces := []string{"a", "b.c", ".", "..", "...", ".d"}
	var s Scratch
	for range 20000 {
		in := ""
		for range 1 + r.IntN(6) {
			in += "/" + pieces[r.IntN(len(pieces))]
		}
		if r.IntN(3) == 0 {
			in += "/"
		}
		want := path.Clean(in)
		last := in[strings.LastIndexByte(in, '/')+1:]
		if want != "/" && (last == "" || last == "." || last == "..") {
			want += "/"
		}
		if got, _, failure := Canonical(in, merged, &s); failure != nil || got != want {
			t.Fatalf("%q: %q, %v; want %q", in, got, failure, want)
		}
	}
}

func TestCanonicalAllocates(t *testing.T) {
	var s Scratch
	for _, c := range []struct {
		in   string
		mode mesh.Normalization
	}{
		{"/api/v1/products/17/reviews", merged},
		{"/.well-known/a.b", base},
		{"/a%2Fb", merged},
		{"/x/../%61dmin//b", merged},
		{"/x%2F..%2Fadmin", decode},
		{"/x%2F%2Fadmin", merged},
		{"/x%2F%2F..%2Fadmin", merged},
		{"/%zz", merged},
		{"", merged},
	} {
		if n := testing.AllocsPerRun(100, func() { Canonical(c.in, c.mode, &s) }); n != 0 {
			t.Errorf("%q: %v allocations", c.in, n)
		}
	}
}

func FuzzCanonical(f *testing.F) {
	for _, s := range []string{"/", "/a/b", "//admin", "/%61dmin", "/x/../admin", "/./admin", "/x%2F..%2Fadmin", `/a\..\b`,
		"/%2e%2E%5c%2f", "/..;/a", "/%c0%ae", "/%252e", "/%00", "/%", "a", "/a#b", "/a//../..//b/.",
		"/x%2F%2F..%2Fadmin", "/x/%2F../admin", "/caf%C3%a9", "/%2525"} {
		f.Add(s, uint8(0))
	}
	f.Fuzz(func(t *testing.T, in string, m uint8) {
		mode := mesh.Normalization(m % 4)
		var s, again Scratch
		got, decoded, failure := Canonical(in, mode, &s)
		if failure != nil {
			if failure.Detail == "" || failure.Code != proxy.BadPath {
				t.Fatalf("%q: failure %+v", in, failure)
			}
			return
		}
		if mode == none && got != in {
			t.Fatalf("%q: NONE gave %q", in, got)
		}
		twice, d, failure := Canonical(got, mode, &again)
		if failure != nil || twice != got || d != decoded {
			t.Fatalf("%q in mode %d gave %q, and that %q, decoded %q and %q, %v", in, mode, got, twice, decoded, d, failure)
		}
		if mode != none {
			checkForm(t, got, mode)
			checkEscapes(t, got, mode)
		}
		checkForm(t, decoded, decode)
	})
}

// checkForm is what must be true of every canonical path, whatever it was made from.
func checkForm(t *testing.T, p string, mode mesh.Normalization) {
	t.Helper()
	if !strings.HasPrefix(p, "/") || strings.Contains(p, `\`) {
		t.Fatalf("canonical path %q", p)
	}
	for _, segment := range strings.Split(p, "/") {
		if segment == "." || segment == ".." {
			t.Fatalf("canonical path %q has a dot segment", p)
		}
	}
	if mode != base && strings.Contains(p, "//") {
		t.Fatalf("canonical path %q has empty segments", p)
	}
}

// checkEscapes is what must be true of the escapes of a canonical path.
func checkEscapes(t *testing.T, p string, mode mesh.Normalization) {
	t.Helper()
	if upper := strings.ToUpper(p); mode == decode && (strings.Contains(upper, "%2F") || strings.Contains(upper, "%5C")) {
		t.Fatalf("decoded path %q has an encoded slash", p)
	}
	for i := 0; i+2 < len(p); i++ {
		if b, ok := escaped(p[i:]); p[i] == '%' && ok && unreserved(b) {
			t.Fatalf("canonical path %q has an escape of %q", p, b)
		}
	}
}

func BenchmarkCanonical(b *testing.B) {
	for _, c := range []struct{ name, path string }{
		{"clean", "/api/v1/products/17/reviews"},
		{"escaped", "/api/v1/products/a%20b/reviews"},
		{"dirty", "/api//v1/./x/../%70roducts/17"},
	} {
		b.Run(c.name, func(b *testing.B) {
			var s Scratch
			for b.Loop() {
				Canonical(c.path, merged, &s)
			}
		})
	}
}
