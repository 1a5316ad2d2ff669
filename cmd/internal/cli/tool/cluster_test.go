package tool

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/yaml"

	"github.com/signet-mesh/signet/cmd/internal/cli"
	"github.com/signet-mesh/signet/kube"
	"github.com/signet-mesh/signet/kube/kubetest"
)

var admin *rest.Config

func TestMain(m *testing.M) {
	kubetest.Main(m, func(cfg *rest.Config) { admin = cfg }, "deploy/crds", "cmd/internal/cli/tool/testdata/crds")
}

// kubeconfig writes one for a user of the API server, "" for its administrator.
func kubeconfig(t *testing.T, as string) string {
	t.Helper()
	c := clientcmdapi.NewConfig()
	c.Clusters["test"] = &clientcmdapi.Cluster{Server: admin.Host, CertificateAuthorityData: admin.CAData}
	c.AuthInfos["me"] = &clientcmdapi.AuthInfo{ClientCertificateData: admin.CertData, ClientKeyData: admin.KeyData, Impersonate: as}
	c.Contexts["here"] = &clientcmdapi.Context{Cluster: "test", AuthInfo: "me"}
	c.CurrentContext = "here"
	path := filepath.Join(t.TempDir(), "config")
	if err := clientcmd.WriteToFile(*c, path); err != nil {
		t.Fatal(err)
	}
	return path
}

// apply creates objects of YAML, with NS for a namespace of the test's own, and returns that.
func apply(t *testing.T, text string) string {
	t.Helper()
	client, err := kubernetes.NewForConfig(admin)
	if err != nil {
		t.Fatal(err)
	}
	ns, err := client.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "tool-",
		Labels: map[string]string{kube.LabelRevision: "1-20"}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	d, err := dynamic.NewForConfig(admin)
	if err != nil {
		t.Fatal(err)
	}
	for _, doc := range strings.Split(strings.ReplaceAll(text, "NS", ns.Name), "\n---\n") {
		var u unstructured.Unstructured
		if err := yaml.Unmarshal([]byte(doc), &u.Object); err != nil {
			t.Fatal(err)
		}
		gvk := u.GroupVersionKind()
		plural := strings.ToLower(gvk.Kind) + "s"
		if p, ok := strings.CutSuffix(plural, "ys"); ok {
			plural = p + "ies"
		}
		created, err := d.Resource(schema.GroupVersionResource{Group: gvk.Group, Version: gvk.Version, Resource: plural}).Namespace(ns.Name).Create(t.Context(), &u, metav1.CreateOptions{})
		if err != nil {
			t.Fatalf("%v: %s", err, doc)
		}
		t.Cleanup(func() {
			_ = d.Resource(schema.GroupVersionResource{Group: gvk.Group, Version: gvk.Version, Resource: plural}).Namespace(ns.Name).Delete(t.Context(), created.GetName(), metav1.DeleteOptions{})
		})
	}
	return ns.Name
}

const shop = `{apiVersion: v1, kind: Service, metadata: {name: pay}, spec: {selector: {app: pay}, ports: [{port: 8080, name: http}]}}
---
{apiVersion: v1, kind: ServiceAccount, metadata: {name: cart}}
---
{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: pay}, spec: {hosts: [pay], http: [{route: [{destination: {host: pay}}]}]}}
---
{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: pay}, spec: {rules: [{from: [{source: {principals: [cluster.local/ns/NS/sa/cart]}}]}]}}`

func TestValidateGoodCluster(t *testing.T) {
	ns := apply(t, shop)
	config := kubeconfig(t, "")
	code, out, errs := signet(t, "", "validate", "--from-cluster", "--kubeconfig", config, "-n", ns)
	if code != 0 || out != "2 objects are good\n" {
		t.Errorf("exit %d: %s%s", code, out, errs)
	}
	t.Setenv("KUBECONFIG", config)
	if code, out, errs = signet(t, "", "validate", "--from-cluster", "-A"); code != 0 {
		t.Errorf("by $KUBECONFIG: exit %d: %s%s", code, out, errs)
	}
}

const broken = `{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: odd}, spec: {rules: [{when: [{key: connection.nonsense, values: [x]}]}]}}
---
{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: lost}, spec: {hosts: [nowhere], http: [{route: [{destination: {host: nowhere.NS.svc.cluster.local}}]}]}}
---
{apiVersion: networking.istio.io/v1alpha3, kind: EnvoyFilter, metadata: {name: lua}, spec: {}}
---
{apiVersion: v1, kind: ServiceAccount, metadata: {name: default}}
---
{apiVersion: v1, kind: Pod, metadata: {name: tproxy, annotations: {sidecar.istio.io/interceptionMode: TPROXY}}, spec: {serviceAccountName: default, containers: [{name: app, image: app}]}}`

