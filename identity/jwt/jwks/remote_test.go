package jwks_test

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/signet-mesh/signet/identity/jwt/jwks"
)

// issuer is a real server whose answers can be exchanged.
type issuer struct {
	*httptest.Server
	asked  atomic.Int64
	answer atomic.Pointer[http.HandlerFunc]
}

func serve(t *testing.T, answer http.HandlerFunc) *issuer {
	t.Helper()
	i := &issuer{}
	i.answer.Store(&answer)
	i.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		i.asked.Add(1)
		(*i.answer.Load())(w, r)
	}))
	t.Cleanup(i.Close)
	return i
}

func (i *issuer) now(answer http.HandlerFunc) { i.answer.Store(&answer) }

func says(text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, text) }
}

func hang(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }

// start runs a Remote until the test ends.
func start(t *testing.T, c jwks.Config, gap, wait time.Duration) (r *jwks.Remote, stop func()) {
	t.Helper()
	r, err := jwks.NewRemote(c)
	if err != nil {
		t.Fatal(err)
	}
	r.SetTimes(gap, wait)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(stop)
	return r, stop
}

func ids(r *jwks.Remote) string {
	var out []string
	for _, k := range r.Keys() {
		out = append(out, k.ID)
	}
	return strings.Join(out, " ")
}

func eventually(t *testing.T, what func() string) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		wrong := what()
		if wrong == "" {
			return
		}
		if time.Now().After(end) {
			t.Fatal(wrong)
		}
	}
}

func has(t *testing.T, r *jwks.Remote, want string) {
	t.Helper()
	eventually(t, func() string {
		if got := ids(r); got != want {
			return fmt.Sprintf("keys %q, want %q; %+v", got, want, r.Status())
		}
		return ""
	})
}

func keySet(t *testing.T, names ...string) string {
	t.Helper()
	var keys []string
	for _, name := range names {
		keys = append(keys, ec(t, newKey(t), `,"kid":"`+name+`"`))
	}
	return `{"keys":[` + strings.Join(keys, ",") + `]}`
}

// TestFaults: whatever the issuer does, the last good set goes on, and it is said why.
func TestFaults(t *testing.T) {
	elsewhere := serve(t, says("secret"))
	for _, c := range []struct {
		name, want string
		fault      http.HandlerFunc
	}{
		{"500", "status 500", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) }},
		{"404", "status 404", http.NotFound},
		{"204", "status 204", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(204) }},
		{"garbage", "reading key set", says("<html>")},
		{"no usable key", "no key in it verifies tokens", says(`{"keys":[{"kty":"oct","k":"AAAA"}]}`)},
		{"empty set", "it has no keys", says(`{"keys":[]}`)},
		{"10 MB", "more than 1048576 bytes", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(make([]byte, 10<<20)) }},
		{"huge header", "header", func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("x", strings.Repeat("x", 100<<10)) }},
		{"hang", "deadline exceeded", hang},
		{"hang in the body", "deadline exceeded", func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprint(w, `{"keys":[`)
			w.(http.Flusher).Flush()
			hang(w, r)
		}},
		{"cut off", "EOF", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1000")
			fmt.Fprint(w, `{"keys":[`)
		}},
		{"redirect to a file", "neither http:// nor https://", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", "file:///etc/passwd")
			w.WriteHeader(302)
		}},
		{"redirect to credentials", "credentials", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", strings.Replace(elsewhere.URL, "//", "//user:pass@", 1))
			w.WriteHeader(302)
		}},
		{"redirects without end", "more than 3", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, r.URL.Path, http.StatusTemporaryRedirect)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			i := serve(t, says(keySet(t, "a")))
			r, _ := start(t, jwks.Config{Issuer: "x", URL: i.URL + "/keys?token=hush", Timeout: 300 * time.Millisecond}, 0, time.Second)
			has(t, r, "a")
			i.now(c.fault)
			if r.Refresh(t.Context()) {
				t.Error("there is a newer set")
			}
			s := r.Status()
			if ids(r) != "a" || !strings.Contains(s.Error, c.want) || s.Fetched.IsZero() {
				t.Errorf("keys %q, want a; %+v, want an error with %q", ids(r), s, c.want)
			}
			if strings.Contains(s.Error+s.URL, "hush") || strings.Contains(s.Error, "pass@") {
				t.Errorf("it tells a secret: %+v", s)
			}
			i.now(says(keySet(t, "a", "b")))
			if !r.Refresh(t.Context()) || ids(r) != "a b" || r.Status().Error != "" {
				t.Errorf("after it: keys %q, %+v", ids(r), r.Status())
			}
		})
	}
}

