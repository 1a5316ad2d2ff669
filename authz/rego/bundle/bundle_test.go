package bundle_test

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io/fs"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"

	"github.com/signet-mesh/signet/authz/rego/bundle"
	"github.com/signet-mesh/signet/mesh/policy"
)

func TestPolling(t *testing.T) {
	o, u := &origin{}, &user{}
	o.set(plain("1"), `"one"`)
	server := httptest.NewServer(o)
	defer server.Close()
	s, stop := start(t, spec(server.URL), "", u)
	defer stop()
	eventually(t, "a bundle is asked for with its ETag", func() bool { return slices.Contains(o.requests(), `"one"`) })
	o.set(plain("2"), `"two"`)
	eventually(t, "revision 2 is active", func() bool { return u.active() == "1 2" })
	eventually(t, "the new ETag", func() bool { return slices.Contains(o.requests(), `"two"`) })
	if o.prefer != "modes=snapshot" {
		t.Errorf("Prefer is %q", o.prefer)
	}
	st := s.Status()
	if !st.Active || st.Revision != "2" || st.ETag != `"two"` || st.LastError != "" || st.Failures != 0 || time.Since(st.LastSuccess) > time.Minute {
		t.Errorf("status %+v", st)
	}
}

// A server without ETags sends the bundle at every poll: it is compiled once.
func TestNoETag(t *testing.T) {
	o, u := &origin{}, &user{}
	o.set(plain("1"), "")
	server := httptest.NewServer(o)
	defer server.Close()
	_, stop := start(t, spec(server.URL), "", u)
	eventually(t, "three polls", func() bool { return len(o.requests()) >= 3 })
	stop()
	if u.active() != "1" {
		t.Errorf("activated %q", u.active())
	}
}

func TestActivateRefuses(t *testing.T) {
	o, u := &origin{}, &user{refuse: map[string]bool{"2": true}}
	o.set(plain("1"), `"one"`)
	server := httptest.NewServer(o)
	defer server.Close()
	state := t.TempDir()
	s, stop := start(t, spec(server.URL), state, u)
	defer stop()
	eventually(t, "revision 1", func() bool { return u.active() == "1" })
	o.set(plain("2"), `"two"`)
	eventually(t, "two refusals", func() bool { return s.Status().Failures >= 2 })
	st := s.Status()
	if st.Revision != "1" || st.ETag != `"one"` || !strings.Contains(st.LastError, `no use for "2"`) {
		t.Errorf("status %+v", st)
	}
	if slices.Contains(o.requests(), `"two"`) {
		t.Error("the ETag of a refused bundle is remembered")
	}
	if got := kept(t, state); string(got) != string(plain("1")) {
		t.Error("the refused bundle is kept")
	}
	u.accept()
	eventually(t, "revision 2", func() bool { return u.active() == "1 2" && s.Status().LastError == "" })
}

// After each fault the old bundle is in use, the fault is in the status, and a good answer heals it.
func TestFaults(t *testing.T) {
	status := func(code int) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
	}
	body := func(b []byte) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("ETag", `"bad"`)
			_, _ = w.Write(b)
		}
	}
	loop := func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, r.URL.Path, http.StatusFound) }
	cut := func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "100000")
		_, _ = w.Write(plain("9"))
	}
	endless := func(w http.ResponseWriter, r *http.Request) {
		for block := make([]byte, 1<<20); r.Context().Err() == nil; {
			if _, err := w.Write(block); err != nil {
				return
			}
		}
	}
	for _, c := range []struct {
		name   string
		handle http.HandlerFunc
		want   string
	}{
		{"500", status(500), `answered "500 Internal Server Error"`},
		{"404", status(404), `answered "404 Not Found"`},
		{"204", status(204), `answered "204 No Content"`},
		{"empty", status(200), "empty answer"},
		{"truncated", body(plain("9")[:100]), "unexpected EOF"},
		{"cut", cut, "unexpected EOF"},
		{"endless", endless, "more than 16777216 bytes"},
		{"redirects", loop, "more than 5 redirects"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			o, u := &origin{}, &user{}
			o.set(plain("1"), `"one"`)
			server := httptest.NewServer(o)
			defer server.Close()
			s, stop := start(t, spec(server.URL), "", u)
			defer stop()
			eventually(t, "revision 1", func() bool { return u.active() == "1" })
			o.fail(c.handle)
			eventually(t, "the fault", func() bool { return s.Status().Failures >= 2 })
			if st := s.Status(); !strings.Contains(st.LastError, c.want) || !st.Active || st.Revision != "1" {
				t.Errorf("status %+v", st)
			}
			o.set(plain("2"), `"two"`)
			eventually(t, "revision 2", func() bool { return u.active() == "1 2" && s.Status().LastError == "" })
		})
	}
}

// A 304 to a request without condition is no success.
func TestUnasked304(t *testing.T) {
	o, u := &origin{}, &user{}
	o.fail(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotModified) })
	server := httptest.NewServer(o)
	defer server.Close()
	s, stop := start(t, spec(server.URL), "", u)
	defer stop()
	eventually(t, "a failure", func() bool { return s.Status().LastError != "" })
	if st := s.Status(); st.Active || !st.LastSuccess.IsZero() {
		t.Errorf("status %+v", st)
	}
}

// Run ends at once while a server hangs.
func TestHang(t *testing.T) {
	o, u := &origin{}, &user{}
	o.fail(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	server := httptest.NewServer(o)
	defer server.Close()
	_, stop := start(t, spec(server.URL), "", u)
	eventually(t, "a request", func() bool { return len(o.requests()) == 1 })
	stop()
}

func kept(t *testing.T, state string) []byte {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(state, "bundles", "*"))
	if err != nil || len(names) != 1 {
		t.Fatalf("kept are %q, %v", names, err)
	}
	info, err := os.Stat(names[0])
	must(err)
	if info.Mode().Perm() != 0o600 {
		t.Errorf("mode is %v", info.Mode())
	}
	raw, err := os.ReadFile(names[0])
	must(err)
	return raw
}

