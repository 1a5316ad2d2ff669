package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	secret "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	rpc "google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"
)

const secretType = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"

func sdsClient(t *testing.T, socket string) secret.SecretDiscoveryServiceClient {
	t.Helper()
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return secret.NewSecretDiscoveryServiceClient(conn)
}

func secretOf(t *testing.T, body *anypb.Any) *tlsv3.Secret {
	t.Helper()
	var s tlsv3.Secret
	if err := body.UnmarshalTo(&s); err != nil {
		t.Fatal(err)
	}
	return &s
}

// svidOf reads a certificate secret as go-spiffe does, which checks that the key is the leaf's.
func svidOf(t *testing.T, s *tlsv3.Secret) *x509svid.SVID {
	t.Helper()
	c := s.GetTlsCertificate()
	svid, err := x509svid.ParseRaw(pemDER(c.GetCertificateChain().GetInlineBytes()), pemDER(c.GetPrivateKey().GetInlineBytes()))
	if err != nil {
		t.Fatalf("secret %q: %v", s.GetName(), err)
	}
	return svid
}

// TestSDS speaks to a sidecar's socket with grpc-go in all three ways, and sees rotations.
func TestSDS(t *testing.T) {
	t.Parallel()
	m := up(t, map[string]string{"mesh.yaml": shop(addr(), freePort(t))}, "--workload-cert-ttl", "10s")
	cart := m.workload("shop/cart")
	info, err := os.Stat(cart.SDS)
	if err != nil || info.Mode().Type() != fs.ModeSocket || info.Mode().Perm() != 0o600 {
		t.Fatalf("socket %s: %v, %v", cart.SDS, info.Mode(), err)
	}
	client := sdsClient(t, cart.SDS)
	names := []string{"ROOTCA", "default", "spiffe://cluster.local", cart.SPIFFEID}
	t.Run("fetch", func(t *testing.T) { fetchSecrets(t, client, names, cart.SPIFFEID) })
	t.Run("what TLS uses", func(t *testing.T) {
		pay := m.workload("shop/pay")
		eventually(t, 5*time.Second, func() string { // but in the moment of a rotation it is the same
			tls, own := served(t, pay.Inbound[0], filepath.Join(m.State, "root-cert.pem")), newest(t, pay.SDS)
			if !tls.Equal(own) {
				return fmt.Sprintf("TLS shows serial %x, SDS %x", tls.SerialNumber, own.SerialNumber)
			}
			return ""
		})
	})
	t.Run("stream", func(t *testing.T) { t.Parallel(); streamSecrets(t, client, cart.SPIFFEID) })
	t.Run("delta", func(t *testing.T) { t.Parallel(); deltaSecrets(t, client, cart.SPIFFEID) })
}

func fetchSecrets(t *testing.T, client secret.SecretDiscoveryServiceClient, names []string, id string) {
	all, err := client.FetchSecrets(t.Context(), &discovery.DiscoveryRequest{TypeUrl: secretType})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range all.GetResources() {
		s := secretOf(t, r)
		got = append(got, s.GetName())
		if s.GetTlsCertificate() != nil {
			if svid := svidOf(t, s); svid.ID.String() != id {
				t.Errorf("%s is %s", s.GetName(), svid.ID)
			}
			continue
		}
		bundle, err := x509bundle.Parse(spiffeid.RequireTrustDomainFromString("cluster.local"), s.GetValidationContext().GetTrustedCa().GetInlineBytes())
		if err != nil || len(bundle.X509Authorities()) != 1 {
			t.Errorf("%s: %v", s.GetName(), err)
		}
	}
	if slices.Sort(got); !slices.Equal(got, names) {
		t.Errorf("served are %q, want %q", got, names)
	}
	_, err = client.FetchSecrets(t.Context(), &discovery.DiscoveryRequest{TypeUrl: secretType, ResourceNames: []string{"spiffe://cluster.local/ns/shop/sa/pay"}})
	if rpc.Code(err) != codes.NotFound {
		t.Errorf("another workload's secret: %v", err)
	}
}

