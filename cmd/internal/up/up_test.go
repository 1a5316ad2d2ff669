package up

import (
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/signet-mesh/signet/cmd/internal/plane"
)

func TestParseProcfile(t *testing.T) {
	for name, tc := range map[string]struct {
		text string
		want []Program
		err  string
	}{
		"entries":     {"# shop\n\nshop.cart: exec ./cart --port 1\r\nplain_2:nats: x\n  web:\tserve", []Program{{"shop.cart", "exec ./cart --port 1"}, {"plain_2", "nats: x"}, {"web", "serve"}}, ""},
		"nothing":     {"# only this\n", nil, ""},
		"no colon":    {"web: a\nworker b\n", nil, `Procfile:2: want "name: command", found "worker b"`},
		"no command":  {"web:\n", nil, `Procfile:1: want`},
		"a bad name":  {"we b: x\n", nil, `Procfile:1: want`},
		"a dash":      {"-web: x\n", nil, `Procfile:1: want`},
		"double":      {"web: a\n\nweb: b\n", nil, `Procfile:3: "web" is there already, at line 1`},
		"NUL":         {"web: a\x00b\n", nil, "Procfile:1: there is a NUL"},
		"a long line": {"web: " + strings.Repeat("x", 100_000), []Program{{"web", strings.Repeat("x", 100_000)}}, ""},
		"a long file": {strings.Repeat("# comment\n", maxProcfileBytes/10+1), nil, "it has more than"},
	} {
		path := filepath.Join(t.TempDir(), "Procfile")
		if err := os.WriteFile(path, []byte(tc.text), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := LoadProcfile(path)
		if tc.err == "" && err != nil || tc.err != "" && (err == nil || !strings.Contains(err.Error(), tc.err)) {
			t.Errorf("%s: error %v, want %q", name, err, tc.err)
		}
		if !reflect.DeepEqual(got, tc.want) {
			t.Errorf("%s: got %.200q", name, got)
		}
	}
	if got, err := LoadProcfile(filepath.Join(t.TempDir(), "none")); got != nil || err != nil {
		t.Errorf("no file: %v, %v", got, err)
	}
	if _, err := LoadProcfile(t.TempDir()); err == nil {
		t.Error("a directory was read")
	}
}

func TestWithoutProxy(t *testing.T) {
	got := withoutProxy([]string{"A=1", "http_proxy=x", "HTTPS_PROXY=x", "No_Proxy=x", "ALL_PROXY=x", "ftp_proxy=", "PROXY=kept"})
	if want := []string{"A=1", "PROXY=kept"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestRunDirs(t *testing.T) {
	base := t.TempDir()
	t.Setenv("TMPDIR", filepath.Join(t.TempDir(), strings.Repeat("t", 100)))
	plain, long := "cart", strings.Repeat("w", 253)
	deep := filepath.Join(base, strings.Repeat("d", 100), "run")
	if err := os.Mkdir(filepath.Dir(deep), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct{ base, name, want string }{
		{"/b", plain, "/b/shop.cart"},
		{"/b", long, "/b/"},
		{deep, plain, "/tmp/signet-"},
		{deep, long, "/tmp/signet-"},
	} {
		r := newRunDirs(tc.base)
		got, err := r.choose("shop." + tc.name)
		if err != nil || !strings.HasPrefix(got, tc.want) || !fits(got) {
			t.Errorf("%.60s %.10s: got %s, %v", tc.base, tc.name, got, err)
		}
		if again, _ := r.choose("shop." + tc.name); again != got {
			t.Errorf("%s, then %s", got, again)
		}
		if info, err := os.Stat(r.short); r.short != "" && (err != nil || info.Mode().Perm() != 0o700) {
			t.Errorf("%s: %v, %v", r.short, info, err)
		}
		if found := ShortRunDir(filepath.Dir(tc.base)); found != r.short && tc.base == deep {
			t.Errorf("%q is named, want %q", found, r.short)
		}
		if info, err := os.Stat(r.pointer()); r.short != "" && (err != nil || info.Mode().Perm() != 0o600) {
			t.Errorf("%s: %v, %v", r.pointer(), info, err)
		}
		r.remove()
		if _, err := os.Stat(r.short); r.short != "" && err == nil {
			t.Errorf("%s is left", r.short)
		}
		if _, err := os.Stat(r.pointer()); err == nil {
			t.Errorf("%s is left", r.pointer())
		}
	}
}

// What a killed process named is forgotten, and one that made nothing forgets nothing of another's.
func TestRunDirsForget(t *testing.T) {
	r := newRunDirs(filepath.Join(t.TempDir(), "run"))
	if err := os.WriteFile(r.pointer(), []byte("/gone"), 0o600); err != nil {
		t.Fatal(err)
	}
	r.remove()
	if _, err := os.Stat(r.pointer()); err != nil {
		t.Error(err)
	}
	r.clear()
	if _, err := os.Stat(r.pointer()); err == nil {
		t.Errorf("%s is left", r.pointer())
	}
}

func TestSharedAddressesAreNotAdmitted(t *testing.T) {
	var log strings.Builder
	u := &up{cfg: Config{Log: slog.New(slog.NewTextHandler(&log, nil))}, sidecars: map[string]*sidecar{}}
	w := func(name, address string) plane.Workload {
		return plane.Workload{Namespace: "shop", Name: name, Address: netip.MustParseAddr(address), Position: name + ".yaml:1:1"}
	}
	admitted := func(ws ...plane.Workload) string {
		var names []string
		for _, w := range u.admit(ws) {
			names = append(names, w.Name)
		}
		slices.Sort(names)
		return strings.Join(names, " ")
	}
	a, b, c := w("a", "127.0.0.1"), w("b", "127.0.0.1"), w("c", "127.0.0.2")
	if got := admitted(a, b, c); got != "a c" {
		t.Errorf("got %q", got)
	}
	u.sidecars["shop/b"] = &sidecar{who: b} // whose sidecar runs goes first
	for range 2 {
		if got := admitted(a, b, c); got != "b c" {
			t.Errorf("got %q", got)
		}
	}
	if n := strings.Count(log.String(), `a.yaml:1:1: WorkloadEntry shop/a: spec.address: \"127.0.0.1\" is the address of WorkloadEntry shop/b (b.yaml:1:1)`); n != 1 {
		t.Errorf("said %d times:\n%s", n, log.String())
	}
	if got := admitted(a, c); got != "a c" || len(u.refused) != 0 {
		t.Errorf("got %q, refused %v", got, u.refused)
	}
}
