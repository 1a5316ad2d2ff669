package bundle_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"maps"
	"strings"
	"testing"
	"time"

	opabundle "github.com/open-policy-agent/opa/v1/bundle"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/signet-mesh/signet/authz/rego/bundle"
	"github.com/signet-mesh/signet/mesh/policy"
)

func key(id, algorithm, public, scope string) *opabundle.VerificationConfig {
	return opabundle.NewVerificationConfig(map[string]*opabundle.KeyConfig{id: {Key: public, Algorithm: algorithm}}, id, scope, nil)
}

// What opa signs is read, by each algorithm; anything changed is not.
func TestSignatures(t *testing.T) {
	for _, algorithm := range []string{"RS256", "ES256", "PS384", "ES512"} {
		t.Run(algorithm, func(t *testing.T) {
			private, public := keyPair(t, algorithm)
			raw := signed(t, "7", algorithm, private)
			b, err := bundle.Read(raw, `"e"`, key("lab", algorithm, public, "shop"))
			if err != nil {
				t.Fatal(err)
			}
			if b.Manifest.Revision != "7" || len(b.Modules) != 1 || b.Etag != `"e"` || fmt.Sprint(b.Data["menu"].(map[string]any)["seats"]) != "12345678901234567890" {
				t.Errorf("read %+v", b)
			}
			_, other := keyPair(t, algorithm)
			changed := func(change func(map[string]string)) []byte {
				files := untar(t, raw)
				change(files)
				return tarball(files)
			}
			find := func(files map[string]string, suffix string) string {
				for name := range files {
					if strings.HasSuffix(name, suffix) {
						return name
					}
				}
				t.Fatalf("no %s in it", suffix)
				return ""
			}
			for _, c := range []struct {
				name string
				raw  []byte
				key  *opabundle.VerificationConfig
				want string
			}{
				{"untouched", changed(func(map[string]string) {}), key("lab", algorithm, public, "shop"), ""},
				{"another key", raw, key("lab", algorithm, other, "shop"), "failed to verify"},
				{"another scope", raw, key("lab", algorithm, public, "bar"), "scope mismatch"},
				{"no scope", raw, key("lab", algorithm, public, ""), "scope mismatch"},
				{"no key", raw, nil, "verification key not provided"},
				{"policy changed", changed(func(f map[string]string) { f[find(f, ".rego")] += "\ndecision := true\n" }), key("lab", algorithm, public, "shop"), "digest mismatch"},
				{"data changed", changed(func(f map[string]string) { f[find(f, "data.json")] = `{"menu": {"open": false}}` }), key("lab", algorithm, public, "shop"), "digest mismatch"},
				{"file added", changed(func(f map[string]string) { f["/menu/more.rego"] = "package menu.more\n" }), key("lab", algorithm, public, "shop"), "not included in bundle signature"},
				{"file missing", changed(func(f map[string]string) { delete(f, find(f, ".rego")) }), key("lab", algorithm, public, "shop"), "not found in the target bundle"},
				{"signature missing", changed(func(f map[string]string) { delete(f, find(f, ".signatures.json")) }), key("lab", algorithm, public, "shop"), "missing .signatures.json"},
				{"signature empty", changed(func(f map[string]string) { f[find(f, ".signatures.json")] = `{"signatures": []}` }), key("lab", algorithm, public, "shop"), "missing JWT"},
				{"another verifier", changed(func(f map[string]string) {
					n := find(f, ".signatures.json")
					f[n] = strings.Replace(f[n], "_default", "none", 1)
				}), key("lab", algorithm, public, "shop"), "no verifier exists"},
			} {
				_, err := bundle.Read(c.raw, "", c.key)
				if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
					t.Errorf("%s: %v, want %q", c.name, err, c.want)
				}
			}
		})
	}
}

func TestRead(t *testing.T) {
	with := func(more map[string]string) []byte {
		files := map[string]string{"/.manifest": manifest("1"), "/menu/menu.rego": module}
		maps.Copy(files, more)
		return tarball(files)
	}
	many := map[string]string{}
	for i := range bundle.MaxFiles {
		many[fmt.Sprintf("/menu/%d.txt", i)] = ""
	}
	large := strings.Repeat(" ", bundle.MaxContent/2)
	for _, c := range []struct {
		name string
		raw  []byte
		want string
	}{
		{"good", with(nil), ""},
		{"no manifest", tarball(map[string]string{"/menu/menu.rego": module}), ""},
		{"nothing", nil, "unzipping"},
		{"no gzip", []byte("PK\x03\x04 something else altogether"), "unzipping"},
		{"truncated", with(nil)[:60], "unexpected EOF"},
		{"checksum", func() []byte { b := with(nil); b[len(b)-6] ^= 1; return b }(), "checksum"},
		{"too large", bytes.Repeat([]byte{0}, bundle.MaxCompressed+1), "more than 16777216 bytes"},
		{"bomb", tarball(map[string]string{"/menu/a.txt": large, "/menu/b.txt": large}), "more than 67108864 bytes of content"},
		{"files", with(many), "more than 10000 files"},
		{"policy outside its roots", with(map[string]string{"/bar/bar.rego": "package bar\n"}), "do not permit"},
		{"data outside its roots", with(map[string]string{"/bar/data.json": "{}"}), "do not permit"},
		{"delta", tarball(map[string]string{"/.manifest": manifest("1"), "/patch.json": `{"data": [{"op": "upsert", "path": "/menu/x", "value": 1}]}`}), "delta bundle"},
		{"wasm", with(map[string]string{"/policy.wasm": "\x00asm"}), "WebAssembly"},
		{"broken policy", with(map[string]string{"/menu/x.rego": "package menu\nnot rego"}), "rego_parse_error"},
		{"broken data", with(map[string]string{"/menu/data.json": `{"open":`}), "bundle load failed"},
		{"broken manifest", with(map[string]string{"/.manifest": `[]`}), "manifest"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b, err := bundle.Read(c.raw, "", nil)
			if c.want == "" && (err != nil || len(b.Modules) != 1) || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("%v, want %q", err, c.want)
			}
		})
	}
}

