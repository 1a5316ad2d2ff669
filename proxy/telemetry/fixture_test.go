package telemetry

import (
	"bytes"
	"errors"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/signet-mesh/signet/proxy"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	web = &proxy.Party{Workload: "web", Namespace: "shop", Principal: "spiffe://cluster.local/ns/shop/sa/web", App: "web", Version: "v1",
		CanonicalService: "web", CanonicalRevision: "v1"}
	cart = &proxy.Party{Workload: "cart", Namespace: "shop", Principal: "spiffe://cluster.local/ns/shop/sa/cart", App: "cart", Version: "v2",
		CanonicalService: "cart", CanonicalRevision: "v2"}
	nobody      = &proxy.Party{}
	cartService = &proxy.Destination{Service: "cart.shop", ServiceName: "cart", ServiceNamespace: "shop"}
)

// exchange is a request that went well, as the destination's side records it.
func exchange() *proxy.Record {
	return &proxy.Record{
		Side: proxy.DestinationSide, Start: time.Date(2026, 3, 4, 5, 6, 7, 89_000_000, time.UTC), Duration: 12345 * time.Microsecond,
		UpstreamTime: 9 * time.Millisecond, Source: web, Destination: cart, Service: cartService, Security: proxy.SecurityMTLS,
		Method: "GET", Authority: "cart.shop", Path: "/items/1", Query: "?full=yes", Minor: 1, Status: 200, Flag: "-",
		Detail: "via_upstream", RouteName: "default", UserAgent: "curl/8.9.1", RequestID: "5d1b9f2e-61b2-4b1e-9f0a-0d1f5f0c8a11",
		BytesReceived: 10, BytesSent: 2048, SNI: "outbound_.80_._.cart.shop", UpstreamCluster: "inbound|80||",
		UpstreamHost: netip.MustParseAddrPort("127.0.0.1:8080"), UpstreamLocal: netip.MustParseAddrPort("127.0.0.1:41000"),
		DownstreamLocal: netip.MustParseAddrPort("127.0.10.2:80"), DownstreamRemote: netip.MustParseAddrPort("127.0.10.1:52000"),
	}
}

// records are one of each kind of line.
func records() map[string]*proxy.Record {
	denied := exchange()
	denied.Status, denied.Detail, denied.UpstreamTime = 403, "rbac_access_denied_matched_policy[ns[shop]-policy[no-admin]-rule[0]]", 0
	denied.UpstreamHost, denied.UpstreamLocal = netip.AddrPort{}, netip.AddrPort{}

	failed := exchange()
	failed.Side, failed.Status, failed.Flag, failed.UpstreamTime = proxy.SourceSide, 503, "UF", 0
	failed.Detail = "upstream_reset_before_response_started{connection_failure}"
	failed.TransportFailure = `TLS handshake with "127.0.10.2:80": expected ["spiffe://cluster.local/ns/shop/sa/cart"]`
	failed.UpstreamCluster = "outbound|80|v1|cart.shop"

	stream := exchange()
	*stream = proxy.Record{Side: proxy.DestinationSide, TCP: true, Start: stream.Start, Duration: 3 * time.Second, Source: nobody,
		Destination: cart, Service: cartService, Security: proxy.SecurityNone, BytesReceived: 7, BytesSent: 9, Flag: "-",
		Detail: "rbac_access_denied_matched_policy[none]", UpstreamCluster: "inbound|4222||",
		DownstreamLocal: netip.MustParseAddrPort("[::1]:4222"), DownstreamRemote: netip.MustParseAddrPort("[fd00::2]:52000")}

	audited := exchange()
	audited.Audited = "ns[shop]-policy[watch]-rule[1]"

	hostile := exchange()
	hostile.Method = "GE\"T"
	hostile.Path, hostile.Query = "/a\nfake line\r\x1b[31m\\", "?q=\"\x00\u2028é\xff"
	hostile.UserAgent, hostile.RequestID = "a\" 200 \"b", strings.Repeat("x", 300)
	hostile.Authority, hostile.SNI, hostile.ForwardedFor = "h\tost", "a b\nc", "\u0085\x7f"
	hostile.RouteName, hostile.Detail = "a route", "a detail with spaces"

	return map[string]*proxy.Record{"ok": exchange(), "denied": denied, "failed": failed, "stream": stream, "audited": audited,
		"hostile": hostile, "empty": {Source: nobody, Destination: nobody, Service: &proxy.Destination{}, Start: stream.Start, Minor: 1}}
}

// golden compares with testdata/NAME; SIGNET_UPDATE_GOLDEN=1 writes it.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if os.Getenv("SIGNET_UPDATE_GOLDEN") != "" {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s differs:\ngot\n%s\nwant\n%s", path, got, want)
	}
}

// sink is a writer that tests can look into, block and break.
type sink struct {
	mu   sync.Mutex
	buf  bytes.Buffer
	gate chan struct{} // nil: open
	fail bool
}

func (s *sink) Write(p []byte) (int, error) {
	if s.gate != nil {
		<-s.gate
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fail {
		return 0, errBroken
	}
	return s.buf.Write(p)
}

func (s *sink) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.String()
}

var errBroken = errors.New("writing to sink: " + io.ErrClosedPipe.Error())

// eventually waits until ok, at most two seconds.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(2 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never happened: %s", what)
		}
	}
}
