package admin

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// run serves a socket until the returned function is called, which gives Run's error.
func run(t *testing.T, socket string) (end func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- New(Config{Socket: socket, Status: func() any { return map[string]int{"answer": 42} }}).Run(ctx)
	}()
	for range 500 {
		if c, err := net.Dial("unix", socket); err == nil {
			c.Close()
			return func() error { cancel(); return <-done }
		}
		time.Sleep(2 * time.Millisecond)
	}
	cancel()
	t.Fatalf("the socket never opened: %v", <-done)
	return nil
}

func get(t *testing.T, socket, path string) (int, []byte) {
	t.Helper()
	tr := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}
	resp, err := (&http.Client{Transport: tr}).Get("http://admin" + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, b
}

func TestServer(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "admin.sock")
	// What a process that died left behind is replaced.
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket})
	if err != nil {
		t.Fatal(err)
	}
	ln.SetUnlinkOnClose(false)
	ln.Close()
	end := run(t, socket)
	if info, err := os.Stat(socket); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	var status struct{ Answer int }
	if code, b := get(t, socket, "/status"); code != 200 || json.Unmarshal(b, &status) != nil || status.Answer != 42 {
		t.Errorf("%d %s", code, b)
	}
	if code, b := get(t, socket, "/debug/pprof/goroutine?debug=1"); code != 200 || len(b) == 0 {
		t.Errorf("%d %s", code, b)
	}
	if code, _ := get(t, socket, "/"); code != 404 {
		t.Errorf("%d", code)
	}
	second := New(Config{Socket: socket, Status: func() any { return nil }})
	if err := second.Run(context.Background()); err == nil {
		t.Error("a second server took over a socket that is served")
	}
	if err := end(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(socket); !os.IsNotExist(err) {
		t.Errorf("the socket is left behind: %v", err)
	}
}