func TestNew(t *testing.T) {
	_, rsaKey := keyPair(t, "RS256")
	_, ecKey := keyPair(t, "ES256")
	signing := func(algorithm, public string) func(*policy.RegoBundle) {
		return func(s *policy.RegoBundle) {
			s.Signing = &policy.BundleSigning{KeyId: "lab", Algorithm: algorithm, PublicKey: public}
		}
	}
	polling := func(lo, hi time.Duration) func(*policy.RegoBundle) {
		return func(s *policy.RegoBundle) {
			s.Polling = &policy.BundlePolling{MinDelay: durationpb.New(lo), MaxDelay: durationpb.New(hi)}
		}
	}
	for _, c := range []struct {
		name, want string
		change     func(*policy.RegoBundle)
	}{
		{"good", "", func(*policy.RegoBundle) {}},
		{"default polling", "", func(s *policy.RegoBundle) { s.Polling = nil }},
		{"RS256 by default", "", signing("", rsaKey)},
		{"PS512", "", signing("PS512", rsaKey)},
		{"ES256", "", signing("ES256", ecKey)},
		{"no url", "url: ", func(s *policy.RegoBundle) { s.Url = "" }},
		{"no path", "path: ", func(s *policy.RegoBundle) { s.Path = "/" }},
		{"roots", "caCertificates: ", func(s *policy.RegoBundle) { s.CaCertificates = "nothing" }},
		{"no key", "signing.publicKey: no PEM", signing("RS256", "")},
		{"private key", "signing.publicKey: a PEM block of type", signing("RS256", "-----BEGIN PRIVATE KEY-----\nMAA=\n-----END PRIVATE KEY-----\n")},
		{"shared secret", "signing.algorithm: ", signing("HS256", rsaKey)},
		{"none", "signing.algorithm: ", signing("none", rsaKey)},
		{"RSA for ES", "signing.publicKey: an RSA key", signing("ES256", rsaKey)},
		{"EC for RS", "signing.publicKey: a key on curve P-256", signing("RS256", ecKey)},
		{"curve", "signing.publicKey: a key on curve P-256", signing("ES384", ecKey)},
		{"too often", "polling.minDelay: ", polling(time.Millisecond, time.Second)},
		{"turned round", "polling.maxDelay: ", polling(time.Minute, time.Second)},
	} {
		s := spec("https://bundles.example")
		c.change(s)
		_, err := bundle.New(bundle.Config{Spec: s, Name: "lab/menu", Activate: (&user{}).activate, Log: slog.New(slog.DiscardHandler)})
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.HasPrefix(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
	if _, err := bundle.New(bundle.Config{}); err == nil {
		t.Error("an empty configuration is taken")
	}
}

func FuzzRead(f *testing.F) {
	f.Add(plain("1"))
	f.Add(plain("1")[:100])
	f.Add(tarball(map[string]string{"/.signatures.json": `{"signatures": ["a.b.c"]}`, "/menu/data.json": "{}"}))
	f.Add(tarball(map[string]string{"/patch.json": `{"data": []}`, "/.manifest": `{"roots": ["a", "a/b"]}`, "/data.yaml": "a: &a [*a]"}))
	public := "-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEEVs/o5+uQbTjL3chynL4wXgUg2R9\nq9UU8I5mEovUf86QZ7kOBIjJwqnzD1omageEHWwHdBO6B+dFabmdT9POxg==\n-----END PUBLIC KEY-----\n"
	f.Fuzz(func(t *testing.T, raw []byte) {
		b, err := bundle.Read(raw, "", nil)
		if err == nil && (b == nil || len(b.Signatures.Signatures) > 0) {
			t.Error("took a signed bundle without a key")
		}
		if _, err := bundle.Read(raw, "", key("lab", "ES256", public, "")); err == nil {
			t.Error("took a bundle that nobody signed")
		}
		// The content itself, so that the fuzzer need not find checksums.
		if len(raw) < 1<<16 {
			files := map[string]string{}
			for i, part := range bytes.SplitN(raw, []byte{0}, 4) {
				files[[]string{"/.manifest", "/.signatures.json", "/data.json", "/menu/menu.rego"}[i]] = string(part)
			}
			_, _ = bundle.Read(tarball(files), "", nil)
		}
	})
}