// TestStorm has many requests with unknown keys: they share one fetch, and then there is none for a while.
func TestStorm(t *testing.T) {
	old := keySet(t, "a")
	i := serve(t, says(old))
	const gap = time.Second
	r, _ := start(t, jwks.Config{Issuer: "x", URL: i.URL}, gap, time.Second)
	has(t, r, "a")
	before := r.Keys()
	storm := func() (newer int64) {
		var n atomic.Int64
		var group sync.WaitGroup
		for range 200 {
			group.Go(func() {
				if r.Refresh(t.Context()) {
					n.Add(1)
				}
			})
		}
		group.Wait()
		return n.Load()
	}
	if n, asked := storm(), i.asked.Load(); n != 0 || asked != 1 {
		t.Errorf("soon after a fetch: %d newer sets, asked %d times, want 1 from the start", n, asked)
	}
	time.Sleep(gap)
	if n, asked := storm(), i.asked.Load(); n != 0 || asked != 2 {
		t.Errorf("later: %d newer sets, asked %d times, want 2", n, asked)
	}
	if &r.Keys()[0] != &before[0] {
		t.Error("an unchanged set is another slice: all cached tokens are lost")
	}
	i.now(func(w http.ResponseWriter, _ *http.Request) {
		time.Sleep(50 * time.Millisecond) // so that all ask while it is under way
		fmt.Fprint(w, strings.Replace(old, `"a"`, `"b"`, 1))
	})
	time.Sleep(gap)
	if n, asked := storm(), i.asked.Load(); n == 0 || asked != 3 || ids(r) != "b" {
		t.Errorf("after a rotation: %d newer sets, asked %d times, want 3; keys %q", n, asked, ids(r))
	}
}

// TestSlowIssuer: one that hangs makes its own requests wait no longer than the bound, and nobody else's.
func TestSlowIssuer(t *testing.T) {
	slow, quick := serve(t, hang), serve(t, says(keySet(t, "q")))
	hung, _ := start(t, jwks.Config{Issuer: "slow", URL: slow.URL, Timeout: time.Minute}, 0, 300*time.Millisecond)
	other, _ := start(t, jwks.Config{Issuer: "quick", URL: quick.URL}, 0, time.Minute)
	begin := time.Now()
	if !other.Refresh(t.Context()) && ids(other) != "q" {
		t.Error("the first fetch is not waited for")
	}
	if hung.Refresh(t.Context()) || hung.Keys() != nil {
		t.Errorf("keys %q from nowhere", ids(hung))
	}
	if took := time.Since(begin); took > 20*time.Second {
		t.Errorf("it took %v", took)
	}
	// Who comes later does not wait anew.
	begin = time.Now()
	for range 100 {
		hung.Refresh(t.Context())
	}
	if took := time.Since(begin); took > 20*time.Second {
		t.Errorf("a hundred took %v", took)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	hung.Refresh(ctx)
}

// TestRestart keeps a set in a state directory while the issuer is away.
func TestRestart(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	i := serve(t, says(keySet(t, "a")))
	c := jwks.Config{Issuer: "x", URL: i.URL, StateDir: dir, Timeout: 200 * time.Millisecond}
	r, stop := start(t, c, 0, time.Second)
	has(t, r, "a")
	stop()
	files, _ := filepath.Glob(dir + "/*")
	if len(files) != 1 {
		t.Fatalf("files %q", files)
	}
	if info, err := os.Stat(files[0]); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	i.Close()
	r, stop = start(t, c, 0, time.Second)
	has(t, r, "a")
	eventually(t, func() string {
		if s := r.Status(); s.Error == "" || s.Fetched.IsZero() {
			return fmt.Sprintf("%+v", s)
		}
		return ""
	})
	stop()
	// What was kept of another issuer, or is broken, is not used.
	other := c
	other.Issuer = "y"
	text, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	for name, damaged := range map[string]string{"broken": "{", "another": strings.Replace(string(text), `"x"`, `"z"`, 1), "no set": `{"issuer":"x","url":"` + i.URL + `"}`} {
		if err := os.WriteFile(files[0], []byte(damaged), 0o600); err != nil {
			t.Fatal(err)
		}
		for _, config := range []jwks.Config{c, other} {
			r, stop := start(t, config, 0, time.Second)
			eventually(t, func() string {
				if r.Status().Error == "" {
					return "it has not tried"
				}
				return ""
			})
			if r.Keys() != nil {
				t.Errorf("%s: issuer %s has keys %q", name, config.Issuer, ids(r))
			}
			stop()
		}
	}
}

func TestDiscovery(t *testing.T) {
	var base string
	set := keySet(t, "a")
	document := func(issuer, keys string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			switch r.URL.Path {
			case "/.well-known/openid-configuration", "/tenant/.well-known/openid-configuration":
				fmt.Fprintf(w, `{"issuer":%q,"jwks_uri":%q}`, issuer, keys)
			case "/keys":
				fmt.Fprint(w, set)
			default:
				http.NotFound(w, r)
			}
		}
	}
	i := serve(t, http.NotFound)
	base = i.URL
	for _, c := range []struct {
		name, issuer string
		answer       http.HandlerFunc
		want         string
	}{
		{"found", base, document(base, base+"/keys"), ""},
		{"below a path", base + "/tenant", document(base+"/tenant", base+"/keys"), ""},
		{"slash at the end", base + "/", document(base+"/", base+"/keys"), ""},
		{"another issuer", base, document(base+"/", base+"/keys"), "its issuer is"},
		{"keys in a file", base, document(base, "file:///etc/passwd"), "neither http:// nor https://"},
		{"no keys", base, document(base, ""), "neither http:// nor https://"},
		{"no document", base, http.NotFound, "status 404"},
		{"garbage", base, says("x"), "reading document"},
	} {
		i.now(c.answer)
		r, stop := start(t, jwks.Config{Issuer: c.issuer}, 0, 5*time.Second)
		eventually(t, func() string {
			s := r.Status()
			if ok := s.Error == "" && len(s.KeyIDs) == 1 && s.URL == base+"/keys"; ok != (c.want == "") || !strings.Contains(s.Error, c.want) {
				return fmt.Sprintf("%s: %+v, want %q", c.name, s, c.want)
			}
			return ""
		})
		stop()
	}
}

