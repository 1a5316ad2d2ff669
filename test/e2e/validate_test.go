package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// vs is a VirtualService whose first HTTP route, on line 6, is given.
func vs(route string) string {
	return "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: r, namespace: n}\nspec:\n  hosts: [a.example]\n  http: [" + route + "]\n"
}

const to = "route: [{destination: {host: a.example}}]"

// ap is an AuthorizationPolicy whose first rule, on line 5, is given.
func ap(rule string) string {
	return "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p, namespace: n}\nspec:\n  rules: [" + rule + "]\n"
}

// se is a ServiceEntry with a spec in flow style on line 4.
func se(spec string) string {
	return "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: s, namespace: n}\nspec: {hosts: [a.example], ports: [{number: 80, name: http, protocol: HTTP}], resolution: STATIC" + spec + "}\n"
}

func sidecarFile(spec string) string {
	return "apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {name: s, namespace: n}\nspec: {" + spec + "}\n"
}

// TestValidateRefuses reads one file at a time: what is refused is named with its place and its field, and the exit code is 2.
func TestValidateRefuses(t *testing.T) {
	t.Parallel()
	object := "VirtualService n/r: spec.http[0]."
	for name, c := range map[string]struct{ text, place, want string }{
		"broken YAML":         {"kind: [", "1", "broken YAML"},
		"no object":           {"- a\n- b\n", "1:1", "want an object with apiVersion and kind"},
		"unknown field":       {vs("{" + to + ", tiemout: 1s}"), "6:54", object + `tiemout: unknown field "tiemout"`},
		"unknown top field":   {"apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {name: s}\nspecs: {}\n", "4:1", `unknown field "specs"`},
		"unknown kind":        {"apiVersion: x.example/v1\nkind: Thing\nmetadata: {name: a}\n", "2:7", "kind Thing of x.example is not supported"},
		"EnvoyFilter":         {"apiVersion: networking.istio.io/v1alpha3\nkind: EnvoyFilter\nmetadata: {name: a}\nspec: {}\n", "2:7", "the proxy is not Envoy; routes, retries and headers go into VirtualService"},
		"WasmPlugin":          {"apiVersion: extensions.istio.io/v1alpha1\nkind: WasmPlugin\nmetadata: {name: a}\n", "2:7", "the proxy runs no plugins; access decisions go into AuthorizationPolicy"},
		"Gateway":             {"apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: a}\n", "2:7", "Gateway"},
		"HTTPRoute":           {"apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: a}\n", "2:7", "use VirtualService"},
		"RequestAuth":         {"apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {name: a}\nspec: {jwtRules: [{issuer: i, jwksUri: \"file:///etc/keys\"}]}\n", "4:40", "spec.jwtRules[0].jwksUri"},
		"version":             {"apiVersion: networking.istio.io/v2\nkind: Sidecar\nmetadata: {name: a}\n", "1:13", "use v1"},
		"name":                {"apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {name: A_b}\nspec: {}\n", "", "metadata.name"},
		"unquoted no":         {"apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {name: w}\nspec: {address: 127.0.0.2, labels: {app: no}}\n", "4:42", "spec.labels[app]"},
		"address":             {"apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {name: w}\nspec: {address: host.example}\n", "4:17", "spec.address"},
		"control plane":       {"apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {name: w, namespace: signet-system}\nspec: {address: 127.0.0.2, serviceAccount: signetd}\n", "4:44", "the control plane's own identity"},
		"resolution":          {"apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: s}\nspec: {hosts: [a.example], ports: [{number: 80, name: http, protocol: HTTP}], resolution: DYNAMIC_DNS}\n", "4:91", "spec.resolution"},
		"resolved wildcard":   {"apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: s}\nspec: {hosts: [\"*.example\"], ports: [{number: 80, name: http, protocol: HTTP}], resolution: DNS}\n", "4:16", "spec.hosts[0]"},
		"two of a kind":       {se(", endpoints: [{address: 127.0.0.1}], workloadSelector: {labels: {a: b}}"), "4:99", "spec.endpoints: and workloadSelector exclude each other"},
		"SAN":                 {se(", subjectAltNames: [a.example]"), "", "spec.subjectAltNames[0]"},
		"regex":               {vs("{match: [{uri: {regex: \"(\"}}], " + to + "}"), "", object + "match[0].uri.regex"},
		"empty prefix":        {vs("{match: [{uri: {prefix: \"\"}}], " + to + "}"), "", object + "match[0].uri"},
		"match connection":    {vs("{match: [{headers: {connection: {exact: close}}}], " + to + "}"), "6:30", object + "match[0].headers[connection]"},
		"match framing":       {vs("{match: [{headers: {Transfer-Encoding: {}}}], " + to + "}"), "6:30", object + "match[0].headers[Transfer-Encoding]"},
		"match uri header":    {vs("{match: [{headers: {uri: {exact: /a}}}], " + to + "}"), "6:30", object + "match[0].headers[uri]"},
		"match :path":         {vs("{match: [{headers: {\":path\": {exact: /a}}}], " + to + "}"), "6:30", object + "match[0].headers[:path]"},
		"match without":       {vs("{match: [{withoutHeaders: {trailer: {}}}], " + to + "}"), "6:37", object + "match[0].withoutHeaders[trailer]"},
		"set connection":      {vs("{headers: {request: {set: {Connection: close}}}, " + to + "}"), "", object + "headers.request.set[Connection]"},
		"add proxy auth":      {vs("{headers: {request: {add: {proxy-authorization: x}}}, " + to + "}"), "", object + "headers.request.add[proxy-authorization]"},
		"remove content":      {vs("{headers: {response: {remove: [content-length]}}, " + to + "}"), "", object + "headers.response.remove[0]"},
		"set XFCC":            {vs("{headers: {request: {set: {x-forwarded-client-cert: x}}}, " + to + "}"), "", object + "headers.request.set[x-forwarded-client-cert]"},
		"set response host":   {vs("{headers: {response: {set: {host: x}}}, " + to + "}"), "", object + "headers.response.set[host]"},
		"set bad authority":   {vs("{headers: {request: {set: {host: \"a b\"}}}, " + to + "}"), "", object + "headers.request.set"},
		"variable":            {vs("{headers: {request: {set: {x-a: \"%REQ(b)%\"}}}, " + to + "}"), "", object + "headers.request.set[x-a]"},
		"rewrite space":       {vs("{rewrite: {uri: \"/a b\"}, " + to + "}"), "6:26", object + "rewrite.uri"},
		"rewrite query":       {vs("{rewrite: {uri: \"/a?b\"}, " + to + "}"), "6:26", object + "rewrite.uri"},
		"rewrite fragment":    {vs("{rewrite: {uri: \"/a#b\"}, " + to + "}"), "6:26", object + "rewrite.uri"},
		"rewrite authority":   {vs("{rewrite: {authority: \"a.example:99999\"}, " + to + "}"), "6:32", object + "rewrite.authority"},
		"rewrite group":       {vs("{rewrite: {uriRegexRewrite: {match: \"/(a)\", rewrite: '/\\2'}}, " + to + "}"), "6:21", object + "rewrite.uriRegexRewrite"},
		"redirect path":       {vs("{redirect: {uri: \"/a b\"}}"), "6:27", object + "redirect.uri"},
		"redirect authority":  {vs("{redirect: {authority: \"u@a\"}}"), "6:33", object + "redirect.authority"},
		"redirect prefix":     {vs("{match: [{uri: {exact: /a}}], redirect: {prefixRewrite: /b}}"), "6:20", object + "match[0].uri"},
		"redirect code":       {vs("{redirect: {redirectCode: 200}}"), "6:36", object + "redirect.redirectCode"},
		"retry word":          {vs("{retries: {attempts: 1, retryOn: \"5xx,sometimes\"}, " + to + "}"), "6:43", object + `retries.retryOn: unknown condition "sometimes"`},
		"retry code":          {vs("{retries: {attempts: 1, retryOn: \"999\"}, " + to + "}"), "6:43", object + "retries.retryOn"},
		"weights":             {vs("{route: [{destination: {host: a.example}}, {destination: {host: b.example}}]}"), "", object + "route"},
		"fault":               {vs("{fault: {abort: {httpStatus: 500}}, " + to + "}"), "", object + "fault: is not honoured"},
		"TCP subnet":          {strings.Replace(vs(""), "http: []", "tcp: [{match: [{destinationSubnets: [10.0.0.0/8]}], "+to+"}]", 1), "6:19", "spec.tcp[0].match[0].destinationSubnets"},
		"mid-string *":        {ap("{to: [{operation: {paths: [\"/a/*/b\"]}}]}"), "5:38", "AuthorizationPolicy n/p: spec.rules[0].to[0].operation.paths[0]"},
		"principal scheme":    {ap("{from: [{source: {principals: [\"spiffe://a/ns/b/sa/c\"]}}]}"), "5:42", "spec.rules[0].from[0].source.principals[0]"},
		"when key":            {ap("{when: [{key: request.colour, values: [red]}]}"), "5:25", "spec.rules[0].when[0].key"},
		"when framing":        {ap("{when: [{key: \"request.headers[Transfer-Encoding]\", values: [chunked]}]}"), "5:25", "spec.rules[0].when[0].key"},
		"when connection":     {ap("{when: [{key: \"request.headers[connection]\", values: [close]}]}"), "5:25", "spec.rules[0].when[0].key"},
		"when :path":          {ap("{when: [{key: \"request.headers[:path]\", values: [/a]}]}"), "5:25", "spec.rules[0].when[0].key"},
		"JWT":                 {ap("{when: [{key: \"request.auth.claimz[a]\", values: [b]}]}"), "", "spec.rules[0].when[0].key"},
		"no provider":         {"apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: a}\nspec: {action: CUSTOM, rules: [{}]}\n", "", "spec.provider"},
		"Rego":                {"apiVersion: policy.signet.dev/v1alpha1\nkind: RegoPolicy\nmetadata: {name: a}\nspec:\n  query: data.a.allow\n  module: |\n    package a\n    allow if { nothing }\n", "8", "spec.module"},
		"http.send":           {"apiVersion: policy.signet.dev/v1alpha1\nkind: RegoPolicy\nmetadata: {name: a}\nspec:\n  query: data.a.allow\n  module: |\n    package a\n    allow if http.send({\"method\": \"GET\", \"url\": \"http://a\"}).status_code == 200\n", "8", "unless the operator allows it by name"},
		"no store":            {"apiVersion: policy.signet.dev/v1alpha1\nkind: RateLimitPolicy\nmetadata: {name: a}\nspec: {global: {rules: [{limit: {requests: 1, unit: Day}}]}}\n", "", "--redis"},
		"unit":                {"apiVersion: policy.signet.dev/v1alpha1\nkind: RateLimitPolicy\nmetadata: {name: a}\nspec: {local: {rules: [{limit: {requests: 1, unit: Fortnight}}]}}\n", "4:52", "want one of Second, Minute, Hour, Day, Month"},
		"empty list":          {ap("{to: [{operation: {methods: []}}]}"), "", "spec.rules[0].to[0].operation"},
		"dead path":           {ap("{to: [{operation: {paths: [/ok, admin]}}]}"), "5:43", "spec.rules[0].to[0].operation.paths[1]: \"admin\" would never match: a path begins with /: write \"/admin\""},
		"dead slashes":        {ap("{to: [{operation: {notPaths: [//admin*]}}]}"), "5:41", "write \"/admin*\""},
		"dead dots":           {ap("{to: [{operation: {paths: [/a/../b]}}]}"), "5:38", "write \"/b\""},
		"dead escape":         {ap("{to: [{operation: {paths: [/%62enc]}}]}"), "5:38", "write \"/benc\""},
		"dead bytes":          {ap("{to: [{operation: {paths: [/café]}}]}"), "5:38", "write \"/caf%C3%A9\""},
		"dead query":          {ap("{to: [{operation: {paths: [\"/a?b\"]}}]}"), "5:38", "the query and the fragment are not judged"},
		"dead method":         {ap("{to: [{operation: {methods: [put]}}]}"), "5:40", "operation.methods[0]: \"put\" would never match: methods are compared with their case: write \"PUT\""},
		"dead principal":      {ap("{from: [{source: {principals: [Acme.Example/ns/a/sa/b]}}]}"), "5:42", "it is no SPIFFE ID"},
		"dead when":           {ap("{when: [{key: source.principal, values: [a.example//b]}]}"), "5:52", "spec.rules[0].when[0].values[0]"},
		"dead host":           {ap("{to: [{operation: {hosts: [\"http://a.example/\"]}}]}"), "5:38", "write \"a.example\""},
		"dead namespace":      {ap("{from: [{source: {namespaces: [Shop]}}]}"), "5:42", "spec.rules[0].from[0].source.namespaces[0]"},
		"dead trust domain":   {ap("{from: [{source: {trustDomains: [\"a b\"]}}]}"), "5:44", "spec.rules[0].from[0].source.trustDomains[0]"},
		"template":            {ap("{to: [{operation: {paths: [\"/{**}/{*}\"]}}]}"), "5:38", "spec.rules[0].to[0].operation.paths[0]"},
		"block":               {ap("{from: [{source: {ipBlocks: [10.0.0.0/33]}}]}"), "5:40", "spec.rules[0].from[0].source.ipBlocks[0]"},
		"mapped block":        {ap("{from: [{source: {ipBlocks: [\"::ffff:10.0.0.0/90\"]}}]}"), "5:40", "spec.rules[0].from[0].source.ipBlocks[0]"},
		"defaultEndpoint":     {sidecarFile(`ingress: [{port: {number: 80, name: http, protocol: HTTP}, defaultEndpoint: "10.1.2.3:80"}]`), "4:84", "spec.ingress[0].defaultEndpoint"},
		"captureMode":         {sidecarFile(`ingress: [{port: {number: 80, name: http, protocol: HTTP}, captureMode: IPTABLES}]`), "4:80", "spec.ingress[0].captureMode"},
		"egress host":         {sidecarFile(`egress: [{hosts: [a.example]}]`), "4:26", "spec.egress[0].hosts[0]"},
		"portLevelMtls":       {"apiVersion: security.istio.io/v1beta1\nkind: PeerAuthentication\nmetadata: {name: a}\nspec:\n  portLevelMtls: {80: {mode: STRICT}}\n", "5:3", "spec.portLevelMtls"},
		"MeshConfig":          {"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\ndata:\n  mesh: |\n    accessLogFile: /var/log/x\n", "6:20", "data.mesh.accessLogFile"},
		"MeshConfig field":    {"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\ndata:\n  mesh: |\n    colour: red\n", "6:5", "colour"},
		"DestinationRule TLS": {"apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: d}\nspec: {host: a.example, trafficPolicy: {tls: {mode: SIMPLE}}}\n", "4:53", "spec.trafficPolicy.tls.mode"},
		"balancer":            {"apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: d}\nspec: {host: a.example, trafficPolicy: {loadBalancer: {simple: PASSTHROUGH}}}\n", "4:64", "spec.trafficPolicy.loadBalancer.simple"},
	} {
		file := filepath.Join(t.TempDir(), "x.yaml")
		if err := os.WriteFile(file, []byte(c.text), 0o644); err != nil {
			t.Fatal(err)
		}
		out, errs, exit := run(t, "signet", "validate", file)
		if exit != 2 || !strings.Contains(out, file+":"+c.place) || !strings.Contains(out, c.want) || !strings.Contains(out, "error") {
			t.Errorf("%s: exit %d, want %s and %q in\n%s%s", name, exit, c.place, c.want, strings.ReplaceAll(out, file, "x.yaml"), errs)
		}
	}
}

