package house_test

import (
	"fmt"
	"slices"
	"strings"
)

// row is one room: its floor, and why it exists where the first plan had none. Floors compare as strings: 3 < 3b < 4.
type row struct{ dir, floor, why string }

// floors is the plan of the house. A new room is a row here, with its reason.
var floors = []row{
	{"identity", "0", ""},
	{"identity/turn", "0", "shares and queues by caller, which the doors of ca, mesh, kube and cmd's entrance bound strangers with"},
	{"identity/jwt", "0b", "authz's words name a verified token, so it stands below them"},
	{"mesh/policy", "0b", "the generated words of our own objects, which mesh, authz/rego and proxy/limit read"},

	{"certs", "1", ""},
	{"authz", "1", ""},
	{"mesh", "1", ""},
	{"proxy", "1", ""},

	{"ca", "2", ""},
	{"identity/jwt/jwks", "2", "fetches and keeps remote key sets; identity/jwt itself does no I/O"},
	{"sds", "2", ""},
	{"authz/rego/service", "1a", "the HTTP client that bundle and decisionlog share"},
	{"authz/rego/bundle", "1b", "fetches, verifies and keeps bundles; authz/rego, which compiles them, runs it"},
	{"authz/rego/decisionlog", "1b", "reports decisions by OPA's API; authz/rego, which makes them, runs it"},
	{"authz/rego", "2", ""},
	{"authz/extauthz", "2", ""},
	{"proxy/http1", "2", ""},
	{"proxy/http2", "2", ""},
	{"proxy/route", "2", ""},
	{"proxy/limit", "2", ""},
	{"proxy/telemetry", "2", ""},
	{"proxy/socket", "2", "raw reads and writes of TCP sockets; upstream dials with it and forward accepts with it"},

	{"ca/authority", "3", ""},
	{"ca/attest", "3", ""},
	{"certs/rotate", "3", ""},
	{"authz/compile", "3", ""},
	{"mesh/dir", "3", ""},
	{"mesh/adswire", "3", "the wire form that adsserver writes and adsclient reads; needs mesh, is used by both ends"},
	{"proxy/judge", "3", ""},
	{"proxy/limit/lease", "3", "leases of tokens from Redis for proxy/limit, which knows no store"},
	{"proxy/upstream", "3", ""},
	{"proxy/forward", "3b", "drives both corridors; needs upstream and judge, is used by both corridors"},

	{"ca/caserver", "4", ""},
	{"ca/caclient", "4", ""},
	{"sds/sdsserver", "4", ""},
	{"mesh/adsserver", "4", ""},
	{"mesh/adsclient", "4", ""},
	{"proxy/inbound", "4", ""},
	{"proxy/outbound", "4", ""},
	{"proxy/admin", "4", ""},
	{"proxy/limit/rls", "4", ""},

	{"proxy/capture", "3", ""},
	{"proxy/dns", "3", "answers a pod's DNS queries for what only the mesh knows"},

	{"kube", "3", ""},
	{"kube/inject", "3b", "a pod with its sidecar, pure: the webhook and 'signet inject' are the same code"},
	{"kube/source", "4", ""},
	{"kube/used", "4", "the hosts that workloads use, kept in ConfigMaps"},
	{"kube/status", "4", ""},
	{"kube/webhook", "4", ""},
	{"kube/keystore", "4", "root slots and plugged-in CAs in Secrets"},
	{"kube/lease", "4", "one leader of several replicas"},
	{"kube/bundle", "4", "publishes the trust bundle"},
	{"kube/csr", "4", "signs CertificateSigningRequests"},
	{"kube/tokens", "4", "judges service-account tokens"},
	{"kube/portforward", "4", "reaches a pod's admin port for the person's tool"},
	{"deploy/charts", "1", "the Helm chart, embedded for 'signet install'"},

	{"cmd/internal/compile", "5a", ""},
	{"cmd/internal/supervise", "5a", "keeps child processes; knows no column, is used by up and cli"},
	{"cmd/internal/explain", "5b", ""},
	{"cmd/internal/install", "5b", "puts the objects of the chart into a cluster and takes them out again"},
	{"cmd/internal/node", "5c", "answers what explain asks of a running sidecar"},
	{"cmd/internal/plane", "5b", ""},
	{"cmd/internal/cluster", "5d", "the control plane of a Kubernetes cluster: plane's parts fed by kube's rooms"},
	{"cmd/internal/up", "5d", "runs node and plane as processes and speaks node's status"},
	{"cmd/internal/elsewhere", "5a", "what the executables say on another system than Linux; imports nothing of ours, so that it builds there"},
	{"cmd/internal/cli", "5a", "what the commands share: exit codes, flags, directories"},
	{"cmd/internal/cli/control", "5e", "signetd's command, mounted by signetd and signet"},
	{"cmd/internal/cli/sidecar", "5d", "signet-proxy's command, mounted by signet-proxy and signet; links no CA"},
	{"cmd/internal/cli/tool", "5f", "signet's command; mounts the others and runs up"},

	{"cmd/signet", "6", ""},
	{"cmd/signetd", "6", ""},
	{"cmd/signet-proxy", "6", ""},
}

const floorsWhy = "imports go to a strictly lower floor, and from another column only floors 0 and 1 are visible: that keeps the " +
	"columns apart, so that each can be read, tested and replaced alone, and no folders import each other in a ring. " +
	"What a column needs from another is an interface that it declares itself, satisfied in cmd/internal"

func floorOf(plan []row, dir string) (string, bool) {
	i := slices.IndexFunc(plan, func(r row) bool { return r.dir == dir })
	if i < 0 {
		return "", false
	}
	return plan[i].floor, true
}

// judgeFloors wants a row for every room, and every import of product code to go strictly down and to stay in its column above
// floor 1. kube and cmd connect: they see every column.
func judgeFloors(t *tree, plan []row) []string {
	var out []string
	for _, r := range t.sorted() {
		if aside(r.dir) || len(r.product()) == 0 {
			continue
		}
		own, ok := floorOf(plan, r.dir)
		if !ok {
			out = append(out, fmt.Sprintf("%s: not in the plan of the house; add a row with its floor and its reason to floors in test/house/floors_test.go", r.dir))
			continue
		}
		for _, f := range r.product() {
			for _, imported := range f.imports() {
				dir, ours := strings.CutPrefix(imported, module+"/")
				if ours {
					if wrong := judgeImport(plan, r.dir, own, dir); wrong != "" {
						out = append(out, f.path+": "+wrong)
					}
				}
			}
		}
	}
	return out
}

func judgeImport(plan []row, from, own, to string) string {
	if aside(to) {
		return fmt.Sprintf("imports %s, which is for tests: product code must not carry it", to)
	}
	floor, ok := floorOf(plan, to)
	switch {
	case !ok:
		return fmt.Sprintf("imports %s, which is not in the plan of the house", to)
	case floor >= own:
		return fmt.Sprintf("%s on floor %s imports %s on floor %s, which is not lower", from, own, to, floor)
	case column(from) != column(to) && floor > "1" && !within(from, "kube", "cmd"):
		return fmt.Sprintf("%s imports %s on floor %s of another column; only floors 0 and 1 are visible there", from, to, floor)
	}
	return ""
}

// judgePlan wants sense in the plan itself: no row twice.
func judgePlan(plan []row) []string {
	var out []string
	seen := map[string]bool{}
	for _, r := range plan {
		if seen[r.dir] {
			out = append(out, r.dir+": twice in the plan")
		}
		seen[r.dir] = true
	}
	return out
}
