package keystore_test

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/signet-mesh/signet/ca/authority"
	"github.com/signet-mesh/signet/certs"
	"github.com/signet-mesh/signet/certs/certtest"
	"github.com/signet-mesh/signet/kube"
	"github.com/signet-mesh/signet/kube/keystore"
	"github.com/signet-mesh/signet/kube/kubetest"
)

const td = "cluster.test"

// api is the API server's configuration; TestMain sets it once, before any test.
var api *rest.Config

func TestMain(m *testing.M) { kubetest.Main(m, func(cfg *rest.Config) { api = cfg }) }

func client(t testing.TB) kubernetes.Interface {
	t.Helper()
	c, err := kubernetes.NewForConfig(rest.CopyConfig(api))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func namespace(t testing.TB, c kubernetes.Interface) string {
	t.Helper()
	ns, err := c.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "keys-"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return ns.Name
}

func secret(t testing.TB, c kubernetes.Interface, ns, name string) *keystore.Secret {
	t.Helper()
	s, err := keystore.New(keystore.Config{Client: c, Namespace: ns, Name: name, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func share(t testing.TB, c kubernetes.Interface, ns string) (*authority.Shared, error) {
	plugged := secret(t, c, ns, kube.PluggedSecret)
	return authority.Share(t.Context(), authority.SharedOptions{
		TrustDomain: td, Store: secret(t, c, ns, kube.RootsSecret), Plugged: plugged, Recorder: plugged,
		Names: []string{"signetd." + ns + ".svc"}, Log: slog.New(slog.DiscardHandler),
	})
}

func run(t *testing.T, s *authority.Shared) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}

// TestReplicasAgree: replicas that start at once, each with its own connection, agree on one root, however the races go.
func TestReplicasAgree(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent(), connections())
	for range 5 {
		c := client(t)
		ns := namespace(t, c)
		replicas := make([]*authority.Shared, 3)
		var wg sync.WaitGroup
		for i := range replicas {
			own := client(t)
			wg.Go(func() {
				s, err := share(t, own, ns)
				if err != nil {
					t.Error(err)
					return
				}
				replicas[i] = s
			})
		}
		wg.Wait()
		if t.Failed() {
			return
		}
		roots := replicas[0].Roots()
		for _, s := range replicas[1:] {
			if !slices.EqualFunc(roots, s.Roots(), (*x509.Certificate).Equal) || len(roots) != 1 {
				t.Fatal("replicas have other roots")
			}
			if s.Current().Chain()[0].Equal(replicas[0].Current().Chain()[0]) {
				t.Error("two replicas share an intermediate")
			}
		}
		got, err := c.CoreV1().Secrets(ns).Get(t.Context(), kube.RootsSecret, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if got.Type != keystore.Type || len(got.Data) != 1 || strings.Count(string(got.Data[authority.SlotsFile]), "BEGIN PRIVATE KEY") != 1 {
			t.Errorf("stored type %q with %d files", got.Type, len(got.Data))
		}
	}
}

// TestSwapRaces: of writers that hold the same version one wins, and the others are told.
func TestSwapRaces(t *testing.T) {
	c := client(t)
	ns := namespace(t, c)
	s := secret(t, c, ns, "race")
	won := 0
	for round := range 4 { // the first round creates
		old, err := s.Load(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var mu sync.Mutex
		var wg sync.WaitGroup
		won = 0
		for i := range 6 {
			wg.Go(func() {
				err := s.Swap(t.Context(), old.Version, map[string][]byte{"who": fmt.Append(nil, round, i)})
				mu.Lock()
				defer mu.Unlock()
				switch {
				case err == nil:
					won++
				case !errors.Is(err, authority.ErrConflict):
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if won != 1 {
			t.Fatalf("%d writers won", won)
		}
	}
	// A Secret that was deleted and made again is another one, and one that is gone is not updated.
	old, err := s.Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := c.CoreV1().Secrets(ns).Delete(t.Context(), "race", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := s.Swap(t.Context(), old.Version, nil); !errors.Is(err, authority.ErrConflict) {
		t.Errorf("a deleted Secret: %v", err)
	}
	if err := s.Swap(t.Context(), "", map[string][]byte{"a": nil}); err != nil {
		t.Fatal(err)
	}
	if err := s.Swap(t.Context(), old.Version, nil); !errors.Is(err, authority.ErrConflict) {
		t.Errorf("another Secret of the name: %v", err)
	}
}

// operatorCA is a set of Istio's file names.
func operatorCA(t testing.TB) (map[string][]byte, *x509.Certificate) {
	t.Helper()
	made := certtest.NewCA(t, td)
	key, err := certs.KeyPEM(made.Key)
	if err != nil {
		t.Fatal(err)
	}
	root := certs.ChainPEM([]*x509.Certificate{made.Cert})
	return map[string][]byte{
		authority.PluggedCert: root, authority.PluggedKey: key, authority.PluggedChain: root, authority.PluggedRoot: root,
	}, made.Cert
}

// TestPluggedInAPI: a plugged-in CA is taken while three replicas run, refused while it is broken, with an Event.
func TestPluggedInAPI(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent(), connections())
	t.Run("run", func(t *testing.T) {
		c := client(t)
		ns := namespace(t, c)
		var replicas []*authority.Shared
		for range 3 {
			s, err := share(t, c, ns)
			if err != nil {
				t.Fatal(err)
			}
			run(t, s)
			replicas = append(replicas, s)
		}
		own := replicas[0].Roots()[0]
		files, root := operatorCA(t)
		broken := map[string][]byte{authority.PluggedCert: files[authority.PluggedCert]}
		put := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: kube.PluggedSecret, Namespace: ns}, Data: broken}
		put, err := c.CoreV1().Secrets(ns).Create(t.Context(), put, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		eventually(t, "an Event says incomplete", func() bool {
			list, err := c.CoreV1().Events(ns).List(t.Context(), metav1.ListOptions{})
			return err == nil && slices.ContainsFunc(list.Items, func(e corev1.Event) bool {
				return e.Type == corev1.EventTypeWarning && e.Reason == "PluggedCARefused" && strings.Contains(e.Message, "incomplete: ca-key.pem")
			})
		})
		for _, s := range replicas {
			if got := s.Roots(); len(got) != 1 || !got[0].Equal(own) {
				t.Error("a broken set changed the roots")
			}
		}
		if _, err := share(t, c, ns); err == nil || !strings.Contains(err.Error(), "incomplete") {
			t.Errorf("a start with a broken set: %v", err)
		}
		put.Data = files
		if _, err := c.CoreV1().Secrets(ns).Update(t.Context(), put, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		for _, s := range replicas {
			eventually(t, "each replica trusts both roots", func() bool {
				got := s.Roots()
				return len(got) == 2 && got[0].Equal(root) && got[1].Equal(own)
			})
			if err := s.Current().Chain()[0].CheckSignatureFrom(root); err != nil {
				t.Errorf("signing: %v", err)
			}
		}
	})
}

// connections are those of clients, which client-go keeps for the next one of the same configuration.
func connections() goleak.Option {
	return goleak.IgnoreAnyFunction("golang.org/x/net/http2.(*ClientConn).readLoop")
}
