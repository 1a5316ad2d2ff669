package rego

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/signet-mesh/signet/authz"
	"github.com/signet-mesh/signet/identity/jwt"
	"github.com/signet-mesh/signet/mesh/policy"
)

// tarball is a bundle of one policy and its data.
func tarball(t *testing.T, revision, module, data string) []byte {
	t.Helper()
	var out bytes.Buffer
	zip := gzip.NewWriter(&out)
	archive := tar.NewWriter(zip)
	for name, text := range map[string]string{
		"/.manifest": fmt.Sprintf(`{"revision": %q, "rego_version": 1}`, revision), "/m/policy.rego": module, "/data.json": data,
	} {
		if err := archive.WriteHeader(&tar.Header{Name: name, Mode: 0o600, Size: int64(len(text))}); err != nil {
			t.Fatal(err)
		}
		if _, err := archive.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := archive.Close(); err != nil {
		t.Fatal(err)
	}
	if err := zip.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// services serve a bundle and take decision logs.
type services struct {
	bundle atomic.Pointer[[]byte]
	events chan map[string]any
}

func (s *services) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodGet {
		if b := s.bundle.Load(); b != nil {
			_, _ = w.Write(*b)
			return
		}
		http.NotFound(w, r)
		return
	}
	zip, err := gzip.NewReader(r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	var events []map[string]any
	if err := json.NewDecoder(zip).Decode(&events); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	for _, e := range events {
		s.events <- e
	}
}

func (s *services) serve(b []byte) { s.bundle.Store(&b) }

const bundled = `package m

default allow := false

allow if input.attributes.request.http.headers["x-tier"] in data.tiers
`

const masking = `package system.log

mask contains "/input/attributes/request/http/headers/x-tier"
`

func remotePolicy(t *testing.T, url, stateDir string) *Policy {
	t.Helper()
	quick := durationpb.New(100 * time.Millisecond)
	p, err := New(Config{
		Namespace: "lab", Name: "menu", Workload: "lab/oven", StateDir: stateDir, Log: slog.New(slog.DiscardHandler),
		Spec: &policy.RegoPolicy{
			Query: "data.m.allow", Timeout: durationpb.New(MaxTimeout),
			Bundle:      &policy.RegoBundle{Url: url, Path: "bundles/menu.tar.gz", Polling: &policy.BundlePolling{MinDelay: quick, MaxDelay: quick}},
			DecisionLog: &policy.DecisionLog{Url: url, MinDelay: quick, MaxDelay: quick},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func running(t *testing.T, p *Policy) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	return func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(60 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
	}
}

// TestBundle fetches one, lowers it, keeps it when the next is bad and when the server is gone, and reports decisions.
func TestBundle(t *testing.T) {
	s := &services{events: make(chan map[string]any, 1000)}
	server := httptest.NewServer(s)
	defer server.Close()
	dir := t.TempDir()
	p := remotePolicy(t, server.URL, dir)
	stop := running(t, p)
	gold := &authz.Request{Method: "GET", Path: "/", Headers: fields{"x-tier", "gold"}}
	free := &authz.Request{Method: "GET", Path: "/", Headers: fields{"x-tier", "free"}}
	asks := func(p *Policy, r *authz.Request) bool { return p.Ask(t.Context(), peer(t, "web"), r).Allowed }
	if asks(p, gold) || p.Status().Ready {
		t.Fatal("allowed before there is a bundle")
	}
	s.serve(tarball(t, "one", bundled, `{"tiers": ["gold"]}`))
	eventually(t, "the first bundle", func() bool { return p.Status().Revision == "one" })
	if !asks(p, gold) || asks(p, free) || !p.Status().Lowered {
		t.Fatalf("%+v", p.Status())
	}
	if st := p.Status(); st.LastError != "" || st.Errors != 1 {
		t.Fatalf("the first bundle is active, and yet: %+v", st)
	}
	s.serve(tarball(t, "two", strings.Replace(bundled, "allow", "other", 2), `{}`))
	eventually(t, "the bad bundle is noticed", func() bool {
		return strings.Contains(p.Status().Bundle.LastError, "names no rule")
	})
	if st := p.Status(); !asks(p, gold) || st.Revision != "one" {
		t.Fatalf("%+v", st)
	}
	var read Status
	text, err := json.Marshal(p.Status())
	if err == nil {
		err = json.Unmarshal(text, &read)
	}
	if err != nil || !strings.Contains(read.Bundle.LastError, "names no rule") || read.DecisionLog == nil {
		t.Fatalf("as JSON: %s: %v", text, err)
	}
	s.serve(tarball(t, "three", bundled, `{"tiers": ["free"]}`))
	eventually(t, "the third bundle", func() bool { return p.Status().Revision == "three" })
	if asks(p, gold) || !asks(p, free) {
		t.Fatal("the third bundle has no effect")
	}
	stop()
	server.Close()
	again := remotePolicy(t, server.URL, dir)
	defer running(t, again)()
	eventually(t, "the kept bundle", func() bool { return again.Status().Revision == "three" })
	if asks(again, gold) || !asks(again, free) {
		t.Fatal("the kept bundle has no effect")
	}
}

// TestDecisionLog masks what the policy says.
func TestDecisionLog(t *testing.T) {
	s := &services{events: make(chan map[string]any, 1000)}
	server := httptest.NewServer(s)
	defer server.Close()
	p, err := New(Config{
		Namespace: "lab", Name: "menu", Workload: "lab/oven", Log: slog.New(slog.DiscardHandler),
		Spec: &policy.RegoPolicy{
			Query: "data.m.allow", Data: dataOf(t, `{"tiers": ["gold"]}`), Timeout: durationpb.New(MaxTimeout),
			Modules:     []*policy.RegoModule{{Name: "m.rego", Source: bundled}, {Name: "mask.rego", Source: masking}},
			DecisionLog: &policy.DecisionLog{Url: server.URL, MinDelay: durationpb.New(100 * time.Millisecond), MaxDelay: durationpb.New(100 * time.Millisecond)},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer running(t, p)()
	if !p.Ask(t.Context(), peer(t, "web"), &authz.Request{Method: "GET", Path: "/", Headers: fields{"x-tier", "gold"}}).Allowed {
		t.Fatal(p.Status())
	}
	e := <-s.events
	text, _ := json.Marshal(e)
	if e["path"] != "m/allow" || e["result"] != true || strings.Contains(string(text), "gold") || !strings.Contains(string(text), `"erased":["/input/attributes/request/http/headers/x-tier"]`) ||
		e["requested_by"] != "spiffe://cluster.local/ns/shop/sa/web" {
		t.Errorf("%s", text)
	}
}

// TestDecisionLogOfObject logs the whole of a lowered decision.
func TestDecisionLogOfObject(t *testing.T) {
	s := &services{events: make(chan map[string]any, 10)}
	server := httptest.NewServer(s)
	defer server.Close()
	quick := durationpb.New(100 * time.Millisecond)
	p, err := New(Config{
		Namespace: "lab", Name: "menu", Log: slog.New(slog.DiscardHandler),
		Spec: &policy.RegoPolicy{
			Query:       "data.m.decision",
			Module:      `package m` + "\n" + `decision := {"allowed": false, "headers": {"x-path": input.attributes.request.http.path}}`,
			DecisionLog: &policy.DecisionLog{Url: server.URL, MinDelay: quick, MaxDelay: quick},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer running(t, p)()
	for _, path := range []string{"/first", "/other"} { // the second is made in the first one's memory
		p.Ask(t.Context(), peer(t, "web"), &authz.Request{Method: "GET", Path: path, Query: "?a=b", Headers: fields{}})
	}
	for _, path := range []string{"/first?a=b", "/other?a=b"} {
		e := <-s.events
		text, _ := json.Marshal(e["result"])
		if want := `{"allowed":false,"headers":{"x-path":"` + path + `"}}`; string(text) != want {
			t.Errorf("%s, want %s", text, want)
		}
	}
	if st := p.Status(); st.Natively != 2 {
		t.Errorf("%+v", st)
	}
}

// TestDecisionLogOfToken sends no token, wherever it came from.
func TestDecisionLogOfToken(t *testing.T) {
	s := &services{events: make(chan map[string]any, 10)}
	server := httptest.NewServer(s)
	defer server.Close()
	quick := durationpb.New(100 * time.Millisecond)
	p, err := New(Config{
		Namespace: "lab", Name: "menu", Log: slog.New(slog.DiscardHandler),
		Spec: &policy.RegoPolicy{
			Query: "data.m.allow", Module: "package m\nallow if { input.attributes.request.http.headers[\"x-jwt\"]; input.attributes.request.http.path }",
			DecisionLog: &policy.DecisionLog{Url: server.URL, MinDelay: quick, MaxDelay: quick},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer running(t, p)()
	r := &authz.Request{Method: "GET", Path: "/a", Query: "?t=opaque.payload1.opaque", Headers: fields{"x-jwt", "opaque.payload1.opaque"}, Token: &jwt.Token{Payload: "payload1"}}
	if !p.Ask(t.Context(), peer(t, "web"), r).Allowed {
		t.Fatal(p.Status())
	}
	text, _ := json.Marshal(<-s.events)
	if strings.Contains(string(text), "opaque") || !strings.Contains(string(text), `"/a?t=***"`) || !strings.Contains(string(text), `"x-jwt":"***"`) {
		t.Errorf("%s", text)
	}
}
