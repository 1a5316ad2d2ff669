package install_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/signet-mesh/signet/cmd/internal/install"
)

// TestRefusedValues: what the API server or the control plane would refuse is refused by name, with the value and the rule.
func TestRefusedValues(t *testing.T) {
	for _, c := range []struct {
		o    install.Options
		says []string
	}{
		{install.Options{Revision: "A B"}, []string{`value revision: "A B"`, "RFC 1123", "at most 40", "such as canary"}},
		{install.Options{Revision: "default"}, []string{`value revision: "default"`, "and not default"}},
		{install.Options{Revision: strings.Repeat("a", 41)}, []string{`value revision: "aaa`, "at most 40"}},
		{install.Options{Namespace: "A_B"}, []string{`--namespace "A_B"`, "RFC 1123", "at most 63", "such as signet-system"}},
		{install.Options{Hub: "http://x y"}, []string{`value hub: "http://x y"`, "without tag and scheme", "such as registry.example:5000/signet"}},
		{install.Options{Tag: "a b"}, []string{`value tag: "a b"`, "at most 128", "such as 0.6.0"}},
		{set("trustDomain=A/B"), []string{`value trustDomain: "A/B"`, "SPIFFE trust domain", "such as cluster.local"}},
		{set("clusterDomain=a_b"), []string{`value clusterDomain: "a_b"`, "DNS name"}},
		{set("rootNamespace=A_B"), []string{`value rootNamespace: "A_B"`, "at most 63"}},
		{set("tag=a b", "replicas=0"), []string{"value tag: ", "value replicas: 0: want a whole number from 1 to 50"}},
		{set("replicas=-1"), []string{"value replicas: -1: want"}},
		{set("replicas=many"), []string{`value replicas: "many": want`}},
		{set("foo=1"), []string{"foo: no such value"}},
		{set("injection.foo=1"), []string{"injection.foo: no such value"}},
		{set("tolerations[0].foo=1"), []string{"tolerations[0].foo: no such value"}},
		{set("nodeSelector.disk=1"), []string{`value nodeSelector.disk: 1: want a label's value`}},
		{set("nodeSelector.disk=/dev"), []string{`value nodeSelector: {"disk":"/dev"}: want a label`}},
		{set("priorityClassName=A B"), []string{`value priorityClassName: "A B"`}},
		{set("resources.limits.memory=lots"), []string{`value resources.limits.memory: "lots": want a quantity, such as 100m or 256Mi`}},
		{set("resources.limits.cpu=-1"), []string{`value resources.limits.cpu: -1: want a quantity`}},
		{set("injection.resources.requests.cpu=some"), []string{`value injection.resources.requests.cpu: "some"`}},
		{set("resources.requests.memory=2Gi"), []string{`value resources.requests.memory: "2Gi": want no more than resources.limits.memory, which is 1Gi`}},
		{set("podDisruptionBudget.maxUnavailable=0"), []string{"value podDisruptionBudget.maxUnavailable: 0: want a whole number from 1", "no node be drained"}},
		{set("podDisruptionBudget.maxUnavailable=0%"), []string{`value podDisruptionBudget.maxUnavailable: "0%"`}},
		{set("podDisruptionBudget.maxUnavailable=some"), []string{`value podDisruptionBudget.maxUnavailable: "some"`}},
		{set("networkPolicy.egress.apiServerBlocks={10.0.0.0/99}"), []string{`value networkPolicy.egress.apiServerBlocks[0]: "10.0.0.0/99": want a block`}},
		{set("networkPolicy.egress.extra[0].foo=1"), []string{`the NetworkPolicy "signetd" that they make`, `unknown field "spec.egress[3].foo"`}},
		{set("workloadCertTTL=1d"), []string{`value workloadCertTTL: "1d": want hours, minutes and seconds`}},
		{set("workloadCertTTL=1s"), []string{"value workloadCertTTL: ", "--workload-cert-ttl 1s: want between 5s and 2160h"}},
		{set("maxWorkloadCertTTL=9000h"), []string{"value maxWorkloadCertTTL: ", "9000h0m0s: want between 5s and 2160h"}},
		{set("workloadCertTTL=99999999999h"), []string{"value workloadCertTTL: ", "99999999999h"}},
		{set("workloadCertTTL=3h", "maxWorkloadCertTTL=1h"), []string{"value workloadCertTTL: ", "is over --max-workload-cert-ttl 1h"}},
		{set("extraArgs=--redis"), []string{`value extraArgs: "--redis": want a list of flags`}},
		{set("extraArgs[0]=1"), []string{"value extraArgs[0]: 1: want one flag"}},
		{set("extraArgs[0]=--frob"), []string{"value extraArgs: ", "unknown flag: --frob", "'signetd kube --help'"}},
		{set("extraArgs[0]=frob"), []string{"value extraArgs: ", `["frob"]: want flags only`}},
		{set("extraArgs[0]=--help"), []string{"value extraArgs: ", "--help"}},
		{set("extraArgs[0]=--redis=http://x"), []string{"value extraArgs: ", "--redis: ", `scheme "http"`}},
		{set("extraArgs[0]=--redis-username=me"), []string{"value extraArgs: ", "need --redis"}},
		{set("extraArgs[0]=--allow-rego-builtin=frob"), []string{"value extraArgs: ", `--allow-rego-builtin "frob"`}},
		{set("extraArgs[0]=--alone"), []string{"value extraArgs[0]: --alone is set by the value alone"}},
		{set("extraArgs[0]=--trust-domain=x"), []string{"value extraArgs[0]: --trust-domain is set by the value trustDomain"}},
		{set("extraArgs[0]=--metrics-address=:1"), []string{"value extraArgs[0]: --metrics-address: "}},
	} {
		if c.o.Namespace == "" {
			c.o.Namespace = "signet-system"
		}
		c.o.Profile = "default"
		_, err := c.o.Values()
		if err == nil {
			t.Errorf("%+v is taken, want a refusal that says %q", c.o, c.says)
			continue
		}
		for _, s := range c.says {
			if !strings.Contains(err.Error(), s) {
				t.Errorf("%+v: %v\nwant %q", c.o, err, s)
			}
		}
	}
}

func set(pairs ...string) install.Options { return install.Options{Set: pairs} }

// TestTakenValues: what is good is taken, files that are only there in the pod among it.
func TestTakenValues(t *testing.T) {
	file := filepath.Join(t.TempDir(), "values.yaml")
	if err := os.WriteFile(file, []byte(`
replicas: 1
podDisruptionBudget: {maxUnavailable: 50%}
resources: {requests: {cpu: 0.5, memory: 1Gi}, limits: {memory: 1024Mi}}
nodeSelector: {kubernetes.io/os: linux, disk: ""}
tolerations: [{key: dedicated, operator: Exists, effect: NoSchedule}]
workloadCertTTL: 1h30m
maxWorkloadCertTTL: 2160h
networkPolicy: {egress: {apiServerBlocks: [10.0.0.0/8, "fd00::/8"], redisPort: 6379}}
extraArgs: [--redis, "rediss://redis.example:6379/0", --redis-password-file=/in/the/pod, --redis-ca-file=/in/the/pod/too, --allow-rego-builtin=http.send]
`), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, p := range install.Profiles() {
		o := install.Options{Profile: p, Files: []string{file}, Namespace: "signet-system", Revision: strings.Repeat("a", 40), Hub: "registry.example:5000/signet", Tag: "0.6.0-rc.1"}
		if _, err := o.Values(); err != nil {
			t.Errorf("profile %s: %v", p, err)
		}
	}
}
