"""The same pair of proxies made of nginx, HAProxy, Envoy and of plain Go: TLS 1.3, both ends verified, access logs off."""
import json, os

HOST = "echo.local"
SERVER_ID, CLIENT_ID, STRANGER_ID = ("spiffe://cluster.local/ns/default/sa/" + name for name in ("server", "client", "stranger"))
T = "type.googleapis.com/"


def nginx(b):
    o, onk, m, mnk = b.ports(4)
    head = ("daemon off; master_process off; worker_processes 1; error_log stderr error; pid {0}.pid; worker_rlimit_nofile 16000;\n"
            "events {{ worker_connections 7000; multi_accept off; }}\nhttp {{ access_log off; tcp_nodelay on; keepalive_timeout 3600s;"
            " keepalive_requests 1000000000; proxy_http_version 1.1; proxy_max_temp_file_size 0; proxy_buffers 8 16k; proxy_buffer_size 16k;"
            " client_body_temp_path {0}.0; proxy_temp_path {0}.1; fastcgi_temp_path {0}.2; uwsgi_temp_path {0}.3; scgi_temp_path {0}.4;\n")
    keep = "keepalive 1024; keepalive_requests 1000000000; keepalive_timeout 3600s;"
    up = lambda name, addr, more: f"upstream {name} {{ server {addr}; {more} }}\n"
    once = "proxy_set_header Host $host; proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; "
    alive = once + 'proxy_set_header Connection "";'
    ptls = (f"proxy_ssl_certificate {b.D}/out.crt; proxy_ssl_certificate_key {b.D}/out.key; proxy_ssl_trusted_certificate {b.D}/ca.pem;"
            f" proxy_ssl_verify on; proxy_ssl_verify_depth 2; proxy_ssl_name {HOST}; proxy_ssl_server_name on; proxy_ssl_protocols TLSv1.3;"
            " proxy_ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256; proxy_ssl_conf_command Groups X25519; proxy_ssl_session_reuse off;")
    stls = (f"ssl_certificate {b.D}/in.crt; ssl_certificate_key {b.D}/in.key; ssl_client_certificate {b.D}/ca.pem; ssl_verify_client on;"
            " ssl_verify_depth 2; ssl_protocols TLSv1.3; ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256; ssl_ecdh_curve X25519;"
            " ssl_session_cache off; ssl_session_tickets off;")

    def conf(role, body):
        f = f"{b.D}/nginx-{role}"
        with open(f + ".conf", "w") as w:
            w.write(head.format(f) + body + "}\n")
        return {"cmd": ["nginx", "-c", f + ".conf", "-p", b.D]}

    out = up("mid", f"127.0.0.1:{m}", keep) + up("midnk", f"127.0.0.1:{mnk}", "")
    for port, to, set_ in ((o, "mid", alive), (onk, "midnk", once)):
        out += f"server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass https://{to}; {set_} {ptls} }} }}\n"
    inn = up("app", b.origin, keep)
    for p in (m, mnk):
        inn += f"server {{ listen 127.0.0.1:{p} ssl; {stls} location / {{ proxy_pass http://app; {alive} }} }}\n"
    return {"out": conf("out", out), "in": conf("in", inn), "addr": f"127.0.0.1:{o}", "newconn": f"127.0.0.1:{onk}"}


def haproxy(b):
    o, onk, m = b.ports(3)
    head = ("global\n maxconn 7000\n nbthread 1\n ssl-default-bind-options ssl-min-ver TLSv1.3 no-tls-tickets\n"
            " ssl-default-bind-ciphersuites TLS_AES_128_GCM_SHA256\n ssl-default-server-ciphersuites TLS_AES_128_GCM_SHA256\n"
            " ssl-default-bind-curves X25519\n tune.ssl.cachesize 0\n"
            "defaults\n mode http\n timeout connect 5s\n timeout client 1h\n timeout server 1h\n timeout http-keep-alive 1h\n"
            " option forwardfor\n http-reuse always\n")
    srv = f"ssl ssl-min-ver TLSv1.3 verify required ca-file {b.D}/ca.pem crt {b.D}/out.pem sni str({HOST}) verifyhost {HOST} no-ssl-reuse"
    out = (f"frontend f\n bind 127.0.0.1:{o}\n default_backend mid\nbackend mid\n server s 127.0.0.1:{m} {srv} pool-purge-delay 1h\n"
           f"frontend fnk\n bind 127.0.0.1:{onk}\n default_backend midnk\nbackend midnk\n option httpclose\n http-reuse never\n"
           f" server s 127.0.0.1:{m} {srv} pool-max-conn 0\n")
    inn = (f"frontend f\n bind 127.0.0.1:{m} ssl crt {b.D}/in.pem ca-file {b.D}/ca.pem verify required alpn http/1.1\n"
           f" default_backend app\nbackend app\n server s {b.origin} pool-purge-delay 1h\n")
    v = {}
    for role, text in (("out", out), ("in", inn)):
        f = f"{b.D}/haproxy-{role}.cfg"
        with open(f, "w") as w:
            w.write(head + text)
        v[role] = {"cmd": ["haproxy", "-db", "-f", f]}
    return {**v, "addr": f"127.0.0.1:{o}", "newconn": f"127.0.0.1:{onk}"}