// TestHTTPS: the server must prove who it is, and does not send us to plain HTTP.
func TestHTTPS(t *testing.T) {
	plain := serve(t, says(keySet(t, "plain")))
	answer := says(keySet(t, "a"))
	mux := http.NewServeMux()
	mux.HandleFunc("/keys", answer)
	mux.HandleFunc("/away", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, plain.URL, http.StatusFound) })
	var base string
	mux.HandleFunc("/.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, `{"issuer":%q,"jwks_uri":%q}`, base, plain.URL)
	})
	server := httptest.NewTLSServer(mux)
	t.Cleanup(server.Close)
	base = server.URL
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	for _, c := range []struct {
		name   string
		config jwks.Config
		want   string
	}{
		{"trusted", jwks.Config{URL: base + "/keys", Roots: roots}, ""},
		{"not trusted", jwks.Config{URL: base + "/keys"}, "certificate"},
		{"redirect to http", jwks.Config{URL: base + "/away", Roots: roots}, "from https to http"},
		{"discovery to http", jwks.Config{Issuer: base, Roots: roots}, "is not https"},
	} {
		r, stop := start(t, c.config, 0, 5*time.Second)
		eventually(t, func() string {
			if s := r.Status(); (len(s.KeyIDs) == 1) != (c.want == "") || !strings.Contains(s.Error, c.want) {
				return fmt.Sprintf("%s: %+v, want %q", c.name, s, c.want)
			}
			return ""
		})
		stop()
	}
}

func TestNewRemote(t *testing.T) {
	for _, c := range []jwks.Config{
		{}, {Issuer: "testing@secure.istio.io"}, {Issuer: "x", URL: "file:///etc/passwd"}, {URL: "/keys"}, {URL: "http:///keys"}, {URL: "gopher://x/"},
		{URL: "https://user:pass@x/"}, {URL: "https://x/" + strings.Repeat("a", jwks.MaxURL)}, {URL: "http://x/%zz"}, {URL: "http://x\n/"},
	} {
		if r, err := jwks.NewRemote(c); err == nil || strings.Contains(err.Error(), "pass@") {
			t.Errorf("%+v: %v, %v", c, r, err)
		}
	}
	r, err := jwks.NewRemote(jwks.Config{Issuer: "x", URL: "https://x/keys"})
	if err != nil || r.Keys() != nil {
		t.Fatal(r, err)
	}
	if n := testing.AllocsPerRun(100, func() { _ = r.Keys() }); n != 0 {
		t.Errorf("Keys allocates %v times", n)
	}
}

// TestRecovers: a first fetch that fails is tried again without being asked for.
func TestRecovers(t *testing.T) {
	i := serve(t, http.NotFound)
	r, _ := start(t, jwks.Config{Issuer: "x", URL: i.URL}, time.Hour, time.Second)
	eventually(t, func() string { return map[bool]string{true: "no error"}[r.Status().Error == ""] })
	i.now(says(keySet(t, "a")))
	if r.Refresh(t.Context()) {
		t.Error("it was fetched again at once")
	}
	has(t, r, "a")
}

func TestInterval(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"": jwks.DefaultInterval, "max-age=600": 10 * time.Minute, "public, Max-Age=\"600\", must-revalidate": 10 * time.Minute,
		"max-age=0": jwks.MinInterval, "max-age=-5": jwks.MinInterval, "max-age=86400": jwks.MaxInterval, "max-age=99999999999999": jwks.MaxInterval,
		"max-age=99999999999999999999999": jwks.DefaultInterval, "max-age=x": jwks.DefaultInterval, "no-store, max-age=600": jwks.MinInterval,
		"no-cache": jwks.MinInterval, "s-maxage=600": jwks.DefaultInterval,
	} {
		if got := jwks.Interval(http.Header{"Cache-Control": {text}}); got != want {
			t.Errorf("%q: %v, want %v", text, got, want)
		}
	}
}