// What would be refused is said by kind, namespace, name and field, before anything of Signet is there.
func TestValidateBrokenCluster(t *testing.T) {
	ns := apply(t, broken)
	code, out, errs := signet(t, "", "validate", "--from-cluster", "--kubeconfig", kubeconfig(t, ""), "--namespace", ns)
	if code != cli.ExitMistake {
		t.Errorf("exit %d: %s", code, errs)
	}
	lines := strings.Split(out, "\n")
	for _, want := range [][]string{
		{"AuthorizationPolicy " + ns + "/odd: spec.rules[0].when[0].key: ", "connection.nonsense", ": error"},
		{"VirtualService " + ns + "/lost: spec.http[0].route[0].destination.host: ", "nowhere", ": error"},
		{"EnvoyFilter " + ns + "/lua: ", "not supported", ": warning"},
		{"EnvoyFilter.networking.istio.io: 1 objects", ": warning"},
		{"Pod " + ns + "/tproxy: ", "interceptionMode", ": error"},
	} {
		found := false
		for _, l := range lines {
			ok := strings.HasPrefix(l, want[0])
			for _, part := range want[1:] {
				ok = ok && strings.Contains(l, part)
			}
			found = found || ok
		}
		if !found {
			t.Errorf("no line says %q:\n%s", want, out)
		}
	}
}

// Whoever may see one namespace gets that one judged; whoever may see none is told what is missing.
func TestValidateWithFewRights(t *testing.T) {
	ns := apply(t, shop+`
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: Role, metadata: {name: look}, rules: [{apiGroups: ["*"], resources: ["*"], verbs: [get, list]}]}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: RoleBinding, metadata: {name: look}, roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: look}, subjects: [{kind: User, name: tenant, apiGroup: rbac.authorization.k8s.io}]}`)
	config := kubeconfig(t, "tenant")
	code, out, errs := signet(t, "", "validate", "--from-cluster", "--kubeconfig", config, "-n", ns)
	if code != 0 || !strings.Contains(out, "2 objects are good") || !strings.Contains(errs, "note: only namespace") {
		t.Errorf("exit %d: %s%s", code, out, errs)
	}
	if code, _, errs = signet(t, "", "validate", "--from-cluster", "--kubeconfig", config); code != cli.ExitFailure || !strings.Contains(errs, "need the verbs get and list on services") {
		t.Errorf("all namespaces: exit %d: %s", code, errs)
	}
}

func TestClusterFlags(t *testing.T) {
	t.Setenv("KUBECONFIG", filepath.Join(t.TempDir(), "none"))
	t.Setenv("XDG_STATE_HOME", t.TempDir())
	t.Setenv("XDG_RUNTIME_DIR", t.TempDir())
	for name, c := range map[string]struct {
		args []string
		code int
		says string
	}{
		"files and a cluster":  {[]string{"validate", "--from-cluster", "x.yaml"}, cli.ExitMistake, "takes no files"},
		"a namespace of files": {[]string{"validate", "-n", "shop", "x.yaml"}, cli.ExitMistake, "--namespace needs --from-cluster"},
		"all and one":          {[]string{"validate", "--from-cluster", "-A", "-n", "shop"}, cli.ExitMistake, "exclude each other"},
		"here and there":       {[]string{"status", "--state", "/tmp", "--context", "x"}, cli.ExitMistake, "--state is of this machine and --context of a cluster"},
		"no kubeconfig":        {[]string{"status", "--kubeconfig", "/does/not/exist"}, cli.ExitMistake, "/does/not/exist"},
		"no such context":      {[]string{"top", "--once", "--context", "mars", "--kubeconfig", kubeconfig(t, "")}, cli.ExitMistake, "mars"},
		"nothing anywhere":     {[]string{"status"}, cli.ExitFailure, "nothing answers"},
		"too many pods":        {[]string{"top", "--pods", "0"}, cli.ExitMistake, "--pods 0"},
		"no control plane":     {[]string{"status", "--kubeconfig", kubeconfig(t, "")}, cli.ExitFailure, "is Signet installed there?"},
		"no sidecar":           {[]string{"top", "--once", "--kubeconfig", kubeconfig(t, "")}, cli.ExitFailure, "no running pod of cluster here has one"},
		"no pod":               {[]string{"why", "--kubeconfig", kubeconfig(t, ""), "--from", "plaintext", "--to", "shop/pay"}, cli.ExitMistake, "there is no pod shop/pay"},
		"no namespace":         {[]string{"why", "--kubeconfig", kubeconfig(t, ""), "--from", "plaintext", "--to", "pay"}, cli.ExitMistake, "want NAMESPACE/WORKLOAD"},
		"no rights":            {[]string{"top", "--once", "--kubeconfig", kubeconfig(t, "nobody")}, cli.ExitFailure, "need the verbs get and list on pods"},
	} {
		if code, out, errs := signet(t, "", c.args...); code != c.code || !strings.Contains(errs, c.says) {
			t.Errorf("%s: exit %d, want %d and %q: %s%s", name, code, c.code, c.says, out, errs)
		}
	}
}

