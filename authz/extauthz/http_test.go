package extauthz_test

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	meshconfig "istio.io/api/mesh/v1alpha1"

	"github.com/signet-mesh/signet/authz"
	"github.com/signet-mesh/signet/authz/extauthz"
)

// speaker answers each request on a connection with raw bytes, and counts connections.
type speaker struct {
	address string
	mu      sync.Mutex // guards what follows
	conns   int
}

// speak serves what say writes; the connection ends where it says so.
func speak(t *testing.T, say func(conn net.Conn, r *http.Request) (more bool)) *speaker {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &speaker{address: l.Addr().String()}
	var running sync.WaitGroup
	serve := func(conn net.Conn) {
		defer conn.Close()
		in := bufio.NewReader(conn)
		for {
			r, err := http.ReadRequest(in)
			if err != nil || !say(conn, r) {
				return
			}
		}
	}
	running.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			s.conns++
			s.mu.Unlock()
			running.Go(func() { serve(conn) })
		}
	})
	t.Cleanup(func() { l.Close(); running.Wait() })
	return s
}

func (s *speaker) connections() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.conns
}

// saying writes an answer and ends the connection.
func saying(answer string) func(net.Conn, *http.Request) bool {
	return func(conn net.Conn, _ *http.Request) bool { fmt.Fprint(conn, answer); return false }
}

func TestFaultsOverHTTP(t *testing.T) {
	reset := func(conn net.Conn, _ *http.Request) bool {
		fmt.Fprint(conn, "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nab")
		conn.(*net.TCPConn).SetLinger(0)
		return false
	}
	hang := func(conn net.Conn, _ *http.Request) bool { conn.Read(make([]byte, 1)); return false }
	for _, c := range []struct {
		name string
		say  func(net.Conn, *http.Request) bool
		want string
		open bool // whether failOpen opens
	}{
		{"it hangs", hang, "no answer within 300ms", true},
		{"it ends at once", saying(""), "the connection ended", true},
		{"it breaks off in the head", saying("HTTP/1.1 200 OK\r\ncontent-le"), "not HTTP", true},
		{"a reset in the body of an approval", reset, "the connection ended", true},
		{"a short body of an approval", saying("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nab"), "the connection ended", true},
		{"a short body of a denial", saying("HTTP/1.1 403 Forbidden\r\ncontent-length: 10\r\n\r\nab"), "the connection ended", false},
		{"a huge head", saying("HTTP/1.1 200 OK\r\nx-a: " + strings.Repeat("x", 2*extauthz.MaxAnswerHead) + "\r\n\r\n"), "not HTTP, or its head is too large", true},
		{"no status", saying("HTTP/1.1 abc secret\r\n\r\n"), "not HTTP", true},
		{"a status that is none", saying("HTTP/1.1 700 What\r\ncontent-length: 0\r\n\r\n"), "not HTTP", true},
		{"another protocol", saying("HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n"), "not HTTP", true},
		{"not HTTP", saying("secret 1 2 3\r\n\r\n"), "not HTTP", true},
		{"a malformed header", saying("HTTP/1.1 200 OK\r\nsecret\r\n\r\n"), "not HTTP", true},
		{"a long body of a denial", saying("HTTP/1.1 403 Forbidden\r\n\r\n" + strings.Repeat("x", extauthz.MaxDenialBody+1)), "more than 65536 bytes", false},
		{"too many headers of a denial", saying("HTTP/1.1 403 Forbidden\r\n" + strings.Repeat("x-a: 1\r\n", extauthz.MaxEdits+1) + "content-length: 0\r\n\r\n"), "more than 64", false},
		{"a long header of a denial", saying("HTTP/1.1 403 Forbidden\r\nx-a: " + strings.Repeat("s", extauthz.MaxHeaderValue+1) + "\r\ncontent-length: 0\r\n\r\n"), "more than 8192", false},
		{"too many removals", saying("HTTP/1.1 200 OK\r\nx-envoy-auth-headers-to-remove: " + strings.Repeat("a,", extauthz.MaxEdits+1) + "\r\ncontent-length: 0\r\n\r\n"), "more than 64", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := speak(t, c.say)
			for _, open := range []bool{false, true} {
				log := &journal{}
				p := build(t, overHTTP(&httpProvider{FailOpen: open, StatusOnError: "504", Timeout: durationpb.New(300 * time.Millisecond)}), s.address, log)
				a := p.Ask(t.Context(), caller(t), get("/"))
				if opened := open && c.open; a.Allowed != opened || a.FailedOpen != opened || !opened && a.Status != 504 || a.Err == nil || !strings.Contains(a.Err.Error(), c.want) {
					t.Errorf("open %v: %+v", open, a)
				}
				if strings.Contains(log.String(), "secret") || !strings.Contains(log.String(), "external authorizer fails") {
					t.Errorf("logged %s", log)
				}
				p.Close()
			}
		})
	}
}

