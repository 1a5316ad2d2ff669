package e2e

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	rpc "google.golang.org/grpc/status"

	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
)

// authorizer is an external authorizer that speaks Envoy's ext_authz v3.
type authorizer struct {
	authv3.UnimplementedAuthorizationServer
	mu   sync.Mutex
	last *authv3.CheckRequest
}

func newAuthorizer(t *testing.T) (b *authorizer, port int) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b = &authorizer{}
	server := grpc.NewServer()
	authv3.RegisterAuthorizationServer(server, b)
	go server.Serve(ln)
	t.Cleanup(server.Stop)
	return b, ln.Addr().(*net.TCPAddr).Port
}

// saw is the last check.
func (b *authorizer) saw() *authv3.AttributeContext {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.last.GetAttributes()
}

// Check implements ext_authz: what the path says, and else by x-key.
func (b *authorizer) Check(ctx context.Context, r *authv3.CheckRequest) (*authv3.CheckResponse, error) {
	b.mu.Lock()
	b.last = r
	b.mu.Unlock()
	h := r.GetAttributes().GetRequest().GetHttp()
	header := func(k, v string) *corev3.HeaderValueOption {
		return &corev3.HeaderValueOption{Header: &corev3.HeaderValue{Key: k, Value: v}}
	}
	switch {
	case strings.HasSuffix(h.GetPath(), "/error"):
		return nil, rpc.Error(codes.Internal, "out of order")
	case strings.HasSuffix(h.GetPath(), "/slow"):
		<-ctx.Done()
		return nil, ctx.Err()
	case strings.HasSuffix(h.GetPath(), "/frame"):
		return &authv3.CheckResponse{Status: &rpcstatus.Status{}, HttpResponse: &authv3.CheckResponse_OkResponse{OkResponse: &authv3.OkHttpResponse{
			Headers: []*corev3.HeaderValueOption{header("content-length", "0")}}}}, nil
	case h.GetHeaders()["x-key"] == "sesame" || strings.Contains(h.GetBody(), "tomato"):
		return &authv3.CheckResponse{Status: &rpcstatus.Status{}, HttpResponse: &authv3.CheckResponse_OkResponse{OkResponse: &authv3.OkHttpResponse{
			Headers: []*corev3.HeaderValueOption{header("x-cook", "judge")}, HeadersToRemove: []string{"x-secret"},
			ResponseHeadersToAdd: []*corev3.HeaderValueOption{header("x-verdict", "yes")}, QueryParametersToRemove: []string{"debug"}}}}, nil
	}
	return &authv3.CheckResponse{Status: &rpcstatus.Status{Code: int32(codes.PermissionDenied)}, HttpResponse: &authv3.CheckResponse_DeniedResponse{
		DeniedResponse: &authv3.DeniedHttpResponse{Status: &typev3.HttpStatus{Code: typev3.StatusCode_Unauthorized}, Body: "no key\n",
			Headers: []*corev3.HeaderValueOption{header("www-authenticate", "Key")}}}}, nil
}

// checkpoint is a real nginx that allows who has the key.
func checkpoint(t *testing.T) (port int) {
	t.Helper()
	dir, port := t.TempDir(), freePort(t)
	conf := fmt.Sprintf(`
daemon off; master_process off; pid %[1]s/pid; error_log stderr;
events {}
http {
  access_log off;
  client_body_temp_path %[1]s; proxy_temp_path %[1]s; fastcgi_temp_path %[1]s; uwsgi_temp_path %[1]s; scgi_temp_path %[1]s;
  map $http_x_key $verdict { sesame 200; broken 500; default 403; }
  server {
    listen 127.0.0.1:%[2]d;
    location / {
      add_header x-who nginx always; add_header x-uri "$request_method $host $request_uri" always; add_header x-got "$http_x_extra,$http_x_private,$content_length" always;
      add_header x-reason "not today" always; add_header x-hidden yes always;
      if ($verdict = 200) { return 200; }
      if ($verdict = 500) { return 500; }
      return 403 "nginx says no\n";
    }
  }
}`, dir, port)
	file := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(file, []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/usr/sbin/nginx", "-e", "stderr", "-p", dir, "-c", file)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	eventually(t, 5*time.Second, func() string {
		c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			return err.Error()
		}
		c.Close()
		return ""
	})
	return port
}