// TestValidateTakes reads what is good, or at most dropped by name.
func TestValidateTakes(t *testing.T) {
	t.Parallel()
	good := map[string][]string{ // with the warnings it must give
		vs("{" + to + "}"): nil,
		vs("{headers: {request: {set: {\":authority\": b.example, x-share: \"100%%\"}}}, " + to + "}"): nil,
		vs("{mirror: {host: b.example}, " + to + "}"):                                                  {"spec.http[0].mirror: is dropped: requests are not mirrored: warning"},
		ap("{}"): nil,
		ap("{to: [{operation: {paths: [/a%2fb, /caf%C3%A9, \"/a/.*\"], methods: [PURGE], hosts: [\"a.example:80\"]}}]}"): nil,
		ap("{from: [{source: {remoteIpBlocks: [10.0.0.1]}}]}"):                                                           {"spec.rules[0].from[0].source.remoteIpBlocks: judges the last address of X-Forwarded-For"},
		ap("{when: [{key: remote.ip, values: [10.0.0.1]}]}"):                                                             {"spec.rules[0].when[0].key: judges the last address of X-Forwarded-For"},
		ap("{from: [{source: {principals: [x.example/ns/a/sa/b]}}]}"):                                                    {"principals[0]: \"x.example/ns/a/sa/b\" never matches: the mesh's trust domain is \"cluster.local\""},
		se(", location: MESH_EXTERNAL, endpoints: [{address: 192.0.2.1}]"):                                               nil,
		strings.Replace(se(", endpoints: [{address: 192.0.2.1}]"), "protocol: HTTP", "protocol: GRPC", 1):                {"spec.ports[0].protocol: GRPC is carried as TCP for now"},
		se(", workloadSelector: {labels: {app: gone}}"):                                                                  {"spec.workloadSelector: selects no WorkloadEntry of namespace n: warning"},
	}
	for _, kind := range []string{"WorkloadEntry", "ServiceEntry", "Sidecar", "VirtualService", "DestinationRule"} {
		for _, version := range []string{"v1", "v1beta1", "v1alpha3"} {
			spec := map[string]string{"WorkloadEntry": "{address: 127.0.0.9}", "Sidecar": "{}", "DestinationRule": "{host: a.example}",
				"ServiceEntry":   "{hosts: [a.example], ports: [{number: 80, name: http, protocol: HTTP}], resolution: STATIC, endpoints: [{address: 127.0.0.1}]}",
				"VirtualService": "{hosts: [a.example], http: [{directResponse: {status: 200}}]}"}[kind]
			good[fmt.Sprintf("apiVersion: networking.istio.io/%s\nkind: %s\nmetadata: {name: a}\nspec: %s\n", version, kind, spec)] = nil
		}
	}
	for _, version := range []string{"v1", "v1beta1"} {
		good[fmt.Sprintf("apiVersion: security.istio.io/%s\nkind: PeerAuthentication\nmetadata: {name: a}\nspec: {mtls: {mode: STRICT}}\n", version)] = nil
		good[fmt.Sprintf("apiVersion: security.istio.io/%s\nkind: AuthorizationPolicy\nmetadata: {name: a}\nspec: {}\n", version)] = nil
	}
	for text, warnings := range good {
		file := filepath.Join(t.TempDir(), "x.yaml")
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		out, errs, exit := run(t, "signet", "validate", file)
		if exit != 0 || strings.Contains(out, "error") {
			t.Errorf("exit %d for\n%s%s%s", exit, text, out, errs)
		}
		wants(t, out, warnings...)
	}
}

