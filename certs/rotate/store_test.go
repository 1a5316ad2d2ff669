package rotate_test

import (
	"context"
	"crypto/x509"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/signet-mesh/signet/certs"
	"github.com/signet-mesh/signet/certs/certtest"
	"github.com/signet-mesh/signet/certs/rotate"
	"github.com/signet-mesh/signet/identity"
)

func TestFileStore(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	store := rotate.FileStore(dir)
	if got, err := store.Load(); got != nil || err != nil {
		t.Fatalf("nothing saved, loaded %v, %v", got, err)
	}
	join := certtest.NewKey(t)
	if err := store.Save(&rotate.Stored{JoinKey: join}); err != nil {
		t.Fatal(err)
	}
	got, err := store.Load()
	if err != nil || got.Key != nil || got.JoinKey == nil {
		t.Fatalf("loaded %+v, %v", got, err)
	}
	ca := certtest.NewCA(t, "cluster.local").Intermediate(t)
	svid := ca.SVID(t, workload)
	if err := os.WriteFile(filepath.Join(dir, rotate.FileName+".new"), []byte("left by a crash"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := store.Save(&rotate.Stored{JoinKey: join, Key: svid.Key, Chain: svid.Chain, Roots: []*x509.Certificate{ca.Root}}); err != nil {
		t.Fatal(err)
	}
	if got, err = store.Load(); err != nil {
		t.Fatal(err)
	}
	if _, err := certs.NewSVID(got.Chain, got.Key); err != nil || len(got.Chain) != 2 || !got.Roots[0].Equal(ca.Root) {
		t.Errorf("loaded another identity: %v", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("directory holds %v, %v", entries, err)
	}
	for path, want := range map[string]os.FileMode{dir: 0o700, filepath.Join(dir, rotate.FileName): 0o600} {
		info, err := os.Stat(path)
		if err != nil || info.Mode().Perm() != want {
			t.Errorf("%s has mode %v, %v", path, info.Mode(), err)
		}
	}
}

func TestFileStoreRefuses(t *testing.T) {
	ca := certtest.NewCA(t, "cluster.local")
	svid := ca.SVID(t, workload)
	dir := t.TempDir()
	path := filepath.Join(dir, rotate.FileName)
	store := rotate.FileStore(dir)
	if err := store.Save(&rotate.Stored{JoinKey: svid.Key, Key: svid.Key, Chain: svid.Chain, Roots: []*x509.Certificate{ca.Root}}); err != nil {
		t.Fatal(err)
	}
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{
		"empty":            "",
		"half written":     string(good[:len(good)/2]),
		"another version":  strings.Replace(string(good), `"version":1`, `"version":2`, 1),
		"a broken key":     strings.Replace(string(good), "BEGIN PRIVATE KEY", "BEGIN PUBLIC KEY", 1),
		"key, but no more": `{"version":1,"key":` + strings.SplitN(strings.SplitN(string(good), `"key":`, 2)[1], ",", 2)[0] + `}`,
	} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := store.Load()
		if err == nil {
			t.Errorf("%s: loaded %+v", name, got)
		} else if strings.Contains(err.Error(), "MIG") {
			t.Errorf("%s: the error quotes a key: %v", name, err)
		}
	}
	if err := os.WriteFile(path, good, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := store.Load(); err == nil || !strings.Contains(err.Error(), "0600") {
		t.Errorf("a file that the group may read: %v", err)
	}
	if err := rotate.FileStore(filepath.Join(path, "below a file")).Save(&rotate.Stored{JoinKey: svid.Key}); err == nil {
		t.Error("saved below a file")
	}
}

// memory is a Store that a test looks into.
type memory struct {
	held *rotate.Stored
	fail error
	log  []*rotate.Stored
}

func (m *memory) Load() (*rotate.Stored, error) { return m.held, m.fail }
func (m *memory) Save(s *rotate.Stored) error {
	m.log = append(m.log, s)
	return m.fail
}

func TestJoinKeyIsStoredBeforeItIsShown(t *testing.T) {
	store := &memory{}
	hung := func(c *rotate.Config) { c.Store, c.Issuer.(*issuer).hang = store, true }
	bubble(t, hung, func(t *testing.T, _ *rotate.Rotator, i *issuer) {
		synctest.Wait()
		if len(i.seen()) != 1 || len(store.log) != 1 || !i.seen()[0].sameKey(call{key: store.log[0].JoinKey.Public()}) {
			t.Fatalf("in the first call: %d calls, saved %d times", len(i.seen()), len(store.log))
		}
		i.set(func() { i.hang = false })
		time.Sleep(time.Minute)
		synctest.Wait()
	})
	if len(store.log) < 2 || store.log[0].Key != nil || store.log[0].JoinKey == nil {
		t.Fatalf("saved %d times, first %+v", len(store.log), store.log[0])
	}
	if last := store.log[len(store.log)-1]; last.JoinKey != store.log[0].JoinKey || last.Key != last.JoinKey || len(last.Chain) == 0 {
		t.Errorf("saved last %+v", last)
	}
}

func TestRestart(t *testing.T) {
	join := certtest.NewKey(t)
	fresh := func(t *testing.T, ca *certtest.CA, ttl time.Duration, id string) *rotate.Stored {
		key := certtest.NewKey(t)
		now := time.Now()
		return &rotate.Stored{
			JoinKey: join, Key: key, Roots: []*x509.Certificate{ca.Root},
			Chain: ca.ChainFor(t, key.Public(), id, certtest.Valid(now.Add(-ttl/4), now.Add(ttl*3/4))),
		}
	}
	for _, c := range []struct {
		name   string
		stored func(*testing.T, *certtest.CA) *rotate.Stored
		fail   error
		// Before the control plane answers: is there a certificate? Was it asked at once? With the join key?
		atOnce, asked, joined bool
	}{
		{name: "first start", stored: func(*testing.T, *certtest.CA) *rotate.Stored { return nil }, asked: true},
		{name: "key only", stored: func(*testing.T, *certtest.CA) *rotate.Stored { return &rotate.Stored{JoinKey: join} }, asked: true, joined: true},
		{name: "valid", stored: func(t *testing.T, ca *certtest.CA) *rotate.Stored { return fresh(t, ca, time.Hour, workload) }, atOnce: true},
		{name: "due", stored: func(t *testing.T, ca *certtest.CA) *rotate.Stored {
			s := fresh(t, ca, time.Hour, workload)
			now := time.Now()
			s.Chain = ca.ChainFor(t, s.Key.Public(), workload, certtest.Valid(now.Add(-50*time.Minute), now.Add(10*time.Minute)))
			return s
		}, atOnce: true, asked: true},
		{name: "expired", stored: func(t *testing.T, ca *certtest.CA) *rotate.Stored {
			s := fresh(t, ca, time.Hour, workload)
			s.Chain = ca.ChainFor(t, s.Key.Public(), workload, certtest.Expired())
			return s
		}, asked: true, joined: true},
		{name: "another's", stored: func(t *testing.T, ca *certtest.CA) *rotate.Stored {
			return fresh(t, ca, time.Hour, "spiffe://cluster.local/ns/shop/sa/db")
		}, asked: true},
		{name: "key of another certificate", stored: func(t *testing.T, ca *certtest.CA) *rotate.Stored {
			s := fresh(t, ca, time.Hour, workload)
			s.Key = certtest.NewKey(t)
			return s
		}, asked: true, joined: true},
		{name: "unreadable", stored: func(*testing.T, *certtest.CA) *rotate.Stored { return nil }, fail: errors.New("disk"), asked: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				i := &issuer{t: t, ca: certtest.NewCA(t, "cluster.local"), id: workload, ttl: time.Hour, fail: errors.New("away")}
				id, err := identity.Parse(workload)
				if err != nil {
					t.Fatal(err)
				}
				r, err := rotate.New(rotate.Config{
					Issuer: i, ID: id, Log: slog.New(slog.DiscardHandler), Store: &memory{held: c.stored(t, i.ca), fail: c.fail},
				})
				if err != nil {
					t.Fatal(err)
				}
				ctx, cancel := context.WithCancel(t.Context())
				done := make(chan error)
				go func() { done <- r.Run(ctx) }()
				synctest.Wait()
				if got := r.Current().SVID != nil; got != c.atOnce {
					t.Errorf("certificate at once: %v", got)
				}
				if got := len(i.seen()) > 0; got != c.asked {
					t.Fatalf("asked at once: %v", got)
				}
				if c.asked && i.seen()[0].sameKey(call{key: join.Public()}) != c.joined {
					t.Errorf("asked with the join key: %v", !c.joined)
				}
				i.set(func() { i.fail = nil })
				time.Sleep(time.Hour)
				synctest.Wait()
				if s := r.Current().SVID; s == nil || s.ID != id || s.Leaf().NotAfter.Before(time.Now()) {
					t.Errorf("no good certificate after an hour: %+v", r.Status())
				}
				cancel()
				<-done
			})
		})
	}
}