func TestUnshowableOverHTTP(t *testing.T) {
	s := speak(t, saying("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"))
	for _, c := range []struct {
		name   string
		r      *authz.Request
		status int
	}{
		{"a connection", nil, 0},
		{"CONNECT", &authz.Request{Method: "CONNECT", Host: "h", Path: "/"}, 400},
		{"no method", &authz.Request{Host: "h", Path: "/"}, 400},
		{"a method of two words", &authz.Request{Method: "GET /x HTTP/1.1\r\n", Host: "h", Path: "/"}, 400},
		{"no path", &authz.Request{Method: "GET", Host: "h"}, 400},
		{"the server as a whole", &authz.Request{Method: "OPTIONS", Host: "h", Path: "*"}, 400},
		{"a path with a space", &authz.Request{Method: "GET", Host: "h", Path: "/a b"}, 400},
		{"a path with a line end", &authz.Request{Method: "GET", Host: "h", Path: "/\r\n"}, 400},
		{"a fragment", &authz.Request{Method: "GET", Host: "h", Path: "/", Query: "?a#b"}, 400},
		{"no host", &authz.Request{Method: "GET", Path: "/"}, 400},
		{"a host with a slash", &authz.Request{Method: "GET", Host: "h/x", Path: "/"}, 400},
		{"a host in another script", &authz.Request{Method: "GET", Host: "é", Path: "/"}, 400},
		{"a host with a zone", &authz.Request{Method: "GET", Host: "[fe80::1%25eth0]", Path: "/"}, 400},
		{"headers without a list", &authz.Request{Method: "GET", Host: "h", Path: "/", Headers: unlisted{}}, 0},
		{"a malformed header", &authz.Request{Method: "GET", Host: "h", Path: "/", Headers: fields{"x-a", "\x00"}}, 400},
	} {
		p := build(t, overHTTP(&httpProvider{FailOpen: true, IncludeRequestHeadersInCheck: []string{"x-a"}}), s.address, nil)
		if a := p.Ask(t.Context(), caller(t), c.r); a.Allowed || a.Err == nil || a.Status != c.status || !strings.Contains(a.Err.Error(), "showing the request") && c.r != nil {
			t.Errorf("%s: %+v", c.name, a)
		}
	}
	if n := s.connections(); n != 0 {
		t.Errorf("the authorizer was asked: %d connections", n)
	}
}

// One connection serves many checks; one that the authorizer ended between two is replaced unseen, whatever the method.
func TestKeptConnections(t *testing.T) {
	var mu sync.Mutex
	served := map[net.Conn]int{}
	s := speak(t, func(conn net.Conn, r *http.Request) bool {
		mu.Lock()
		defer mu.Unlock()
		if served[conn]++; served[conn] > 10 {
			return false // as if it had ended the connection while the check was on its way
		}
		fmt.Fprint(conn, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
		return true
	})
	p := build(t, overHTTP(&httpProvider{IncludeRequestBodyInCheck: &bodyInCheck{MaxRequestBytes: 10}}), s.address, nil)
	for i := range 40 {
		r := get("/")
		r.Method, r.Body = "POST", []byte("body")
		if a := p.Ask(t.Context(), caller(t), r); !a.Allowed {
			t.Fatalf("check %d: %+v", i, a)
		}
	}
	if n := s.connections(); n != 4 {
		t.Errorf("%d connections, want 4", n)
	}
}

func TestRestartOverHTTP(t *testing.T) {
	serve := func(address string) (string, func()) {
		l, err := net.Listen("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {})}
		done := make(chan struct{})
		go func() { defer close(done); s.Serve(l) }()
		stop := sync.OnceFunc(func() { s.Close(); <-done })
		t.Cleanup(stop)
		return l.Addr().String(), stop
	}
	address, stop := serve("127.0.0.1:0")
	log := &journal{}
	p := build(t, overHTTP(&httpProvider{}), address, log)
	ask := func() bool { return p.Ask(t.Context(), caller(t), get("/")).Allowed }
	if !ask() {
		t.Fatal("denied")
	}
	stop()
	for range 20 {
		if ask() {
			t.Fatal("allowed by nobody")
		}
	}
	serve(address)
	eventually(t, "the authorizer is back", ask)
	if got := log.String(); strings.Count(got, "external authorizer fails") != 1 || strings.Count(got, "answers again") != 1 {
		t.Errorf("logged %s", got)
	}
}

func TestCloseOverHTTP(t *testing.T) {
	asked := make(chan struct{}, 1)
	s := speak(t, func(conn net.Conn, _ *http.Request) bool {
		asked <- struct{}{}
		conn.Read(make([]byte, 1))
		return false
	})
	p := build(t, overHTTP(&httpProvider{FailOpen: true, Timeout: durationpb.New(5 * time.Minute)}), s.address, nil)
	go func() { <-asked; p.Close() }()
	if a := p.Ask(t.Context(), caller(t), get("/")); a.Allowed || a.Err == nil {
		t.Errorf("in flight: %+v", a)
	}
	if a := p.Ask(t.Context(), caller(t), get("/")); a.Allowed || a.Err == nil {
		t.Errorf("afterwards: %+v", a)
	}
}

func TestNewRefuses(t *testing.T) {
	for _, c := range []struct {
		name string
		p    *meshconfig.MeshConfig_ExtensionProvider
		want string
	}{
		{"nothing", nil, "neither"},
		{"another kind", &meshconfig.MeshConfig_ExtensionProvider{Provider: &meshconfig.MeshConfig_ExtensionProvider_Zipkin{}}, "neither"},
		{"no service", &meshconfig.MeshConfig_ExtensionProvider{Provider: &meshconfig.MeshConfig_ExtensionProvider_EnvoyExtAuthzHttp{}}, "service and port"},
		{"a status that is none", overHTTP(&httpProvider{StatusOnError: "200"}), `statusOnError "200"`},
		{"no time", overGRPC(&grpcProvider{Timeout: durationpb.New(-1)}), "timeout"},
	} {
		if _, err := extauthz.New(extauthz.Config{Provider: c.p, Dial: (&refusing{}).dial}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	if _, err := extauthz.New(extauthz.Config{Provider: overGRPC(&grpcProvider{})}); err == nil {
		t.Error("built without a dialer")
	}
	var none *extauthz.Client
	if a := none.Ask(t.Context(), caller(t), get("/")); a.Allowed || a.Err == nil {
		t.Errorf("%+v", a)
	}
	if a := new(extauthz.Client).Ask(t.Context(), caller(t), get("/")); a.Allowed || a.Err == nil {
		t.Errorf("%+v", a)
	}
}