// Without a flag a mesh that runs here is asked, and else the cluster of the kubeconfig.
func TestHereBeforeCluster(t *testing.T) {
	t.Setenv("KUBECONFIG", kubeconfig(t, ""))
	state := t.TempDir()
	t.Setenv("XDG_STATE_HOME", state)
	run := t.TempDir()
	t.Setenv("XDG_RUNTIME_DIR", run)
	if code, _, errs := signet(t, "", "top", "--once"); code != cli.ExitFailure || !strings.Contains(errs, "cluster here") {
		t.Errorf("nothing runs here: exit %d: %s", code, errs)
	}
	socket := serveAdmin(t, "shop/cart", nil)
	if err := os.MkdirAll(filepath.Join(run, "signet"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Dir(socket), filepath.Join(run, "signet", "cart")); err != nil {
		t.Fatal(err)
	}
	if code, out, errs := signet(t, "", "top", "--once"); code != 0 || !strings.Contains(out, "nothing was denied") {
		t.Errorf("a sidecar runs here: exit %d: %s%s", code, out, errs)
	}
}

// A Service's name means its pods, where no workload has it.
func TestPodsOfService(t *testing.T) {
	ns := apply(t, `{apiVersion: v1, kind: ServiceAccount, metadata: {name: default}}
---
{apiVersion: v1, kind: Service, metadata: {name: store}, spec: {clusterIP: None, selector: {app: depot}, ports: [{port: 8080}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: depot-0, labels: {app: depot}}, spec: {automountServiceAccountToken: false, containers: [{name: a, image: x}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: other-0}, spec: {automountServiceAccountToken: false, containers: [{name: a, image: x}]}}`)
	pods := kubernetes.NewForConfigOrDie(admin).CoreV1().Pods(ns)
	for _, name := range []string{"depot-0", "other-0"} {
		p, err := pods.Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		p.Status.Phase = corev1.PodRunning
		if _, err := pods.UpdateStatus(t.Context(), p, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	r := &remote{kubeconfig: kubeconfig(t, "")}
	k, err := r.open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	p, note, err := k.one(t.Context(), ns+"/store")
	if err != nil || p.Name != "depot-0" || note != ns+"/store is asked as its pod "+ns+"/depot-0, one of 1" {
		t.Errorf("%v %q %v", p, note, err)
	}
	if _, _, err := k.one(t.Context(), ns+"/nothing"); err == nil || !strings.Contains(err.Error(), "Job or Service of that name") {
		t.Error(err)
	}
}

// What people call a workload means its pods.
func TestOwnedBy(t *testing.T) {
	yes := true
	for _, c := range []struct {
		kind, owner, hash, name string
		want                    bool
	}{
		{"ReplicaSet", "cart-5d4f8", "5d4f8", "cart", true},
		{"ReplicaSet", "cart-5d4f8", "5d4f8", "cart-5d4f8", true},
		{"ReplicaSet", "cart-api-5d4f8", "5d4f8", "cart", false},
		{"ReplicaSet", "cart-5d4f8", "", "cart", false},
		{"StatefulSet", "db", "", "db", true},
		{"Job", "nightly-29123456", "", "nightly", true},
		{"Job", "nightly-2", "", "nightly", false},
		{"DaemonSet", "log", "", "lo", false},
	} {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"pod-template-hash": c.hash},
			OwnerReferences: []metav1.OwnerReference{{Kind: c.kind, Name: c.owner, Controller: &yes}}}}
		if got := ownedBy(p, c.name); got != c.want {
			t.Errorf("%s: %v", fmt.Sprint(c), got)
		}
	}
}