func streamSecrets(t *testing.T, client secret.SecretDiscoveryServiceClient, id string) {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	s, err := client.StreamSecrets(ctx)
	if err != nil {
		t.Fatal(err)
	}
	req := &discovery.DiscoveryRequest{TypeUrl: secretType, ResourceNames: []string{"default"}}
	var serials []string
	for range 3 {
		if err := s.Send(req); err != nil {
			t.Fatal(err)
		}
		r, err := s.Recv()
		if err != nil {
			t.Fatal(err)
		}
		svid := svidOf(t, secretOf(t, r.GetResources()[0]))
		serials = append(serials, svid.Certificates[0].SerialNumber.String())
		if left := time.Until(svid.Certificates[0].NotAfter); svid.ID.String() != id || left <= 0 {
			t.Errorf("%s, valid for %s", svid.ID, left)
		}
		req = &discovery.DiscoveryRequest{TypeUrl: secretType, ResourceNames: []string{"default"}, VersionInfo: r.GetVersionInfo(), ResponseNonce: r.GetNonce()}
	}
	if slices.Sort(serials); len(slices.Compact(serials)) != 3 {
		t.Errorf("three answers, serials %v", serials)
	}
}

func deltaSecrets(t *testing.T, client secret.SecretDiscoveryServiceClient, id string) {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	s, err := client.DeltaSecrets(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Send(&discovery.DeltaDiscoveryRequest{TypeUrl: secretType, ResourceNamesSubscribe: []string{id, "ROOTCA"}}); err != nil {
		t.Fatal(err)
	}
	var serials []string
	for i := range 3 {
		r, err := s.Recv()
		if err != nil {
			t.Fatal(err)
		}
		for _, res := range r.GetResources() {
			if res.GetName() == "ROOTCA" && i == 0 {
				continue
			}
			if res.GetName() != id { // unchanged roots are not sent again
				t.Errorf("answer %d brings %q", i, res.GetName())
				continue
			}
			serials = append(serials, svidOf(t, secretOf(t, res.GetResource())).Certificates[0].SerialNumber.String())
		}
		if err := s.Send(&discovery.DeltaDiscoveryRequest{TypeUrl: secretType, ResponseNonce: r.GetNonce()}); err != nil {
			t.Fatal(err)
		}
	}
	if slices.Sort(serials); len(slices.Compact(serials)) != 3 {
		t.Errorf("three answers, serials %v", serials)
	}
}

// envoyPath is the real Envoy that test/setup.sh installs.
func envoyPath(t *testing.T) string {
	t.Helper()
	for _, p := range []string{os.Getenv("SIGNET_TEST_ENVOY"), "../../.cache/envoy/bin/envoy", "/opt/venv-envoy/bin/envoy"} {
		if p != "" && fileExists(p) {
			return p
		}
	}
	t.Fatal("there is no Envoy: run test/setup.sh, or set SIGNET_TEST_ENVOY")
	return ""
}

// TestEnvoy: an Envoy with a sidecar's SDS socket is that workload to the mesh, before and after rotations.
func TestEnvoy(t *testing.T) {
	t.Parallel()
	m := up(t, map[string]string{"mesh.yaml": shop(addr(), echo(t, nil)), "policy.yaml": allowCart}, "--workload-cert-ttl", "10s")
	for _, tc := range []struct{ api, alpn, certificate, roots string }{
		{"GRPC", "http/1.1", "default", "ROOTCA"},
		{"DELTA_GRPC", "istio-http/1.1", "spiffe://cluster.local/ns/shop/sa/cart", "spiffe://cluster.local"},
	} {
		t.Run(tc.api, func(t *testing.T) {
			t.Parallel()
			e := startEnvoy(t, m, "shop/cart", map[string]string{"API": tc.api, "ALPN": tc.alpn, "CERTIFICATE": tc.certificate, "ROOTS": tc.roots})
			e.followsRotation(t)
		})
	}
	t.Run("another caller", func(t *testing.T) {
		t.Parallel()
		e := startEnvoy(t, m, "shop/thief", map[string]string{"API": "GRPC", "ALPN": "http/1.1", "CERTIFICATE": "default", "ROOTS": "ROOTCA"})
		eventually(t, 20*time.Second, func() string {
			if status, body := e.get(); status != 403 || !strings.Contains(body, "RBAC: access denied") {
				return fmt.Sprintf("got %d %s", status, body)
			}
			return ""
		})
	})
}

type envoy struct {
	url string
	log bytes.Buffer
	t   *testing.T
}

func startEnvoy(t *testing.T, m *running, caller string, values map[string]string) *envoy {
	t.Helper()
	conf, err := os.ReadFile("testdata/envoy.yaml")
	if err != nil {
		t.Fatal(err)
	}
	dir, port, pay := shortDir(t), freePort(t), m.workload("shop/pay")
	host, peerPort, _ := net.SplitHostPort(pay.Inbound[0])
	text := string(conf)
	for k, v := range values {
		text = strings.ReplaceAll(text, "@"+k+"@", v)
	}
	text = strings.NewReplacer("@ADMIN@", filepath.Join(dir, "admin"), "@LISTEN@", fmt.Sprint(port), "@SDS@", m.workload(caller).SDS,
		"@PEER_HOST@", host, "@PEER_PORT@", peerPort, "@PEER_ID@", pay.SPIFFEID).Replace(text)
	file := filepath.Join(dir, "envoy.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	e := &envoy{url: fmt.Sprintf("http://127.0.0.1:%d/hello", port), t: t}
	cmd := exec.Command(envoyPath(t), "-c", file, "--use-dynamic-base-id", "--concurrency", "1", "-l", "warning")
	cmd.Stdout, cmd.Stderr = &e.log, &e.log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { _ = cmd.Wait(); close(done) }()
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		<-done
		if t.Failed() {
			t.Logf("Envoy said:\n%s", e.log.String())
		}
	})
	return e
}