const providers = `
accessLogEncoding: JSON
extensionProviders:
- {name: grpc, envoyExtAuthzGrpc: {service: judge.lab, port: 9000, timeout: 2s, includeRequestBodyInCheck: {maxRequestBytes: 1024, allowPartialMessage: true}}}
- {name: whole, envoyExtAuthzGrpc: {service: judge.lab, port: 9000, timeout: 2s, includeRequestBodyInCheck: {maxRequestBytes: 1024}}}
- {name: open, envoyExtAuthzGrpc: {service: lab/judge.lab, port: 9000, timeout: 0.3s, failOpen: true}}
- {name: status, envoyExtAuthzGrpc: {service: judge.lab, port: 9000, timeout: 0.3s, statusOnError: "503"}}
- {name: plain, envoyExtAuthzGrpc: {service: plain.lab, port: 9000}}
- {name: gone, envoyExtAuthzGrpc: {service: gone.lab, port: 9000, timeout: 0.5s}}
- {name: no-service, envoyExtAuthzHttp: {service: nowhere.lab, port: 80}}
- name: nginx
  envoyExtAuthzHttp:
    service: nginx.lab
    port: 80
    timeout: 2s
    pathPrefix: /check
    includeRequestHeadersInCheck: [x-key, "x-pub*"]
    includeAdditionalHeadersInCheck: {x-extra: fixed}
    includeRequestBodyInCheck: {maxRequestBytes: 1024, allowPartialMessage: true}
    headersToUpstreamOnAllow: [x-who, x-uri, x-got]
    headersToDownstreamOnAllow: [x-who]
    headersToDownstreamOnDeny: ["x-rea*"]
- {name: nginx-open, envoyExtAuthzHttp: {service: nginx.lab, port: 80, failOpen: true, includeRequestHeadersInCheck: [x-key]}}`

// externals is a gatehouse whose oven asks judge, a workload of the mesh that only oven may call, and others outside.
func externals(t *testing.T) (*gatehouse, *authorizer) {
	b, port := newAuthorizer(t)
	ip := addr() // judge's
	service := func(name, endpoint string) string {
		return networkingObject("ServiceEntry", "lab/"+name, "hosts: ["+name+".lab]\nports: [{number: 9000, name: tcp, protocol: TCP}, {number: 80, name: http, protocol: HTTP}]\n"+
			"location: MESH_INTERNAL\nresolution: STATIC\n"+endpoint)
	}
	at := func(port int) string {
		return fmt.Sprintf("endpoints: [{address: 127.0.0.1, ports: {tcp: %d, http: %[1]d}}]", port)
	}
	docs := []string{
		entry("lab/judge", ip+"1", "judge", "app: judge", ""),
		networkingObject("Sidecar", "lab/judge", fmt.Sprintf("workloadSelector: {labels: {app: judge}}\ningress: [{port: {number: 9000, name: tcp, protocol: TCP}, defaultEndpoint: \"127.0.0.1:%d\"}]", port)),
		policy("lab/judge", "selector: {matchLabels: {app: judge}}\nrules: [{from: [{source: {principals: [cluster.local/ns/lab/sa/oven]}}]}]"),
		service("judge", "workloadSelector: {labels: {app: judge}}"), service("plain", at(port)), service("gone", at(freePort(t))), service("nginx", at(checkpoint(t))),
	}
	for _, name := range []string{"grpc", "whole", "open", "status", "plain", "gone", "no-service", "nginx", "nginx-open"} {
		docs = append(docs, custom(name, name, "/"+name, "/"+name+"/*"))
	}
	docs = append(docs, onOven("later", "DENY", `- when: [{key: "request.headers[x-cook]", values: [judge]}, {key: "request.headers[x-later]", values: ["1"]}]`))
	return newGatehouse(t, map[string]string{"config.yaml": meshConfig(providers), "policies.yaml": objects(docs...)}), b
}

