"""The mesh that the bench runs: two workloads on loopback addresses, one service, 100 AuthorizationPolicies."""
import os

HOST = "echo.local"
POLICIES = 100

HEAD = """apiVersion: v1
kind: ConfigMap
metadata: {{name: istio, namespace: istio-system}}
data:
  mesh: |
    accessLogFile: "{log}"
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {{name: default, namespace: istio-system}}
spec: {{mtls: {{mode: STRICT}}}}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {{name: client, namespace: default}}
spec: {{address: {cli}, labels: {{app: client}}, serviceAccount: client}}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {{name: server, namespace: default}}
spec: {{address: {srv}, labels: {{app: server}}, serviceAccount: server}}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: echo, namespace: default}}
spec:
  hosts: [{host}]
  location: MESH_INTERNAL
  resolution: STATIC
  ports:
  - {{number: 80, name: http, protocol: HTTP, targetPort: 8080}}
  - {{number: 9000, name: tcp, protocol: TCP, targetPort: 9000}}
  workloadSelector: {{labels: {{app: server}}}}
---
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {{name: server, namespace: default}}
spec:
  workloadSelector: {{labels: {{app: server}}}}
  ingress:
  - port: {{number: 8080, name: http, protocol: HTTP}}
    defaultEndpoint: {origin}
  - port: {{number: 9000, name: tcp, protocol: TCP}}
    defaultEndpoint: {origin}
  egress:
  - hosts: ["./*"]
---
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {{name: client, namespace: default}}
spec:
  workloadSelector: {{labels: {{app: client}}}}
  egress:
  - port: {{number: 15001, name: proxy, protocol: HTTP_PROXY}}
    bind: {cli}
    hosts: ["./*"]
  - port: {{number: 9000, name: tcp, protocol: TCP}}
    bind: {cli}
    hosts: ["./{host}"]
"""

ALLOW = """---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: {name}, namespace: default}}
spec:
  selector: {{matchLabels: {{app: server}}}}
  action: ALLOW
  rules:
  - from: [{{source: {{principals: ["cluster.local/ns/{who}"]}}}}]
    to: [{{operation: {{{what}}}}}]
"""


def write(folder, cli, srv, origin, log):
    """Writes the mesh's objects into folder. Of the 100 policies one lets the HTTP requests pass and one the TCP streams."""
    os.makedirs(folder)
    text = HEAD.format(cli=cli, srv=srv, origin=origin, log=log, host=HOST)
    for i in range(POLICIES - 2):
        text += ALLOW.format(name=f"team-{i:03d}", who=f"team-{i:03d}/sa/web", what=f'methods: [GET], paths: ["/api/v1/things-{i:03d}/*"]')
    text += ALLOW.format(name="z-http", who="default/sa/client", what='methods: [GET], paths: ["/api/v1/items*"]')
    text += ALLOW.format(name="z-tcp", who="default/sa/client", what='ports: ["9000"]')
    with open(folder + "/mesh.yaml", "w") as f:
        f.write(text)
