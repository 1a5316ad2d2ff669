"""The same ALLOW rules as Istio's objects for our sidecar and as the RBAC filter's configuration for Envoy.

A rule names any of: who (NAMESPACE/sa/ACCOUNT), method, path (exact, or a prefix that ends in *). Of n policies, a rule each,
only the last lets the request of the bench pass. Envoy judges policies in the order of their names: z is last.
"""
import json, os

import peers

SIZES = [1, 100, 1000, 10000]
CLIENT = "default/sa/client"
FILE = 2000 # policies written to one file; one of 4 MiB is the most that is read


class Shape:
    """A kind of rules with two requests: one that the last rule of them allows, and one that none does."""

    def __init__(self, name, what, rule, last, hit, miss, stranger=False):
        self.name, self.what, self.rule, self.last = name, what, rule, last
        # kind -> whether a stranger asks, the path, the status.
        self.asks = {"last": (False, hit, 200), "none": (stranger, miss, 403)}

    def rules(self, n):
        return {**{f"p{i:05d}": self.rule(i) for i in range(n - 1)}, "z": self.last}


SHAPES = [
    Shape("identity", "rules that name a caller", lambda i: {"who": f"team-{i:05d}/sa/web"}, {"who": CLIENT}, "/api/v1/items", "/api/v1/items", stranger=True),
    Shape("path", "rules that name a method and an exact path", lambda i: {"method": "GET", "path": f"/svc/{i:05d}"}, {"method": "GET", "path": "/svc/last"}, "/svc/last", "/svc/none"),
    Shape("full", "rules that name a caller, a method and a prefix of the path", lambda i: {"who": f"team-{i:05d}/sa/web", "method": "GET", "path": f"/api/v1/things-{i:05d}/*"},
          {"who": CLIENT, "method": "GET", "path": "/api/v1/items*"}, "/api/v1/items", "/api/v1/nothing"),
]


def istio(r):
    out, operation = {}, {}
    if "who" in r:
        out["from"] = [{"source": {"principals": ["cluster.local/ns/" + r["who"]]}}]
    if "method" in r:
        operation["methods"] = [r["method"]]
    if "path" in r:
        operation["paths"] = [r["path"]]
    if operation:
        out["to"] = [{"operation": operation}]
    return json.dumps(out) # which is YAML too


def rbac(r):
    """The shape in which Istio's control plane writes a rule: the permission in the order method, path."""
    def path(p):
        return {"prefix": p[:-1]} if p.endswith("*") else {"exact": p}
    may = [{"or_rules": {"rules": [{"header": {"name": ":method", "string_match": {"exact": r["method"]}}}]}}] if "method" in r else []
    may += [{"or_rules": {"rules": [{"url_path": {"path": path(r["path"])}}]}}] if "path" in r else []
    who = [{"authenticated": {"principal_name": {"exact": "spiffe://cluster.local/ns/" + r["who"]}}}] if "who" in r else []
    return {"permissions": [{"and_rules": {"rules": may or [{"any": True}]}}],
            "principals": [{"and_ids": {"ids": [{"or_ids": {"ids": who}}] if who else [{"any": True}]}}]}


HEAD = """apiVersion: v1
kind: ConfigMap
metadata: {{name: istio, namespace: istio-system}}
data:
  mesh: |
    accessLogFile: ""
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {{name: default, namespace: istio-system}}
spec: {{mtls: {{mode: STRICT}}}}
"""

CALLER = """---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {{name: {name}, namespace: default}}
spec: {{address: {addr}, labels: {{app: {name}}}, serviceAccount: {name}}}
---
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {{name: {name}, namespace: default}}
spec:
  workloadSelector: {{labels: {{app: {name}}}}}
  egress:
  - port: {{number: 15001, name: proxy, protocol: HTTP_PROXY}}
    bind: {addr}
    hosts: ["./*"]
"""

SERVER = """---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {{name: s{n}, namespace: default}}
spec: {{address: {addr}, labels: {{app: s{n}}}, serviceAccount: server}}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: s{n}, namespace: default}}
spec:
  hosts: [s{n}.local]
  location: MESH_INTERNAL
  resolution: STATIC
  ports:
  - {{number: 80, name: http, protocol: HTTP, targetPort: 8080}}
  workloadSelector: {{labels: {{app: s{n}}}}}
---
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {{name: s{n}, namespace: default}}
spec:
  workloadSelector: {{labels: {{app: s{n}}}}}
  ingress:
  - port: {{number: 8080, name: http, protocol: HTTP}}
    defaultEndpoint: {origin}
  egress:
  - hosts: ["./*"]
"""

POLICY = """---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: s{n}-{name}, namespace: default}}
spec:
  selector: {{matchLabels: {{app: s{n}}}}}
  action: ALLOW
  rules: [{rule}]
"""


def write(folder, shape, sizes, callers, servers, origin):
    """Writes the mesh into folder: callers and servers name the address of each workload; the server of size n has n policies."""
    os.makedirs(folder)
    text = HEAD.format() + "".join(CALLER.format(name=c, addr=a) for c, a in callers.items())
    files = {"mesh": text + "".join(SERVER.format(n=n, addr=servers[n], origin=origin) for n in sizes)}
    for n in sizes:
        docs = [POLICY.format(n=n, name=name, rule=istio(r)) for name, r in shape.rules(n).items()]
        for i in range(0, n, FILE):
            files[f"s{n}-{i}"] = "".join(docs[i:i + FILE])
    for name, text in files.items():
        with open(f"{folder}/{name}.yaml", "w") as f:
            f.write(text)


def inbound(b, shape, n, port):
    """Envoy's listener of the server with n policies: mTLS, paths normalized, the RBAC filter, the router."""
    tls = peers.context(b, "in")
    tls["common_tls_context"]["validation_context"]["match_typed_subject_alt_names"] = [
        {"san_type": "URI", "matcher": {"prefix": "spiffe://cluster.local/"}}]
    l = peers.listener(port, "app", tls)
    hcm = l["filter_chains"][0]["filters"][0]["typed_config"]
    hcm["normalize_path"] = True
    policies = {name: rbac(r) for name, r in shape.rules(n).items()}
    hcm["http_filters"].insert(0, {"name": "envoy.filters.http.rbac", "typed_config": {
        "@type": peers.T + "envoy.extensions.filters.http.rbac.v3.RBAC", "rules": {"action": "ALLOW", "policies": policies}}})
    return l