func TestExternalAuthorizers(t *testing.T) {
	t.Parallel()
	k, b := externals(t)
	key, broken := []string{"-H", "x-key: sesame"}, []string{"-H", "x-key: broken"}
	for _, c := range []struct {
		path string
		args []string
		want string
	}{
		{"/grpc", nil, "401"}, {"/grpc", key, "200"}, {"/grpc/error", key, "403"}, {"/grpc/slow", key, "403"}, {"/grpc/frame", nil, "403"},
		{"/grpc", []string{"-d", "tomato"}, "200"}, {"/grpc", []string{"-d", "peas"}, "401"}, {"/grpc", []string{"-H", "transfer-encoding: chunked", "-d", "tomato"}, "200"},
		{"/grpc", append(key, "-H", "x-later: 1"), "403"}, // DENY judges what the authorizer made of the request
		{"/open", nil, "401"}, {"/open", key, "200"}, {"/open/error", nil, "200"}, {"/open/slow", nil, "200"}, {"/open/frame", nil, "403"},
		{"/status", nil, "401"}, {"/status/error", key, "503"}, {"/status/slow", key, "503"},
		{"/plain", nil, "401"}, {"/plain", key, "200"}, {"/gone", key, "403"}, {"/no-service", key, "403"}, {"/other", nil, "200"},
		{"/nginx", nil, "403"}, {"/nginx", key, "200"}, {"/nginx", broken, "403"}, {"/nginx-open", nil, "403"}, {"/nginx-open", key, "200"}, {"/nginx-open", broken, "200"},
	} {
		if got := k.code(t, c.path, c.args...); got != c.want {
			t.Errorf("%s %q: %s, want %s", c.path, c.args, got, c.want)
		}
	}
	t.Run("gRPC", func(t *testing.T) { externalGRPC(t, k, b) })
	t.Run("HTTP", func(t *testing.T) { externalHTTP(t, k) })
	t.Run("bodies", func(t *testing.T) { externalBodies(t, k, b) })
	t.Run("changed", func(t *testing.T) { externalChanges(t, k) })
	t.Run("seen", func(t *testing.T) {
		for path, want := range map[string]string{"/grpc/error": "ext_authz_error{ExtensionProvider/grpc}", "/gone": "ext_authz_error{ExtensionProvider/gone}"} {
			if line := k.jsonLogged(t, "lab.oven", path, 403); line["denied_by"] != strings.Trim(strings.TrimPrefix(want, "ext_authz_error"), "{}") || line["response_code_details"] != want || line["response_flags"] != "UAEX" {
				t.Errorf("%s: %v", path, line)
			}
		}
		if f := k.found(t, "unresolved", "ConfigMap", "istio"); !strings.Contains(f.Message, "nowhere.lab") {
			t.Errorf("%+v", f)
		}
	})
}

// externalGRPC is what a check over gRPC shows, and what its answer changes.
func externalGRPC(t *testing.T, k *gatehouse, b *authorizer) {
	out := k.get(t, "/grpc/a%2Fb?x=1&debug=1", "-H", "x-key: sesame", "-H", "x-secret: s", "-H", "x-cook: forged", "-H", "x-twice: 1", "-H", "x-twice: 2")
	wants(t, out, "HTTP/1.1 200", "GET /grpc/a%2Fb?x=1\n", "X-Cook: judge\r\n", "x-verdict: yes\r\n")
	if strings.Contains(out, "X-Secret") || strings.Contains(out, "forged") {
		t.Errorf("the program got\n%s", out)
	}
	saw := b.saw()
	h := saw.GetRequest().GetHttp()
	if saw.GetSource().GetPrincipal() != "spiffe://cluster.local/ns/lab/sa/web" || saw.GetDestination().GetPrincipal() != "spiffe://cluster.local/ns/lab/sa/oven" ||
		h.GetMethod() != "GET" || h.GetHost() != "oven.lab" || h.GetPath() != "/grpc/a%2Fb?x=1&debug=1" || h.GetHeaders()["x-twice"] != "1,2" {
		t.Errorf("it saw %v", saw)
	}
	out = k.get(t, "/grpc")
	wants(t, out, "HTTP/1.1 401 ", "www-authenticate: Key\r\n", "\r\n\r\nno key\n")
}

