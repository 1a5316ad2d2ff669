package dir_test

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/signet-mesh/signet/mesh"
	"github.com/signet-mesh/signet/mesh/dir"
	own "github.com/signet-mesh/signet/mesh/policy"
)

// TestJudgingKindsLast breaks one good object of each judging kind: its last good version goes on, also after a restart.
// What has none is quarantined, and what the command line says is never written down.
func TestJudgingKindsLast(t *testing.T) {
	const head = "apiVersion: VERSION\nkind: KIND\nmetadata: {name: NAME}\nspec: "
	text := func(version, kind, name, spec string) string {
		return strings.NewReplacer("VERSION", version, "KIND", kind, "NAME", name).Replace(head) + spec + "\n---\n"
	}
	kinds := func(name, token, rego, limit string) string {
		return text("security.istio.io/v1", "RequestAuthentication", "t"+name, token) + text("policy.signet.dev/v1alpha1", "RegoPolicy", "r"+name, rego) +
			text("policy.signet.dev/v1alpha1", "RateLimitPolicy", "l"+name, limit)
	}
	good := kinds("1", "{jwtRules: [{issuer: a, jwks: \"{}\"}]}", "{query: data.a.b, module: package a, data: {a: [1, null, {b: c}]}}",
		"{global: {rules: [{limit: {requests: 1, unit: Second, burst: 3}}]}}")
	bad := kinds("1", "{jwtRules: [{issuer: a}]}", "{query: data.a.b}", "{global: {}}") + kinds("2", "{jwtRule: []}", "{}", "{}")
	persist := filepath.Join(t.TempDir(), "good.json")
	l := newLab(t, map[string]string{"p.yaml": good})
	start := func(control *own.ControlSettings) (*mesh.Snapshot, []mesh.Problem) {
		t.Helper()
		d := dir.New(dir.Config{Dir: l.path, TrustDomain: "cluster.local", Persist: persist, Control: control, Log: slog.New(slog.NewTextHandler(l.log, nil))})
		s, problems, err := d.Load()
		if err != nil {
			t.Fatal(err)
		}
		l.d = d
		return s, mesh.Refusals(problems)
	}
	store := &own.ControlSettings{RateLimitStore: &own.RateLimitStore{Url: "redis://127.0.0.1", Password: "hunter2"}}
	first, problems := start(store)
	if got := l.objects(); got != "l1 r1 t1" || len(problems) > 0 {
		t.Fatalf("good objects: %q, %v", got, problems)
	}
	if data, err := os.ReadFile(persist); err != nil || strings.Contains(string(data), "hunter2") || !strings.Contains(string(data), "RateLimitPolicy") {
		t.Errorf("what is persisted: %s, %v", data, err)
	}
	l.write("p.yaml", bad)
	s, problems := start(store)
	if got := l.objects(); got != "l1 (l2) r1 (r2) t1 (t2)" || len(problems) < 6 {
		t.Errorf("broken objects: %q, %v", got, problems)
	}
	for i, o := range first.Objects() {
		if !proto.Equal(o.Spec, s.Objects()[2*i].Spec) {
			t.Errorf("%s is not what it was", o.Key)
		}
	}
	for _, want := range []string{"it denies whatever it is asked until it is mended", "it denies what it selects until it is mended", "the last good version stays in force"} {
		if !strings.Contains(l.log.text(), want) {
			t.Errorf("the log does not say %q:\n%s", want, l.log.text())
		}
	}
	l.write("p.yaml", good)
	start(nil)
	if got := l.objects(); got != "(l1) r1 t1" || !strings.Contains(l.log.text(), "--redis") {
		t.Errorf("without a store: %q\n%s", got, l.log.text())
	}
	start(store)
	if got := l.objects(); got != "l1 r1 t1" {
		t.Errorf("with the store again: %q", got)
	}
}
