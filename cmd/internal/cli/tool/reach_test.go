package tool

import (
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/signet-mesh/signet/cmd/internal/cli"
)

// changedConfig is the administrator's kubeconfig with something changed.
func changedConfig(t *testing.T, change func(*clientcmdapi.Cluster, *clientcmdapi.AuthInfo)) string {
	t.Helper()
	path := kubeconfig(t, "")
	c, err := clientcmd.LoadFromFile(path)
	if err != nil {
		t.Fatal(err)
	}
	change(c.Clusters["test"], c.AuthInfos["me"])
	if err := clientcmd.WriteToFile(*c, path); err != nil {
		t.Fatal(err)
	}
	return path
}

// server is a kubeconfig of another API server.
func server(t *testing.T, url string) string {
	return changedConfig(t, func(c *clientcmdapi.Cluster, _ *clientcmdapi.AuthInfo) { c.Server = url })
}

// TestWrongKubeconfig: every command that asks a cluster says in one message, soon, why it can't be asked.
func TestWrongKubeconfig(t *testing.T) {
	manifest := filepath.Join(t.TempDir(), "web.yaml")
	if err := os.WriteFile(manifest, []byte("{apiVersion: v1, kind: Pod, metadata: {name: web}, spec: {containers: [{name: a, image: a}]}}"), 0o600); err != nil {
		t.Fatal(err)
	}
	garbage := filepath.Join(t.TempDir(), "garbage")
	if err := os.WriteFile(garbage, []byte("{{{"), 0o600); err != nil {
		t.Fatal(err)
	}
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = closed.Close()
	plain := httptest.NewServer(http.NotFoundHandler())
	defer plain.Close()
	forbidden := []string{"forbidden", `"nobody"`}
	for name, c := range map[string]struct {
		config string
		code   int
		says   []string
	}{
		"no file":       {"/does/not/exist", cli.ExitMistake, []string{"reading kubeconfig: ", "/does/not/exist"}},
		"no YAML":       {garbage, cli.ExitMistake, []string{"reading kubeconfig: ", garbage}},
		"refused":       {server(t, "https://"+closed.Addr().String()), cli.ExitFailure, []string{"asking cluster here at https://" + closed.Addr().String() + ": ", "connection refused", "is this its kubeconfig?"}},
		"no such host":  {server(t, "https://nowhere.invalid:6443"), cli.ExitFailure, []string{"asking cluster here at https://nowhere.invalid:6443: ", "nowhere.invalid"}},
		"no TLS":        {server(t, strings.Replace(plain.URL, "http:", "https:", 1)), cli.ExitFailure, []string{"HTTP response to HTTPS client"}},
		"no API server": {server(t, plain.URL), cli.ExitFailure, []string{"asking cluster here at " + plain.URL + ": "}},
		"another CA": {changedConfig(t, func(c *clientcmdapi.Cluster, _ *clientcmdapi.AuthInfo) { c.CertificateAuthorityData = nil }), cli.ExitFailure,
			[]string{"asking cluster here at ", "failed to verify certificate"}},
		"unknown user": {changedConfig(t, func(_ *clientcmdapi.Cluster, u *clientcmdapi.AuthInfo) { *u = clientcmdapi.AuthInfo{Token: "none"} }), cli.ExitFailure,
			[]string{"does not take the credentials of this context"}},
		"no plugin": {changedConfig(t, func(_ *clientcmdapi.Cluster, u *clientcmdapi.AuthInfo) {
			*u = clientcmdapi.AuthInfo{Exec: &clientcmdapi.ExecConfig{APIVersion: "client.authentication.k8s.io/v1", Command: "no-such-plugin", InteractiveMode: clientcmdapi.NeverExecInteractiveMode}}
		}), cli.ExitFailure, []string{"no-such-plugin not found\n"}},
		"no rights": {kubeconfig(t, "nobody"), cli.ExitFailure, forbidden},
	} {
		t.Run(name, func(t *testing.T) {
			for _, args := range [][]string{{"status"}, {"top", "--once"}, {"why", "--from", "a/b", "--to", "a/c"}, {"validate", "--from-cluster"},
				{"install"}, {"uninstall", "--yes"}, {"inject", "-f", manifest}} {
				code, out, errs := signet(t, "", append(args, "--kubeconfig", c.config)...)
				if code != c.code || out != "" || strings.Count(errs, "\n") > 3 || !strings.HasPrefix(errs, "signet: ") {
					t.Errorf("%s: exit %d, want %d and one message:\n%s%s", args[0], code, c.code, out, errs)
				}
				for _, s := range c.says {
					if !strings.Contains(errs, s) {
						t.Errorf("%s: want %q:\n%s", args[0], s, errs)
					}
				}
			}
		})
	}
}

// TestSilentServer: an API server that takes connections and says nothing is not waited for long.
func TestSilentServer(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0") // nobody accepts: the kernel does
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	code, _, errs := signet(t, "", "status", "--kubeconfig", server(t, "https://"+ln.Addr().String()))
	if code != cli.ExitFailure || !strings.Contains(errs, ": no answer within 5s\n") {
		t.Errorf("exit %d: %s", code, errs)
	}
}