func externalHTTP(t *testing.T, k *gatehouse) {
	out := k.get(t, "/nginx/a?b=1", "-H", "x-key: sesame", "-H", "x-private: p", "-X", "PUT")
	wants(t, out, "HTTP/1.1 200", "X-Who: nginx\r\n", "X-Uri: PUT oven.lab /check/nginx/a?b=1\r\n", "X-Got: fixed,,", "x-who: nginx\r\n")
	for _, bad := range []string{"X-Hidden", "x-uri", "X-Reason", "x-reason"} {
		if strings.Contains(out, bad+":") {
			t.Errorf("%s went on:\n%s", bad, out)
		}
	}
	out = k.get(t, "/nginx")
	wants(t, out, "HTTP/1.1 403 ", "x-reason: not today\r\n", "nginx says no\n")
	if strings.Contains(out, "x-hidden") || strings.Contains(out, "x-who") {
		t.Errorf("a denial shows more than is listed:\n%s", out)
	}
	wants(t, k.get(t, "/nginx", "-H", "x-key: sesame", "-d", "12345"), "X-Got: fixed,,5\r\n", digest("12345"))
}

// externalBodies has bodies above what a check shows.
func externalBodies(t *testing.T, k *gatehouse, b *authorizer) {
	big := "tomato" + strings.Repeat("0123456789", 30<<10)
	for _, more := range [][]string{nil, {"-H", "transfer-encoding: chunked"}, {"-H", "expect: 100-continue"}} {
		upload := append([]string{"--data-binary", "@" + save1(t, big)}, more...)
		wants(t, k.get(t, "/grpc", upload...), "HTTP/1.1 200", digest(big))
		if saw := b.saw().GetRequest().GetHttp(); saw.GetBody() != big[:1024] || saw.GetHeaders()["x-envoy-auth-partial-body"] != "true" {
			t.Errorf("it saw %d bytes of the body, partial %q", len(saw.GetBody()), saw.GetHeaders()["x-envoy-auth-partial-body"])
		}
		wants(t, k.get(t, "/whole", upload...), "HTTP/1.1 413")
		wants(t, k.get(t, "/nginx", append(upload, "-H", "x-key: sesame")...), "HTTP/1.1 200", digest(big), "X-Got: fixed,,1024\r\n")
	}
}

// externalChanges gives a provider other settings while it is asked: nobody notices.
func externalChanges(t *testing.T, k *gatehouse) {
	proxy, err := url.Parse(k.web)
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: &http.Transport{Proxy: http.ProxyURL(proxy)}, Timeout: 5 * time.Second}
	defer client.CloseIdleConnections()
	ctx, cancel := context.WithCancel(t.Context())
	var asked sync.WaitGroup
	var count atomic.Int64
	for range 2 {
		asked.Go(func() {
			for ctx.Err() == nil {
				r, _ := http.NewRequest(http.MethodGet, "http://oven.lab/grpc", nil)
				r.Header.Set("x-key", "sesame")
				resp, err := client.Do(r)
				if err != nil {
					t.Error(err)
					return
				}
				_, _ = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
				if count.Add(1); resp.StatusCode != http.StatusOK {
					t.Errorf("request %d: %s", count.Load(), resp.Status)
				}
			}
		})
	}
	for i := range 3 {
		other := strings.Replace(providers, "timeout: 2s", fmt.Sprintf("timeout: %ds", 3+i), 1)
		step := fmt.Sprintf("step-%d", i)
		k.write("config.yaml", meshConfig(other+"\n- {name: "+step+", envoyExtAuthzHttp: {service: nginx.lab, port: 80, includeRequestHeadersInCheck: [x-key]}}"))
		k.write("step.yaml", custom("step", step, "/"+step))
		k.becomes(t, 3*time.Second, "403", "/"+step)
		k.becomes(t, 3*time.Second, "200", "/"+step, "-H", "x-key: sesame")
		time.Sleep(300 * time.Millisecond)
	}
	cancel()
	asked.Wait()
	if count.Load() < 20 {
		t.Errorf("only %d requests", count.Load())
	}
}