def listener(port, cluster, tls=None):
    hcm = {"@type": T + "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager", "stat_prefix": "http",
           "http_filters": [{"name": "envoy.filters.http.router", "typed_config": {"@type": T + "envoy.extensions.filters.http.router.v3.Router"}}],
           "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [
               {"match": {"prefix": "/"}, "route": {"cluster": cluster, "timeout": "0s"}}]}]}}
    chain = {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": hcm}]}
    if tls:
        chain["transport_socket"] = {"name": "envoy.transport_sockets.tls", "typed_config": tls}
    return {"name": f"l{port}", "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}}, "filter_chains": [chain]}


def cluster(name, addr, tls=None, once=False):
    host, port = addr.split(":")
    proto = {"@type": T + "envoy.extensions.upstreams.http.v3.HttpProtocolOptions", "explicit_http_config": {"http_protocol_options": {}}}
    if once:
        proto["common_http_protocol_options"] = {"max_requests_per_connection": 1}
    big = 1000000
    c = {"name": name, "type": "STATIC", "connect_timeout": "5s",
         "circuit_breakers": {"thresholds": [{"max_connections": big, "max_pending_requests": big, "max_requests": big, "max_retries": big}]},
         "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": proto},
         "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [{"endpoint": {"address": {
             "socket_address": {"address": host, "port_value": int(port)}}}}]}]}}
    if tls:
        c["transport_socket"] = {"name": "envoy.transport_sockets.tls", "typed_config": tls}
    return c


def context(b, side):
    common = {"tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3", "ecdh_curves": ["X25519"]},
              "alpn_protocols": ["http/1.1"],
              "tls_certificates": [{"certificate_chain": {"filename": f"{b.D}/{side}.crt"}, "private_key": {"filename": f"{b.D}/{side}.key"}}],
              "validation_context": {"trusted_ca": {"filename": b.D + "/ca.pem"}, "match_typed_subject_alt_names": [
                  {"san_type": "URI", "matcher": {"exact": SERVER_ID if side == "out" else CLIENT_ID}}]}}
    ns = T + "envoy.extensions.transport_sockets.tls.v3."
    if side == "out":
        return {"@type": ns + "UpstreamTlsContext", "common_tls_context": common, "sni": HOST, "max_session_keys": 0}
    return {"@type": ns + "DownstreamTlsContext", "common_tls_context": common, "require_client_certificate": True,
            "disable_stateless_session_resumption": True}


def envoy(b):
    o, onk, m, mnk = b.ports(4)

    def command(role, listeners, clusters):
        f = f"{b.D}/envoy-{role}.json"
        with open(f, "w") as w:
            json.dump({"static_resources": {"listeners": listeners, "clusters": clusters}}, w)
        return {"cmd": [os.environ["SIGNET_TEST_ENVOY"], "-c", f, "--concurrency", "1", "--disable-hot-restart", "-l", "error"]}

    return {"out": command("out", [listener(o, "mid"), listener(onk, "midnk")], [
                cluster("mid", f"127.0.0.1:{m}", context(b, "out")), cluster("midnk", f"127.0.0.1:{mnk}", context(b, "out"), once=True)]),
            "in": command("in", [listener(m, "app", context(b, "in")), listener(mnk, "app", context(b, "in"))], [cluster("app", b.origin)]),
            "addr": f"127.0.0.1:{o}", "newconn": f"127.0.0.1:{onk}"}


def plain(b):
    """crypto/tls with its defaults and no HTTP: what a new mTLS connection costs in Go. It takes part in that case only."""
    o, m = b.ports(2)
    side = lambda s: ["-ca", b.D + "/ca.pem", "-cert", f"{b.D}/{s}.crt", "-key", f"{b.D}/{s}.key"]
    return {"out": {"cmd": [b.bin + "/plain", "out", "-listen", f"127.0.0.1:{o}", "-target", f"127.0.0.1:{m}", "-name", HOST, *side("out")]},
            "in": {"cmd": [b.bin + "/plain", "in", "-listen", f"127.0.0.1:{m}", "-target", b.origin, *side("in")]},
            "addr": f"127.0.0.1:{o}", "newconn": f"127.0.0.1:{o}", "only": {"newconn"}}
