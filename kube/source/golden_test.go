package source

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"

	"github.com/signet-mesh/signet/mesh"
)

var update = flag.Bool("update", false, "write the golden files")

// still is a source whose caches are filled by hand, since the API server of the tests has one family of addresses.
func still(t *testing.T) *Source {
	t.Helper()
	cfg := &rest.Config{Host: "https://127.0.0.1:1"}
	s, err := New(Config{Client: kubernetes.NewForConfigOrDie(cfg), Dynamic: dynamic.NewForConfigOrDie(cfg), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// fillFrom puts the objects of a List into the caches, trimmed as the informers trim them.
func fillFrom(t *testing.T, s *Source, text []byte) {
	t.Helper()
	var list struct{ Items []json.RawMessage }
	if err := yaml.Unmarshal(text, &list); err != nil {
		t.Fatal(err)
	}
	for _, raw := range list.Items {
		var kind struct{ Kind string }
		if err := json.Unmarshal(raw, &kind); err != nil {
			t.Fatal(err)
		}
		var o any
		var trim func(any) (any, error)
		store := s.pods.GetIndexer()
		switch kind.Kind {
		case "Pod":
			o, trim = &corev1.Pod{}, trimPod
		case "Service":
			o, trim, store = &corev1.Service{}, trimService, s.services.GetIndexer()
		case "EndpointSlice":
			o, trim, store = &discoveryv1.EndpointSlice{}, trimSlice, s.slices.GetIndexer()
		default:
			t.Fatalf("kind %q", kind.Kind)
		}
		if err := json.Unmarshal(raw, o); err != nil {
			t.Fatal(err)
		}
		o, err := trim(o)
		if err != nil {
			t.Fatal(err)
		}
		if err := store.Add(o); err != nil {
			t.Fatal(err)
		}
	}
}

// TestGoldens reads Kubernetes' objects in *.in.yaml into the mesh's in *.out.
func TestGoldens(t *testing.T) {
	files, err := filepath.Glob("testdata/*.in.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal("no cases", err)
	}
	for _, name := range files {
		t.Run(filepath.Base(name), func(t *testing.T) {
			in, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			s := still(t)
			fillFrom(t, s, in)
			items := map[item]struct{}{}
			for _, key := range s.pods.GetIndexer().ListKeys() {
				items[item{whatPod, key}] = struct{}{}
			}
			for _, key := range s.services.GetIndexer().ListKeys() {
				items[item{whatService, key}] = struct{}{}
			}
			s.look(items)
			compare(t, strings.TrimSuffix(name, ".in.yaml")+".out", dump(t, s))
			var all []*mesh.Object
			for _, o := range s.objects {
				all = append(all, o)
			}
			if snapshot, problems := mesh.Build(all, mesh.BuildOptions{TrustDomain: "cluster.local"}); len(mesh.Refusals(problems)) > 0 || len(snapshot.Objects()) != len(all) {
				t.Errorf("the mesh takes %d of %d: %v", len(snapshot.Objects()), len(all), problems)
			}
			if changed, _ := s.look(items); changed {
				t.Error("what is read again is taken for new")
			}
		})
	}
}

func compare(t *testing.T, golden, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s: got\n%s", golden, got)
	}
}

// dump is one line for each object, and below it its endpoints.
func dump(t *testing.T, s *Source) string {
	t.Helper()
	var keys []mesh.Key
	for key := range s.objects {
		keys = append(keys, key)
	}
	slices.SortFunc(keys, compareKeys)
	var b strings.Builder
	for _, key := range keys {
		o := s.objects[key]
		spec, err := protojson.Marshal(o.Spec)
		if err != nil {
			t.Fatal(err)
		}
		var indented bytes.Buffer
		if err := json.Indent(&indented, spec, "", "  "); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "%s created %s annotations %v\n%s\n", key, o.Created.Format("15:04:05"), o.Annotations, indented.String())
	}
	return b.String()
}

func TestProtocol(t *testing.T) {
	app := func(s string) *string { return &s }
	for _, c := range []struct {
		name string
		port int32
		app  *string
		want string
	}{
		{"http", 80, nil, "HTTP"}, {"HTTP-web", 80, nil, "HTTP"}, {"http2-x", 80, nil, "HTTP2"}, {"httpx", 80, nil, ""}, {"grpc", 80, nil, "GRPC"},
		{"grpc-web-1", 80, nil, "GRPC-WEB"}, {"https-a", 1, nil, "HTTPS"}, {"tls", 1, nil, "TLS"}, {"mongo-0", 1, nil, "MONGO"}, {"redis", 1, nil, "REDIS"},
		{"", 80, nil, ""}, {"", 3306, nil, "TCP"}, {"http", 25, nil, "HTTP"}, {"http", 80, app("tcp"), "TCP"}, {"tcp", 80, app("kubernetes.io/h2c"), "HTTP2"},
		{"tcp", 80, app("kubernetes.io/wss"), "HTTPS"}, {"http", 80, app("example.com/own"), ""}, {"x", 80, app("HTTP"), "HTTP"},
	} {
		if got := protocol(&corev1.ServicePort{Name: c.name, Port: c.port, AppProtocol: c.app}); got != c.want {
			t.Errorf("%q %d %v: %q, want %q", c.name, c.port, c.app, got, c.want)
		}
	}
}