// TestValidateDirectory judges references: they may not dangle in a whole directory.
func TestValidateDirectory(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	save := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	service := se(", workloadSelector: {labels: {app: a}}")
	workload := entry("n/a", "127.9.0.1", "a", "app: a", "")
	save("a.yaml", objects(service, workload, vs("{"+to+"}")))
	if out, errs, exit := run(t, "signet", "validate", dir); exit != 0 {
		t.Fatalf("exit %d: %s%s", exit, out, errs)
	}
	for name, c := range map[string]struct{ text, want string }{
		"host":           {vs("{route: [{destination: {host: nowhere.example}}]}"), "b.yaml:6:40: VirtualService n/r: spec.http[0].route[0].destination.host: \"nowhere.example\": no ServiceEntry defines it: error"},
		"subset":         {vs("{route: [{destination: {host: a.example, subset: v9}}]}"), "spec.http[0].route[0].destination.subset: no DestinationRule defines subset \"v9\""},
		"port":           {vs("{route: [{destination: {host: a.example, port: {number: 99}}}]}"), "has no port 99"},
		"selector":       {policy("n/p", "selector: {matchLabels: {app: gone}}"), "spec.selector: selects no WorkloadEntry of namespace n"},
		"egress host":    {networkingObject("Sidecar", "n/s", "egress: [{hosts: [\"*/gone.example\"]}]"), "spec.egress[0].hosts[0]"},
		"two Sidecars":   {objects(networkingObject("Sidecar", "n/s", "workloadSelector: {labels: {app: a}}"), networkingObject("Sidecar", "n/t", "workloadSelector: {labels: {app: a}}")), "is the second Sidecar that selects workload n/a"},
		"twice":          {workload, "is defined twice, first at"},
		"listeners":      {networkingObject("Sidecar", "n/s", "ingress: [{port: {number: 8080, name: http, protocol: HTTP}, defaultEndpoint: \"0.0.0.0:8080\"}]"), "b.yaml:6:81: Sidecar n/s: spec.ingress[0].defaultEndpoint: \"0.0.0.0:8080\" is the listener itself"},
		"one address":    {networkingObject("Sidecar", "n/s", "ingress: [{port: {number: 15001, name: http, protocol: HTTP}}]"), "both bind 127.9.0.1:15001"},
		"TCP to several": {objects(strings.NewReplacer("a.example", "b.example", "name: s,", "name: t,").Replace(service), networkingObject("Sidecar", "n/s", "egress: [{port: {number: 9, name: tcp, protocol: TCP}, hosts: [\"*/*\"]}]")), "neither a.example nor b.example has port 9"},
	} {
		save("b.yaml", c.text)
		if name != "two Sidecars" && name != "TCP to several" {
			save("a.yaml", objects(service, workload))
		}
		out, errs, exit := run(t, "signet", "validate", dir)
		if exit != 2 || !strings.Contains(out, c.want) {
			t.Errorf("%s: exit %d, want %q in\n%s%s", name, exit, c.want, out, errs)
		}
		// The same directory is not started.
		if name == "listeners" || name == "one address" {
			_, errs, exit := run(t, "signet", "up", "--state", shortDir(t), "--control-address", "127.0.0.1:0", dir)
			if exit != 2 || !strings.Contains(errs, strings.TrimSuffix(c.want, ": error")) {
				t.Errorf("%s: up: exit %d, %s", name, exit, errs)
			}
		}
	}
}
