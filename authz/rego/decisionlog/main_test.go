package decisionlog

import (
	"compress/gzip"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/signet-mesh/signet/mesh/policy"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// collector is a decision log server.
type collector struct {
	mu     sync.Mutex
	events []map[string]any
	sizes  []int // of the bodies as they came
	paths  []string
	handle http.HandlerFunc // nil: take them
}

func (c *collector) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	handle := c.handle
	c.mu.Unlock()
	if handle != nil {
		handle(w, r)
		return
	}
	size := &counter{r: r.Body}
	zip, err := gzip.NewReader(size)
	if err != nil || r.Header.Get("Content-Encoding") != "gzip" || r.Header.Get("Content-Type") != "application/json" || r.Method != http.MethodPost {
		http.Error(w, "not gzipped JSON", http.StatusBadRequest)
		return
	}
	var events []map[string]any
	d := json.NewDecoder(zip)
	d.UseNumber()
	if err := d.Decode(&events); err != nil || len(events) == 0 {
		http.Error(w, "no events", http.StatusBadRequest)
		return
	}
	_, _ = io.Copy(io.Discard, zip)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.events = append(c.events, events...)
	c.sizes = append(c.sizes, size.n)
	c.paths = append(c.paths, r.URL.EscapedPath())
}

type counter struct {
	r io.Reader
	n int
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += n
	return n, err
}

func (c *collector) fail(h http.HandlerFunc) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.handle = h
}

func (c *collector) got() []map[string]any {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.events
}

func config(url string) Config {
	return Config{
		Spec: &policy.DecisionLog{Url: url, MinDelay: durationpb.New(100 * time.Millisecond), MaxDelay: durationpb.New(100 * time.Millisecond)},
		Name: "lab/menu", Labels: map[string]string{"id": "lab/menu-1", "version": "1.0"}, Log: slog.New(slog.DiscardHandler),
	}
}

func reporter(t testing.TB, c Config) *Reporter {
	t.Helper()
	r, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// start runs a Reporter until stop.
func start(t *testing.T, r *Reporter) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			select {
			case err := <-done:
				if err != nil {
					t.Errorf("Run: %v", err)
				}
			case <-time.After(DrainTime + 5*time.Second):
				t.Error("Run goes on after its context ended")
			}
		})
	}
	t.Cleanup(stop)
	return stop
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
	}
}

func value(t testing.TB, text string) ast.Value {
	t.Helper()
	v, err := ast.ValueFromReader(reader(text))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func event(t testing.TB, id, input string) *Event {
	return &Event{ID: id, Path: "menu/decision", Input: value(t, input), Result: ast.Boolean(true), Time: time.Now()}
}
