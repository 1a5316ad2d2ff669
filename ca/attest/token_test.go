package attest

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/signet-mesh/signet/ca"
	"github.com/signet-mesh/signet/ca/authority"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const td = "mesh.test"

func stateDir(t testing.TB) (dir string, root [sha256.Size]byte) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "state")
	a, err := authority.Open(dir, td, authority.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = a.Close() }) // minting works while it is open
	return dir, a.RootSHA256()
}

func mint(t testing.TB, dir string, ttl time.Duration) string {
	t.Helper()
	token, err := MintToken(dir, "shop", "cart.v1", ttl)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func TestMintedToken(t *testing.T) {
	dir, root := stateDir(t)
	text := mint(t, dir, time.Minute)
	token, err := ParseToken(text)
	if err != nil {
		t.Fatal(err)
	}
	if token.Namespace != "shop" || token.Workload != "cart.v1" || token.RootSHA256 != root || token.text() != text {
		t.Errorf("got %+v", token)
	}
	secret := text[strings.LastIndex(text, ".")+1:]
	if s := fmt.Sprintf("%v %+v %#v %s", token, token, token, token); strings.Contains(s, secret) {
		t.Errorf("prints its secret: %s", s)
	}
	entries, err := os.ReadDir(filepath.Join(dir, ca.TokensDir))
	if err != nil || len(entries) != 1 {
		t.Fatalf("%v, %v", entries, err)
	}
	path := filepath.Join(dir, ca.TokensDir, entries[0].Name())
	if want := fmt.Sprintf("%x.json", token.id()); entries[0].Name() != want {
		t.Errorf("stored as %s, want %s", entries[0].Name(), want)
	}
	data, err := os.ReadFile(path)
	if err != nil || strings.Contains(string(data), secret) {
		t.Errorf("%s, %v", data, err)
	}
	var r record
	if err := json.Unmarshal(data, &r); err != nil || r.Workload != "shop/cart.v1" || time.Until(r.Expires) > time.Minute {
		t.Errorf("%s, %v", data, err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
}

func TestMintRefuses(t *testing.T) {
	dir, _ := stateDir(t)
	for _, tc := range []struct {
		dir, ns, workload string
		ttl               time.Duration
		want              string
	}{
		{t.TempDir(), "shop", "cart", 0, "there is no CA"},
		{dir, "", "cart", 0, "NAMESPACE/WORKLOAD"},
		{dir, "shop", "", 0, "NAMESPACE/WORKLOAD"},
		{dir, "shop", "a/b", 0, "NAMESPACE/WORKLOAD"},
		{dir, "../shop", "a", 0, "NAMESPACE/WORKLOAD"},
		{dir, "Shop", "a", 0, "NAMESPACE/WORKLOAD"},
		{dir, "shop", "a", -1, "lifetime"},
		{dir, "shop", "a", MaxTokenTTL + 1, "lifetime"},
	} {
		if _, err := MintToken(tc.dir, tc.ns, tc.workload, tc.ttl); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%+v: got %v", tc, err)
		}
	}
}

func TestParseTokenRefuses(t *testing.T) {
	dir, _ := stateDir(t)
	good := mint(t, dir, 0)
	parts := strings.Split(good, ".") // st1 shop/cart v1 HASH SECRET
	for _, bad := range []string{
		"", "st1.", "st2" + good[3:], good + "A", good[:len(good)-1], good + "=", good + "\n", " " + good,
		"st1.shop." + parts[3] + "." + parts[4],
		"st1." + parts[3] + "." + parts[4],
		"st1.shop/cart." + parts[4],
		"st1.shop/a/b." + parts[3] + "." + parts[4],
		"st1.shop/A." + parts[3] + "." + parts[4],
		strings.Repeat("x", MaxTokenBytes+1),
	} {
		_, err := ParseToken(bad)
		if err == nil {
			t.Errorf("%q was taken", bad)
		} else if strings.Contains(err.Error(), parts[4]) {
			t.Errorf("the error quotes the secret: %v", err)
		}
	}
}

func FuzzParseToken(f *testing.F) {
	dir, _ := stateDir(f)
	f.Add(mint(f, dir, 0))
	f.Add("st1.a/b..")
	f.Fuzz(func(t *testing.T, text string) {
		token, err := ParseToken(text)
		if err == nil && token.text() != text {
			t.Fatalf("%q reads as %q: two spellings of one token", text, token.text())
		}
	})
}

func key(b byte) (k [sha256.Size]byte) {
	k[0] = b
	return k
}

func TestRedeem(t *testing.T) {
	dir, _ := stateDir(t)
	now := time.Now()
	text := mint(t, dir, time.Minute)
	redeem := func(k [sha256.Size]byte, at time.Time) error {
		store := NewTokens(dir) // as after a restart
		r, err := store.lookup(text, at)
		if err != nil {
			return err
		}
		return store.bind(r, k)
	}
	steps := []struct {
		what string
		key  byte
		at   time.Time
		want error
	}{
		{"first", 1, now, nil},
		{"same key again", 1, now.Add(time.Second), nil},
		{"another key", 2, now.Add(time.Second), ErrTokenBound},
		{"same key after that", 1, now.Add(59 * time.Second), nil},
		{"same key, expired", 1, now.Add(2 * time.Minute), ErrTokenExpired},
	}
	for _, s := range steps {
		if err := redeem(key(s.key), s.at); !errors.Is(err, s.want) {
			t.Errorf("%s: got %v, want %v", s.what, err, s.want)
		}
	}
	forged := text[:len(text)-43] + strings.Repeat("A", 43)
	if _, err := NewTokens(dir).lookup(forged, now); !errors.Is(err, ErrTokenUnknown) {
		t.Errorf("forged: %v", err)
	}
	stolen := strings.Replace(text, "shop/cart.v1", "shop/admin", 1)
	if _, err := NewTokens(dir).lookup(stolen, now); err == nil || !strings.Contains(err.Error(), "minted for") {
		t.Errorf("renamed: %v", err)
	}
}

// TestRedeemRace lets many keys redeem one token at once, each several times: exactly one key wins, every time.
func TestRedeemRace(t *testing.T) {
	dir, _ := stateDir(t)
	text := mint(t, dir, time.Minute)
	store := NewTokens(dir)
	r, err := store.lookup(text, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	const keys, tries = 8, 4
	var (
		wg   sync.WaitGroup
		mu   sync.Mutex
		won  = map[byte]int{}
		gate = make(chan struct{})
	)
	for k := range byte(keys) {
		for range tries {
			wg.Go(func() {
				<-gate
				err := store.bind(r, key(k))
				mu.Lock()
				defer mu.Unlock()
				switch {
				case err == nil:
					won[k]++
				case !errors.Is(err, ErrTokenBound):
					t.Error(err)
				}
			})
		}
	}
	close(gate)
	wg.Wait()
	if len(won) != 1 {
		t.Fatalf("keys that won: %v", won)
	}
	for k, n := range won {
		if n != tries {
			t.Fatalf("key %d won %d of %d", k, n, tries)
		}
	}
}

func TestSweep(t *testing.T) {
	dir, _ := stateDir(t)
	now := time.Now()
	store := NewTokens(dir)
	if n, err := store.Sweep(now); n != 0 || err != nil {
		t.Fatalf("empty: %d, %v", n, err)
	}
	short, long := mint(t, dir, time.Minute), mint(t, dir, time.Hour)
	for _, text := range []string{short, long} {
		r, err := store.lookup(text, now)
		if err != nil {
			t.Fatal(err)
		}
		if err := store.bind(r, key(1)); err != nil {
			t.Fatal(err)
		}
	}
	orphan := filepath.Join(store.dir, strings.Repeat("a", 64)+".key")
	fresh := filepath.Join(store.dir, ca.TempPrefix+"1")
	for _, f := range []string{orphan, fresh} {
		if err := os.WriteFile(f, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if n, err := store.Sweep(now.Add(2 * time.Minute)); n != 1 || err != nil {
		t.Fatalf("swept %d, %v", n, err)
	}
	left, err := filepath.Glob(filepath.Join(store.dir, "*"))
	if err != nil || len(left) != 3 { // the other token's two, and the one that may be being written
		t.Errorf("left: %v, %v", left, err)
	}
	if _, err := os.Stat(fresh); err != nil {
		t.Errorf("a file that may be being written: %v", err)
	}
	if _, err := store.lookup(short, now); !errors.Is(err, ErrTokenUnknown) {
		t.Errorf("swept token: %v", err)
	}
	if _, err := store.lookup(long, now); err != nil {
		t.Errorf("the other: %v", err)
	}
}
