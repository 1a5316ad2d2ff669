package e2e

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// objects joins YAML documents.
func objects(docs ...string) string { return strings.Join(docs, "\n---\n") }

// entry is a WorkloadEntry NAMESPACE/NAME; spec is the rest of its spec in flow style.
func entry(key, address, serviceAccount, labels, more string) string {
	ns, name, _ := strings.Cut(key, "/")
	account := ""
	if serviceAccount != "" {
		account = ", serviceAccount: " + serviceAccount
	}
	return fmt.Sprintf(`
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: %s, namespace: %s}
spec: {address: %q, labels: {%s}%s%s}
`, name, ns, address, labels, account, more)
}

// object is any object; spec is indented by two.
func object(apiVersion, kind, key, spec string) string {
	ns, name, _ := strings.Cut(key, "/")
	return fmt.Sprintf("\napiVersion: %s\nkind: %s\nmetadata: {name: %s, namespace: %s}\nspec:%s", apiVersion, kind, name, ns,
		strings.ReplaceAll("\n"+strings.Trim(spec, "\n"), "\n", "\n  "))
}

func networkingObject(kind, key, spec string) string {
	return object("networking.istio.io/v1", kind, key, spec)
}

func policy(key, spec string) string {
	return object("security.istio.io/v1", "AuthorizationPolicy", key, spec)
}

// strict is a mesh-wide STRICT.
const strict = `
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: istio-system}
spec: {mtls: {mode: STRICT}}
`

// script is a set of programs that answer as the caller asks. The request's x-script lists what the first, second, ...
// request of its x-key gets, the last item for all further ones: a status, "hang", or "close" (after the request was read).
type script struct {
	mu   sync.Mutex
	seen map[string]int
}

func newScript() *script { return &script{seen: map[string]int{}} }

// count is how many requests of a key any of the programs saw.
func (s *script) count(key string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.seen[key]
}

// program starts one of the programs; it says its name and what it saw.
func (s *script) program(t *testing.T, name string) (port int) {
	t.Helper()
	return echo(t, func(w http.ResponseWriter, r *http.Request) {
		key := r.Header.Get("x-key")
		s.mu.Lock()
		n := s.seen[key]
		s.seen[key]++
		s.mu.Unlock()
		_, _ = io.Copy(io.Discard, r.Body)
		steps := strings.Split(r.Header.Get("x-script"), ",")
		switch step := steps[min(n, len(steps)-1)]; step {
		case "":
		case "hang":
			select {
			case <-r.Context().Done():
			case <-time.After(5 * time.Second):
			}
		case "close":
			if c, _, err := w.(http.Hijacker).Hijack(); err == nil {
				c.Close()
			}
			return
		default:
			status, _ := strconv.Atoi(step)
			w.WriteHeader(status)
		}
		fmt.Fprintf(w, "program: %s\n%s %s\nhost: %s\n", name, r.Method, r.RequestURI, r.Host)
		_ = r.Header.Write(w)
	})
}

// stream is a TCP program that answers each line with its name and the line.
func stream(t *testing.T, name string) (port int) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				b := make([]byte, 4096)
				for {
					n, err := c.Read(b)
					if n > 0 {
						fmt.Fprintf(c, "%s: %s", name, b[:n])
					}
					if err != nil {
						return
					}
				}
			}()
		}
	}()
	return ln.Addr().(*net.TCPAddr).Port
}

// quietPort is a port of 127.0.0.1 that is free and that no connection and no listener of port 0 takes by chance.
func quietPort(t *testing.T) int {
	t.Helper()
	for range 1000 {
		port := 10000 + rand.IntN(4900)
		if ln, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
			ln.Close()
			return port
		}
	}
	t.Fatal("no free port")
	return 0
}

// say sends one line over a fresh TCP connection and returns what comes back, "" when the connection is closed instead.
func say(t *testing.T, address, line string) string {
	t.Helper()
	c, err := net.DialTimeout("tcp", address, 5*time.Second)
	if err != nil {
		return err.Error()
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	fmt.Fprintf(c, "%s\n", line)
	b := make([]byte, 4096)
	n, err := c.Read(b)
	if n == 0 && err != nil && err != io.EOF && !strings.Contains(err.Error(), "reset") {
		return err.Error()
	}
	return strings.TrimSpace(string(b[:n]))
}

// logged waits for a line of the mesh's log that matches all expressions, and returns it.
func (m *running) logged(t *testing.T, expressions ...string) string {
	t.Helper()
	var all []*regexp.Regexp
	for _, e := range expressions {
		all = append(all, regexp.MustCompile(e))
	}
	var found string
	seen := 0 // whole lines that were looked at already: a log may have megabytes
	eventually(t, 5*time.Second, func() string {
		log := m.Log()[seen:]
		log = log[:strings.LastIndexByte(log, '\n')+1]
		for line := range strings.Lines(log) {
			if !slices.ContainsFunc(all, func(e *regexp.Regexp) bool { return !e.MatchString(line) }) {
				found = line
				return ""
			}
		}
		seen += len(log)
		return fmt.Sprintf("no line of the log matches %q", expressions)
	})
	return found
}

// wants fails for what a text lacks.
func wants(t *testing.T, text string, parts ...string) {
	t.Helper()
	for _, p := range parts {
		if !strings.Contains(text, p) {
			t.Errorf("lacks %q:\n%s", p, text)
		}
	}
}