func TestRestart(t *testing.T) {
	private, public := keyPair(t, "ES256")
	o, u := &origin{}, &user{}
	o.set(signed(t, "1", "ES256", private), `"one"`)
	server := httptest.NewServer(o)
	defer server.Close()
	state := t.TempDir()
	good := func() *policy.RegoBundle {
		s := spec(server.URL)
		s.Signing = &policy.BundleSigning{KeyId: "lab", Algorithm: "ES256", PublicKey: public, Scope: "shop"}
		return s
	}
	_, stop := start(t, good(), state, u)
	eventually(t, "the bundle is kept", func() bool { return slices.Contains(o.requests(), `"one"`) })
	stop()
	raw := kept(t, state)
	down := func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) }
	o.fail(down)

	// again answers what a new process activates.
	again := func(spec *policy.RegoBundle) (string, bundle.Status) {
		u := &user{}
		s, stop := start(t, spec, state, u)
		eventually(t, "a failure", func() bool { return s.Status().Failures > 0 })
		stop()
		return u.active(), s.Status()
	}
	if got, st := again(good()); got != "1" || !st.Active || st.Revision != "1" || st.ETag != "" {
		t.Errorf("activated %q, %+v", got, st)
	}
	_, other := keyPair(t, "ES256")
	rekeyed := good()
	rekeyed.Signing.PublicKey = other
	if got, st := again(rekeyed); got != "" || st.Active {
		t.Errorf("a bundle of another key: activated %q", got)
	}
	elsewhere := good()
	elsewhere.Path = "bundles/other.tar.gz"
	if got, _ := again(elsewhere); got != "" {
		t.Errorf("a bundle from elsewhere: activated %q", got)
	}
	name := filepath.Join(state, "bundles")
	entries, err := os.ReadDir(name)
	must(err)
	name = filepath.Join(name, entries[0].Name())
	must(os.WriteFile(name, raw[:len(raw)-20], 0o600))
	if got, _ := again(good()); got != "" {
		t.Errorf("a damaged bundle: activated %q", got)
	}
	must(os.WriteFile(filepath.Join(filepath.Dir(name), "."+filepath.Base(name)+"-1"), raw, 0o600)) // what a crash leaves
	// The one from elsewhere takes their place when it comes.
	o.set(signed(t, "2", "ES256", private), `"two"`)
	u = &user{}
	_, stop = start(t, elsewhere, state, u)
	eventually(t, "revision 2", func() bool { return u.active() == "2" && slices.Contains(o.requests(), `"two"`) })
	stop()
	kept(t, state)
	if _, err := os.Stat(name); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the old one is still there: %v", err)
	}
}

// A bundle that cannot be kept is in use; its ETag is not remembered, and it is kept as soon as that is possible.
func TestCannotKeep(t *testing.T) {
	state := t.TempDir()
	must(os.WriteFile(filepath.Join(state, "bundles"), nil, 0o600)) // in the directory's place
	o, u := &origin{}, &user{}
	o.set(plain("1"), `"one"`)
	server := httptest.NewServer(o)
	defer server.Close()
	s, stop := start(t, spec(server.URL), state, u)
	defer stop()
	eventually(t, "failures", func() bool { return s.Status().Failures >= 2 })
	if st := s.Status(); !st.Active || !strings.Contains(st.LastError, "keeping bundle") || u.active() != "1" {
		t.Errorf("status %+v, activated %q", st, u.active())
	}
	must(os.Remove(filepath.Join(state, "bundles")))
	eventually(t, "success", func() bool { return s.Status().LastError == "" })
	if string(kept(t, state)) != string(plain("1")) {
		t.Error("another bundle is kept")
	}
}

func certificate(t *testing.T, notAfter time.Time) (tls.Certificate, string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "bundles"}, NotBefore: notAfter.Add(-time.Hour),
		NotAfter: notAfter, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	must(err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

func TestTLS(t *testing.T) {
	fresh, root := certificate(t, time.Now().Add(30*time.Minute))
	expired, expiredRoot := certificate(t, time.Now().Add(-time.Minute))
	_, other := certificate(t, time.Now().Add(30*time.Minute))
	for _, c := range []struct {
		name        string
		certificate tls.Certificate
		roots, want string
	}{
		{"ours", fresh, root, ""},
		{"the system's roots", fresh, "", "certificate signed by unknown authority"},
		{"another root", fresh, other, "certificate"},
		{"expired", expired, expiredRoot, "expired"},
	} {
		t.Run(c.name, func(t *testing.T) {
			o, u := &origin{}, &user{}
			o.set(plain("1"), `"one"`)
			server := httptest.NewUnstartedServer(o)
			server.TLS = &tls.Config{Certificates: []tls.Certificate{c.certificate}}
			server.StartTLS()
			defer server.Close()
			sp := spec(server.URL)
			sp.CaCertificates = c.roots
			s, stop := start(t, sp, "", u)
			defer stop()
			eventually(t, "an attempt", func() bool { st := s.Status(); return st.LastError != "" || !st.LastSuccess.IsZero() })
			st := s.Status()
			if c.want == "" && (st.LastError != "" || u.active() != "1") {
				t.Errorf("status %+v", st)
			}
			if c.want != "" && (st.LastError == "" || !strings.Contains(st.LastError, c.want) || u.active() != "") {
				t.Errorf("status %+v, activated %q", st, u.active())
			}
		})
	}
}