func (e *envoy) get() (int, string) {
	req, err := http.NewRequestWithContext(e.t.Context(), http.MethodGet, e.url, nil)
	if err != nil {
		e.t.Fatal(err)
	}
	resp, err := (&http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	var b bytes.Buffer
	if _, err := b.ReadFrom(resp.Body); err != nil && !errors.Is(err, context.Canceled) {
		return resp.StatusCode, err.Error()
	}
	return resp.StatusCode, b.String()
}

// followsRotation waits until Envoy proves itself with three certificates, one after the other, and fails no request from
// the first that succeeds.
func (e *envoy) followsRotation(t *testing.T) {
	var hashes []string
	end := time.Now().Add(40 * time.Second)
	for len(hashes) < 3 {
		if time.Now().After(end) {
			t.Fatalf("certificates that Envoy showed: %v", hashes)
		}
		status, body := e.get()
		if status != 200 {
			if len(hashes) > 0 {
				t.Fatalf("after %d certificates: %d %s", len(hashes), status, body)
			}
			time.Sleep(100 * time.Millisecond)
			continue
		}
		_, rest, _ := strings.Cut(body, ";Hash=")
		hash, rest, _ := strings.Cut(rest, ";")
		if len(hash) != 64 || !strings.Contains(rest, "URI=spiffe://cluster.local/ns/shop/sa/cart") || !strings.Contains(body, "By=spiffe://cluster.local/ns/shop/sa/pay") {
			t.Fatalf("pay's program was told\n%s", body)
		}
		if !slices.Contains(hashes, hash) {
			hashes = append(hashes, hash)
		}
		time.Sleep(50 * time.Millisecond)
	}
}
