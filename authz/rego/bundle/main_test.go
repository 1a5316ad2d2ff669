package bundle_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	opabundle "github.com/open-policy-agent/opa/v1/bundle"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/signet-mesh/signet/authz/rego/bundle"
	"github.com/signet-mesh/signet/mesh/policy"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// origin is a bundle server whose answers the test changes.
type origin struct {
	mu     sync.Mutex
	body   []byte
	etag   string
	handle http.HandlerFunc // nil: serve body
	asked  []string         // If-None-Match of each request
	prefer string
}

func (o *origin) set(body []byte, etag string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.body, o.etag, o.handle = body, etag, nil
}

func (o *origin) fail(h http.HandlerFunc) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.handle = h
}

func (o *origin) requests() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.asked)
}

func (o *origin) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	o.mu.Lock()
	o.asked = append(o.asked, r.Header.Get("If-None-Match"))
	o.prefer = r.Header.Get("Prefer")
	body, etag, handle := o.body, o.etag, o.handle
	o.mu.Unlock()
	if handle != nil {
		handle(w, r)
		return
	}
	if etag != "" {
		w.Header().Set("ETag", etag)
	}
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(body)) // answers If-None-Match with 304
}

// user stands for who compiles bundles.
type user struct {
	mu        sync.Mutex
	revisions []string
	refuse    map[string]bool
}

func (u *user) activate(b *opabundle.Bundle) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.refuse[b.Manifest.Revision] {
		return fmt.Errorf("no use for %q", b.Manifest.Revision)
	}
	u.revisions = append(u.revisions, b.Manifest.Revision)
	return nil
}

func (u *user) active() string {
	u.mu.Lock()
	defer u.mu.Unlock()
	return strings.Join(u.revisions, " ")
}

func (u *user) accept() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.refuse = nil
}

func spec(url string) *policy.RegoBundle {
	return &policy.RegoBundle{Url: url, Path: "bundles/shop.tar.gz",
		Polling: &policy.BundlePolling{MinDelay: durationpb.New(100 * time.Millisecond), MaxDelay: durationpb.New(120 * time.Millisecond)}}
}

// start runs a Source until the test ends, or stop.
func start(t *testing.T, spec *policy.RegoBundle, state string, u *user) (s *bundle.Source, stop func()) {
	t.Helper()
	s, err := bundle.New(bundle.Config{Spec: spec, Name: "lab/menu", StateDir: state, Activate: u.activate, Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			select {
			case err := <-done:
				if err != nil {
					t.Errorf("Run: %v", err)
				}
			case <-time.After(5 * time.Second):
				t.Error("Run goes on after its context ended")
			}
		})
	}
	t.Cleanup(stop)
	return s, stop
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
	}
}

const module = "package menu\n\ndecision := input.method == \"GET\"\n"

func manifest(revision string) string {
	return fmt.Sprintf(`{"revision": %q, "roots": ["menu"]}`, revision)
}

func plain(revision string) []byte {
	return tarball(map[string]string{"/.manifest": manifest(revision), "/menu/menu.rego": module, "/menu/data.json": `{"open": true}`})
}

func tarball(files map[string]string) []byte {
	var out bytes.Buffer
	zip := gzip.NewWriter(&out)
	archive := tar.NewWriter(zip)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		must(archive.WriteHeader(&tar.Header{Name: name, Size: int64(len(files[name])), Mode: 0o600, Typeflag: tar.TypeReg}))
		_, err := archive.Write([]byte(files[name]))
		must(err)
	}
	must(archive.Close())
	must(zip.Close())
	return out.Bytes()
}

func untar(t *testing.T, raw []byte) map[string]string {
	t.Helper()
	zip, err := gzip.NewReader(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for archive := tar.NewReader(zip); ; {
		h, err := archive.Next()
		if err == io.EOF {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(archive)
		if err != nil {
			t.Fatal(err)
		}
		files[h.Name] = string(content)
	}
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

// keyPair writes a key into a directory; PEM of the public half.
func keyPair(t *testing.T, algorithm string) (privateFile, public string) {
	t.Helper()
	var private, pub any
	switch algorithm[:2] {
	case "ES":
		curve := map[string]elliptic.Curve{"ES256": elliptic.P256(), "ES384": elliptic.P384(), "ES512": elliptic.P521()}[algorithm]
		k, err := ecdsa.GenerateKey(curve, rand.Reader)
		must(err)
		private, pub = k, &k.PublicKey
	default:
		k, err := rsa.GenerateKey(rand.Reader, 2048)
		must(err)
		private, pub = k, &k.PublicKey
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	must(err)
	privateFile = filepath.Join(t.TempDir(), "key.pem")
	must(os.WriteFile(privateFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600))
	der, err = x509.MarshalPKIXPublicKey(pub)
	must(err)
	return privateFile, string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

// opa runs the real program.
func opa(t *testing.T, args ...string) {
	t.Helper()
	where, err := exec.CommandContext(t.Context(), "go", "-C", "../../../test/opa", "tool", "-n", "opa").Output()
	if err != nil {
		t.Fatalf("building opa: %v", err)
	}
	if out, err := exec.CommandContext(t.Context(), strings.TrimSpace(string(where)), args...).CombinedOutput(); err != nil {
		t.Fatalf("opa %q: %v\n%s", args, err, out)
	}
}

// signed is a bundle that opa built and signed with scope "shop".
func signed(t *testing.T, revision, algorithm, privateFile string) []byte {
	t.Helper()
	dir := t.TempDir()
	src := filepath.Join(dir, "src", "menu")
	must(os.MkdirAll(src, 0o700))
	must(os.WriteFile(filepath.Join(src, "menu.rego"), []byte(module), 0o600))
	must(os.WriteFile(filepath.Join(src, "data.json"), []byte(`{"open": true, "seats": 12345678901234567890}`), 0o600))
	must(os.WriteFile(filepath.Join(dir, "src", ".manifest"), []byte(manifest(revision)), 0o600))
	claims := filepath.Join(dir, "claims.json")
	must(os.WriteFile(claims, []byte(`{"scope": "shop", "keyid": "lab"}`), 0o600))
	out := filepath.Join(dir, "bundle.tar.gz")
	opa(t, "build", "-b", filepath.Join(dir, "src"), "-o", out, "--signing-key", privateFile, "--signing-alg", algorithm, "--claims-file", claims)
	raw, err := os.ReadFile(out)
	must(err)
	return raw
}
