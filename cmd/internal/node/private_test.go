package node

import (
	"io"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/signet-mesh/signet/proxy/upstream"
)

// What the sidecar serves for its own pod is no endpoint: neither its sockets nor its ports.
func TestOwnSocketsAndPortsAreNotCalled(t *testing.T) {
	dir := t.TempDir()
	n, err := New(Config{Control: "127.0.0.1:1", RunDir: dir, Log: slog.New(slog.DiscardHandler), AccessLog: io.Discard,
		Pod: &Pod{Namespace: "shop", Name: "cart-1", ServiceAccount: "cart", TrustDomain: "cluster.local", Addresses: []netip.Addr{netip.MustParseAddr("10.1.0.9")}}})
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("unix", filepath.Join(dir, SDSSocket))
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	c := n.upstreams.Update([]upstream.Spec{{Name: "x", Targets: []upstream.Target{{Address: "unix://" + filepath.Join(dir, SDSSocket)}}}})["x"]
	if _, f := c.Pick(nil).Dial(t.Context(), time.Time{}); f == nil || !strings.Contains(f.Cause.Error(), "socket of the sidecar itself") {
		t.Errorf("dialling the socket of keys: %v", f)
	}
	for at, want := range map[string]bool{"127.0.0.1:15020": true, "[::1]:15000": true, "10.1.0.9:15099": true, "10.1.0.9:15100": false, "127.0.0.1:8080": false, "10.1.0.8:15020": false} {
		if n.keeps(netip.MustParseAddrPort(at)) != want {
			t.Errorf("%s is kept: %t", at, !want)
		}
	}
}
