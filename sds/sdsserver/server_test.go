package sdsserver_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	secretv3 "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/signet-mesh/signet/certs"
	"github.com/signet-mesh/signet/certs/certtest"
	"github.com/signet-mesh/signet/sds/sdsserver"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	workload   = "spiffe://cluster.local/ns/shop/sa/web"
	domain     = "spiffe://cluster.local"
	secretType = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
	patience   = 5 * time.Second
	quiet      = 60 * time.Millisecond // how long nothing must come
)

// fixture is a running server with a client.
type fixture struct {
	ca     *certtest.CA
	source *certtest.Source
	socket string
	client secretv3.SecretDiscoveryServiceClient
	logged *journal
	ctx    context.Context
}

// journal is a log that a test reads.
type journal struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (j *journal) Write(b []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.buf.Write(b)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.buf.String()
}

// start runs a server; withSVID says whether its source has a certificate already.
func start(t *testing.T, withSVID bool) *fixture {
	t.Helper()
	f := &fixture{ca: certtest.NewCA(t, "cluster.local").Intermediate(t), source: &certtest.Source{}, logged: &journal{}}
	if withSVID {
		f.source.Replace(f.ca.SVID(t, workload), f.ca.Bundle())
	}
	f.socket = filepath.Join(t.TempDir(), "run", "sds.sock")
	ctx, cancel := context.WithCancel(context.Background())
	f.ctx = ctx
	done := run(t, ctx, f.config())
	conn, err := grpc.NewClient("unix://"+f.socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	f.client = secretv3.NewSecretDiscoveryServiceClient(conn)
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run returned %v", err)
		}
		conn.Close()
		if _, err := os.Lstat(f.socket); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the socket is left behind: %v", err)
		}
	})
	return f
}

func (f *fixture) config() sdsserver.Config {
	log := slog.New(slog.NewTextHandler(f.logged, &slog.HandlerOptions{Level: slog.LevelDebug}))
	return sdsserver.Config{Socket: f.socket, Source: f.source, Log: log}
}

// run starts Run and waits until it listens or has failed.
func run(t *testing.T, ctx context.Context, cfg sdsserver.Config) <-chan error {
	t.Helper()
	s, err := sdsserver.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	select {
	case <-s.Listening():
	case err := <-done:
		done <- err
	}
	return done
}

// rotate gives the source a new certificate of the same name and roots.
func (f *fixture) rotate(t *testing.T) *certs.SVID {
	t.Helper()
	s := f.ca.SVID(t, workload)
	f.source.Replace(s, f.ca.Bundle())
	return s
}

// secretsOf decodes resources by name; go-spiffe has to be able to read each.
func secretsOf(t *testing.T, resources []*anypb.Any) map[string]*tlsv3.Secret {
	t.Helper()
	out := map[string]*tlsv3.Secret{}
	for _, r := range resources {
		var s tlsv3.Secret
		if err := r.UnmarshalTo(&s); err != nil {
			t.Fatalf("resource is no secret: %v", err)
		}
		if c := s.GetTlsCertificate(); c != nil {
			if _, err := x509svid.Parse(c.GetCertificateChain().GetInlineBytes(), c.GetPrivateKey().GetInlineBytes()); err != nil {
				t.Errorf("%s: go-spiffe: %v", s.GetName(), err)
			}
		} else {
			ca := s.GetValidationContext().GetTrustedCa().GetInlineBytes()
			if _, err := x509bundle.Parse(spiffeid.RequireTrustDomainFromString("cluster.local"), ca); err != nil {
				t.Errorf("%s: go-spiffe: %v", s.GetName(), err)
			}
		}
		out[s.GetName()] = &s
	}
	return out
}

func names(m map[string]*tlsv3.Secret) []string {
	var out []string
	for n := range m {
		out = append(out, n)
	}
	slices.Sort(out)
	return out
}

// carries reports whether a secret holds exactly this SVID's chain.
func carries(s *tlsv3.Secret, svid *certs.SVID) bool {
	return bytes.Equal(s.GetTlsCertificate().GetCertificateChain().GetInlineBytes(), certs.ChainPEM(svid.Chain))
}

func (f *fixture) logs(t *testing.T, what string) {
	t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if strings.Contains(f.logged.String(), what) {
			return
		}
	}
	t.Errorf("log doesn't say %q:\n%s", what, f.logged)
}

func TestSocket(t *testing.T) {
	f := start(t, true)
	for path, want := range map[string]os.FileMode{f.socket: 0o600 | os.ModeSocket, filepath.Dir(f.socket): 0o700 | os.ModeDir} {
		info, err := os.Lstat(path)
		if err != nil || info.Mode() != want {
			t.Errorf("%s is %v, %v", path, info.Mode(), err)
		}
	}
	if err := <-run(t, f.ctx, f.config()); !errors.Is(err, sdsserver.ErrInUse) {
		t.Errorf("a second server on a live socket: %v", err)
	}
	if _, err := f.client.FetchSecrets(f.ctx, fetch("default")); err != nil {
		t.Errorf("the first one doesn't serve any more: %v", err)
	}
}

func TestStaleSocketIsReplaced(t *testing.T) {
	f := &fixture{source: &certtest.Source{}, logged: &journal{}, socket: filepath.Join(t.TempDir(), "sds.sock")}
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: f.socket})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false)
	dead.Close()
	ctx, cancel := context.WithCancel(context.Background())
	done := run(t, ctx, f.config())
	conn, err := net.Dial("unix", f.socket)
	if err != nil {
		t.Errorf("nobody listens: %v", err)
	} else {
		conn.Close()
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestSocketRefuses(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	open := filepath.Join(dir, "open")
	if err := errors.Join(os.Mkdir(open, 0o700), os.Chmod(open, 0o777)); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		file:                           "in the way",
		filepath.Join(file, "s"):       "not a directory",
		filepath.Join(open, "s"):       "others can replace",
		dir + strings.Repeat("/x", 60): "the limit is 107",
	} {
		f := &fixture{source: &certtest.Source{}, logged: &journal{}, socket: path}
		if err := <-run(t, context.Background(), f.config()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", path, err, want)
		}
	}
	if b, err := os.ReadFile(file); err != nil || string(b) != "precious" {
		t.Errorf("the file is now %q, %v", b, err)
	}
}

func TestNewRefuses(t *testing.T) {
	good := (&fixture{source: &certtest.Source{}, logged: &journal{}, socket: "/x"}).config()
	for name, spoil := range map[string]func(*sdsserver.Config){
		"socket": func(c *sdsserver.Config) { c.Socket = "" },
		"source": func(c *sdsserver.Config) { c.Source = nil },
		"log":    func(c *sdsserver.Config) { c.Log = nil },
	} {
		cfg := good
		spoil(&cfg)
		if _, err := sdsserver.New(cfg); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("no %s: %v", name, err)
		}
	}
}
