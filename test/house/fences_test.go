package house_test

import (
	"fmt"
	"go/ast"
	"slices"
	"strings"
)

// fence keeps an import path, and all below it, inside some rooms.
type fence struct {
	path    string
	allowed []string
	why     string
}

const doorsWhy = "gRPC and Envoy's protos stay behind doors: the rooms behind them are plain Go that tests call directly, and a " +
	"protocol can be replaced at its door"

var doors = []string{"ca/caserver", "ca/caclient", "sds/sdsserver", "mesh/ads*", "authz/extauthz", "proxy/telemetry", "proxy/limit", "cmd"}

// fences are for direct imports of product code. The first whose path fits decides.
var fences = []fence{
	{"k8s.io/apimachinery", []string{"mesh", "kube", "cmd"}, "Kubernetes' words are needed where authored objects live, and nowhere else"},
	{"k8s.io", []string{"kube", "cmd"}, "Kubernetes is one place to run in, and a laptop and a plain host are others: only kube and cmd know it"},
	{"google.golang.org/grpc", doors, doorsWhy},
	{"github.com/envoyproxy/go-control-plane", doors, doorsWhy},
}

func judgeFences(t *tree) []string {
	var out []string
	for _, r := range t.sorted() {
		if aside(r.dir) {
			continue
		}
		for _, f := range r.product() {
			for _, imported := range f.imports() {
				i := slices.IndexFunc(fences, func(x fence) bool { return within(imported, x.path) })
				if i >= 0 && !within(r.dir, fences[i].allowed...) {
					out = append(out, fmt.Sprintf("%s: imports %s, which is fenced in %s: %s", f.path, imported,
						strings.Join(fences[i].allowed, ", "), fences[i].why))
				}
			}
		}
	}
	return out
}

const keysWhy = "private keys are made in two rooms only, certs/rotate (a workload's) and ca/authority (the signing ones): whoever asks " +
	"where keys come from and where they go has two rooms to read"

// keyMakers are the functions that make private keys, by import path.
var keyMakers = map[string][]string{
	"crypto/ecdsa":                       {"GenerateKey"},
	"crypto/ed25519":                     {"GenerateKey", "NewKeyFromSeed"},
	"crypto/rsa":                         {"GenerateKey", "GenerateMultiPrimeKey"},
	"crypto/elliptic":                    {"GenerateKey"},
	"github.com/cloudflare/cfssl/initca": {"New", "NewFromPEM", "NewFromSigner"},
}

func judgeKeys(t *tree) []string {
	var out []string
	for _, r := range t.sorted() {
		if aside(r.dir) || within(r.dir, "certs/rotate", "ca/authority") {
			continue
		}
		for _, f := range r.product() {
			names := importNames(f)
			ast.Inspect(f.ast, func(n ast.Node) bool {
				sel, ok := n.(*ast.SelectorExpr)
				if !ok {
					return true
				}
				if x, ok := sel.X.(*ast.Ident); ok && slices.Contains(keyMakers[names[x.Name]], sel.Sel.Name) {
					out = append(out, fmt.Sprintf("%s: makes a private key by %s.%s", f.at(n), x.Name, sel.Sel.Name))
				}
				return true
			})
		}
	}
	return out
}

// importNames maps the names under which a file knows its imports to their paths.
func importNames(f *file) map[string]string {
	out := map[string]string{}
	for i, p := range f.imports() {
		name := p[strings.LastIndex(p, "/")+1:]
		if n := f.ast.Imports[i].Name; n != nil {
			name = n.Name
		}
		out[name] = p
	}
	return out
}
