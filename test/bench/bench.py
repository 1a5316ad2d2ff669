#!/usr/bin/env python3
"""Measures the sidecar pair beside others that do the same, and the CA beside what no CA can leave out.

    client -> outbound proxy -> mTLS 1.3 -> inbound proxy -> program

All pairs are up at once and take turns in short slices, in a new random order each cycle, so that whatever else the machine
does falls on all alike: the ratios within a cycle count, absolute values drift. The client, the program and the control
plane run on the first CPU, the proxies on the second, one worker each. CPU time is read from /proc/PID/task/*/schedstat.

    bench.py --bin DIR [--secs N] [--cases c16,c64,...] [--pairs signet,nginx,...] [--out FILE.json]

DIR holds signet, signetd, signet-proxy, and this folder's plain, issue and load. $SIGNET_TEST_ENVOY names Envoy.
"""
import argparse, atexit, json, os, random, re, shutil, signal, socket, statistics, subprocess, sys, tempfile, time

import mesh, peers

HOST, PATH = mesh.HOST, "/api/v1/items"
CASES = {
    "c16": dict(conns=16, n=1500, what="closed loop, 16 connections, 1 KiB"),
    "c64": dict(conns=64, n=2000, what="closed loop, 64 connections, 1 KiB"),
    "r2000": dict(conns=16, n=1000, rate=2000, what="2,000 requests/s, 16 connections, 1 KiB"),
    "r1000": dict(conns=16, n=500, rate=1000, what="1,000 requests/s, 16 connections, 1 KiB"),
    "newconn": dict(conns=8, n=120, x=True, what="a new mTLS connection for every request, 8 at a time"),
}
CONNECTIONS = 1000  # of the memory case


class Bench:
    """Owns the scratch folder, ports and every process started; close ends them all."""

    def __init__(self, binaries):
        self.bin, self.D = os.path.abspath(binaries), tempfile.mkdtemp(prefix="signet-bench.")
        self.procs, self.port, self.nets = [], 21000 + os.getpid() % 300 * 30, 0
        atexit.register(self.close)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        cpus = sorted(os.sched_getaffinity(0))
        self.front, self.back = cpus[0], cpus[-1]
        self.certs()
        self.origin = f"127.0.0.1:{self.ports(1)[0]}"
        self.start([self.bin + "/load", "origin", "-a", self.origin], self.front)

    def certs(self):
        """Root, intermediate and three leaves, P-256: the shape of the chains that the mesh's CA gives out."""
        def sh(*a):
            subprocess.run(["openssl", *a], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=self.D)
        def sign(name, issuer, ext):
            with open(f"{self.D}/{name}.ext", "w") as f:
                f.write(ext)
            sh("req", *ec, "-keyout", name + ".key", "-out", name + ".csr", "-subj", "/O=bench " + name)
            sh("x509", "-req", "-in", name + ".csr", "-CA", issuer + ".pem", "-CAkey", issuer + ".key", "-CAcreateserial",
               "-days", "20", "-extfile", name + ".ext", "-out", name + ".pem")
        read = lambda f: open(f"{self.D}/{f}").read()
        ec = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
        sh("req", "-x509", *ec, "-keyout", "ca.key", "-out", "ca.pem", "-days", "30", "-subj", "/O=bench CA",
           "-addext", "basicConstraints=critical,CA:true", "-addext", "keyUsage=critical,keyCertSign,cRLSign")
        sign("sub", "ca", "basicConstraints=critical,CA:true\nkeyUsage=critical,keyCertSign,cRLSign\n")
        for name, uri in (("in", peers.SERVER_ID), ("out", peers.CLIENT_ID), ("stranger", peers.STRANGER_ID)):
            sign(name, "sub", f"subjectAltName=URI:{uri},DNS:{HOST}\nkeyUsage=critical,digitalSignature\n"
                 "extendedKeyUsage=serverAuth,clientAuth\nbasicConstraints=critical,CA:false\n")
            chain = read(name + ".pem") + read("sub.pem")
            for file, text in ((".crt", chain), (".pem", chain + read(name + ".key"))):
                with open(f"{self.D}/{name}{file}", "w") as f:
                    f.write(text)

    def ports(self, n):
        """n ports that nobody uses, below the ephemeral range so that no client takes one meanwhile."""
        out = []
        while len(out) < n:
            self.port += 1
            with socket.socket() as s:
                try:
                    s.bind(("127.0.0.1", self.port))
                    out.append(self.port)
                except OSError:
                    pass
        return out

    def start(self, cmd, cpu, **kw):
        log = open(f"{self.D}/log.{len(self.procs)}.{os.path.basename(cmd[0])}", "wb")
        kw = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log, **kw}
        p = subprocess.Popen(["taskset", "-c", str(cpu), *cmd], **kw)
        p.logname, p.cmd = log.name, cmd
        self.procs.append(p)
        return p

    def talker(self, cmd, cpu):
        """A process that answers each line with a line of JSON."""
        return self.start(cmd, cpu, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)

    def load(self, addr, conns=1, x=False, host=HOST, path=PATH, status=200):
        return self.talker([self.bin + "/load", "load", "-a", addr, "-c", str(conns), "-H", host, "-p", path, "-s", str(status),
                            *(["-x"] if x else [])], self.front)

    def end(self, p):
        if p.stdin:
            p.stdin.close()
        p.wait()
        self.procs.remove(p)

    def close(self):
        for p in reversed(self.procs):
            if p.poll() is None:
                p.terminate()
        for p in self.procs:
            try:
                p.wait(5)
            except subprocess.TimeoutExpired:
                p.kill()
                p.wait()
        self.procs = []
        shutil.rmtree(self.D, ignore_errors=True)


def ask(p, line):
    p.stdin.write(line + "\n")
    answer = p.stdout.readline()
    if not answer:
        raise RuntimeError(f"{' '.join(p.cmd)} ended: {open(p.logname).read()[-300:]}")
    return json.loads(answer)


class Meter:
    """CPU time and memory of one process. Threads that ended keep their last seen value."""

    def __init__(self, pid):
        self.pid, self.seen = pid, {}

    def cpu_ns(self):
        for t in os.listdir(f"/proc/{self.pid}/task"):
            try:
                self.seen[t] = int(open(f"/proc/{self.pid}/task/{t}/schedstat").read().split()[0])
            except OSError:
                pass
        return sum(self.seen.values())

    def rss_kib(self):
        return int(re.search(r"^Rss:\s+(\d+)", open(f"/proc/{self.pid}/smaps_rollup").read(), re.M).group(1))


def control(b, folder, state, cpu):
    """Starts a control plane on folder and returns its address and a function that mints tokens."""
    addr = f"127.0.0.1:{b.ports(1)[0]}"
    b.start([b.bin + "/signetd", "--state", state, "--control-address", addr, folder], cpu)

    def token(workload):
        out, err = f"{state}/../{os.path.basename(state)}.{workload}.token", ""
        for _ in range(50):
            r = subprocess.run([b.bin + "/signet", "ca", "token", "--state", state, "default/" + workload], capture_output=True, text=True)
            if r.returncode == 0:
                with open(out, "w") as f:
                    f.write(r.stdout)
                return out
            err = r.stderr
            time.sleep(0.1)
        raise RuntimeError("minting a join token: " + err)
    return addr, token


def signet(b, log):
    """Our pair: a control plane and two sidecars, run by hand with join tokens."""
    b.nets += 1
    name, cli, srv = f"signet{b.nets}", f"127.0.{90 + b.nets}.1", f"127.0.{90 + b.nets}.2"
    folder, state = f"{b.D}/{name}", f"{b.D}/{name}-state"
    mesh.write(folder, cli, srv, b.origin, log)
    addr, token = control(b, folder, state, b.front)
    side = lambda w: {"cmd": [b.bin + "/signet-proxy", "--control", addr, "--token", token(w), "--state=", "--run-dir", f"{b.D}/{name}-{w}"]}
    return {"in": side("server"), "out": side("client"), "addr": cli + ":15001", "newconn": cli + ":9000"}


PAIRS = {"nginx": peers.nginx, "haproxy": peers.haproxy, "envoy": peers.envoy, "plain-go": peers.plain,
         "signet": lambda b: signet(b, ""), "signet+log": lambda b: signet(b, "/dev/stdout")}


class Pair:
    def __init__(self, b, name, v):
        self.name, self.addr, self.newconn, self.only = name, v["addr"], v.get("newconn", v["addr"]), v.get("only")
        self.procs = {s: b.start(v[s]["cmd"], b.back) for s in ("in", "out") if s in v}
        self.meters = {s: Meter(p.pid) for s, p in self.procs.items()}
        self.wait(b)
        time.sleep(0.5)
        self.fresh = self.rss()

    def wait(self, b):
        """Until one request passes through the whole pair. taskset executes the command in its place: the pid is the proxy's."""
        last, addr = "", self.newconn if self.only else self.addr
        for _ in range(100):
            r = subprocess.run([b.bin + "/load", "load", "-a", addr, "-H", HOST, "-n", "1", "-p", PATH, *(["-x"] if self.only else [])],
                               capture_output=True, text=True)
            last = r.stdout + r.stderr
            if r.returncode == 0 and json.loads(r.stdout)["err"] == 0:
                return
            time.sleep(0.2)
        for p in self.procs.values():
            print(f"  {' '.join(p.cmd)[:120]} (exit {p.poll()}):\n  " + open(p.logname, errors="replace").read()[-1500:], file=sys.stderr)
        raise RuntimeError(f"{self.name}: no request passed: {last.strip()}")

    def cpu(self):
        return {s: m.cpu_ns() for s, m in self.meters.items()}

    def rss(self):
        return {s: m.rss_kib() for s, m in self.meters.items()}


def case(b, pairs, c, secs):
    """Interleaved slices on all pairs for about secs seconds: {name: [sample per cycle]}."""
    loads = {p: b.load(p.newconn if c.get("x") else p.addr, c["conns"], c.get("x", False)) for p in pairs}
    rows, start, cycle = {p.name: [] for p in pairs}, time.time(), 0
    while cycle < 6 or time.time() - start < secs:
        for p in random.sample(pairs, len(pairs)):
            before = p.cpu()
            r = ask(loads[p], f"run {c['n']} {c.get('rate', 0)}")
            after = p.cpu()
            for s in before:
                r["cpu_" + s] = (after[s] - before[s]) / max(r["n"], 1) / 1e3
            r["cpu"] = r.get("cpu_in", 0) + r.get("cpu_out", 0)
            if cycle > 1: # the first two warm up
                rows[p.name].append(r)
        cycle += 1
    for l in loads.values():
        b.end(l)
    return rows


def quartiles(xs):
    return statistics.quantiles(xs, n=4, method="inclusive") if len(xs) > 1 else [xs[0]] * 3


def summary(rows):
    """Medians, and the quartiles of the ratio to nginx cycle by cycle."""
    out = {}
    for name, ss in rows.items():
        med = lambda k: statistics.median(s.get(k, 0) for s in ss)
        r = {k: med(k) for k in ("cpu_in", "cpu_out", "cpu", "rps", "p50", "p99")}
        r["err"], r["cycles"] = sum(s["err"] for s in ss), len(ss)
        if r["cpu"]:
            for other in ("nginx", "plain-go"):
                if other in rows:
                    r["x_" + other] = quartiles([s["cpu"] / o["cpu"] for s, o in zip(ss, rows[other])])
        if "direct" in rows:
            r["added_p50"] = statistics.median(s["p50"] - d["p50"] for s, d in zip(ss, rows["direct"]))
            r["added_p99"] = statistics.median(s["p99"] - d["p99"] for s, d in zip(ss, rows["direct"]))
        out[name] = r
    return out


def show(title, res):
    print(f"\n## {title}  ({max(r['cycles'] for r in res.values())} cycles)\n")
    print("| pair | CPU us a request (out + in) | x nginx [quartiles] | x plain Go | requests/s | p50 us | p99 us | added p50 / p99 | errors |")
    print("|---|---|---|---|---|---|---|---|---|")
    ratio = lambda q: f"{q[1]:.2f} [{q[0]:.2f}-{q[2]:.2f}]" if q else "-"
    for name, r in res.items():
        cpu = f"{r['cpu']:.1f} ({r['cpu_out']:.1f} + {r['cpu_in']:.1f})" if r["cpu"] else "-"
        print(f"| {name} | {cpu} | {ratio(r.get('x_nginx'))} | {ratio(r.get('x_plain-go'))} | {r['rps']:.0f} | {r['p50']:.0f} | {r['p99']:.0f} "
              f"| {r.get('added_p50', 0):.0f} / {r.get('added_p99', 0):.0f} | {r['err']} |", flush=True)


def memory(b, pairs):
    """RSS fresh (one request served), with many client connections that sent three requests each, and after they closed."""
    res = {}
    print(f"\n## memory, RSS in MiB (out / in)\n\n| pair | fresh | with {CONNECTIONS} connections | after they closed | KiB a connection |")
    print("|---|---|---|---|---|")
    mb = lambda d: f"{d['out'] / 1024:.1f} / {d['in'] / 1024:.1f}"
    for p in pairs:
        if p.only or not p.procs:
            continue
        load = b.load(p.addr, CONNECTIONS)
        err = ask(load, f"run {CONNECTIONS * 3} 0")["err"]
        time.sleep(1)
        full = p.rss()
        b.end(load)
        time.sleep(1)
        per = {s: (full[s] - p.fresh[s]) / CONNECTIONS for s in full}
        res[p.name] = {"fresh_kib": p.fresh, "full_kib": full, "after_kib": p.rss(), "kib_a_connection": per, "err": err}
        print(f"| {p.name} | {mb(p.fresh)} | {mb(full)} | {mb(res[p.name]['after_kib'])} | {per['out']:.1f} / {per['in']:.1f} |", flush=True)
    return res


def issuance(b, secs):
    """CPU of the control plane for a certificate, through its gRPC door, beside the raw limit."""
    folder, state = b.D + "/issue", b.D + "/issue-state"
    mesh.write(folder, "127.0.98.1", "127.0.98.2", b.origin, "")
    addr, token = control(b, folder, state, b.back)
    meter_door = Meter(b.procs[-1].pid)
    client = b.talker([b.bin + "/issue", "door", addr, token("client")], b.front)
    raw = b.talker([b.bin + "/issue", "raw"], b.back)
    meter_raw, samples, start = Meter(raw.pid), [], time.time()
    while len(samples) < 6 or time.time() - start < secs:
        got = {}
        for name, talker, m in random.sample([("door", client, meter_door), ("raw", raw, meter_raw)], 2):
            before = m.cpu_ns()
            n = ask(talker, "run 300")["n"]
            got[name] = (m.cpu_ns() - before) / n / 1e3
        samples.append(got)
    samples = samples[1:]
    us = {k: statistics.median(s[k] for s in samples) for k in ("raw", "door")}
    of_raw = quartiles([s["raw"] / s["door"] for s in samples])
    print(f"\n## certificates issued  ({len(samples)} cycles)\n\n| | CPU us a certificate | a CPU-second | of raw [quartiles] |\n|---|---|---|---|")
    print(f"| raw Go: check the request, sign, self-check | {us['raw']:.0f} | {1e6 / us['raw']:.0f} | 1 |")
    print(f"| signetd, CreateCertificate over mTLS, 16 at once | {us['door']:.0f} | {1e6 / us['door']:.0f} "
          f"| {of_raw[1]:.2f} [{of_raw[0]:.2f}-{of_raw[2]:.2f}] |", flush=True)
    return {"us": us, "of_raw": of_raw, "samples": samples}


def aims(out):
    """The promises of docs/performance.md beside what this run measured."""
    rows, cases = [], out["cases"]
    def add(what, value, limit, below=True):
        rows.append({"aim": what, "measured": value, "limit": limit, "met": value <= limit if below else value >= limit})
    for name, limit in (("c16", 1), ("c64", 1), ("r2000", 1.2)):
        if name in cases and "signet" in cases[name] and "nginx" in cases[name]:
            add(f"{name}: CPU a request, x nginx", cases[name]["signet"]["x_nginx"][1], limit)
    if "r1000" in cases and {"signet", "envoy"} <= set(cases["r1000"]):
        add("r1000: added p50 in us, Envoy's is the limit", cases["r1000"]["signet"]["added_p50"], cases["r1000"]["envoy"]["added_p50"])
    if "newconn" in cases and {"signet", "plain-go"} <= set(cases["newconn"]):
        add("newconn: CPU, x plain Go", cases["newconn"]["signet"]["x_plain-go"][1], 1)
    if "signet" in out.get("memory", {}):
        add("fresh sidecar, MiB (the larger)", max(out["memory"]["signet"]["fresh_kib"].values()) / 1024, 30)
    if "issuance" in out:
        add("issuance, of raw", out["issuance"]["of_raw"][1], 0.6, below=False)
    print("\n## aims\n\n| aim | measured | limit | |\n|---|---|---|---|")
    for r in rows:
        print(f"| {r['aim']} | {r['measured']:.2f} | {r['limit']:.2f} | {'met' if r['met'] else 'MISSED'} |")
    return rows


def versions():
    def v(*c):
        r = subprocess.run(c, capture_output=True, text=True)
        return (r.stdout + r.stderr).strip().splitlines()[0]
    return {"nginx": v("nginx", "-v"), "haproxy": v("haproxy", "-v"), "openssl": v("openssl", "version"), "kernel": os.uname().release,
            "envoy": v(os.environ["SIGNET_TEST_ENVOY"], "--version"), "cpus": os.cpu_count(), "load": os.getloadavg()}


def main():
    a = argparse.ArgumentParser()
    a.add_argument("--bin", required=True)
    a.add_argument("--secs", type=float, default=80, help="seconds for each case")
    a.add_argument("--cases", default=",".join([*CASES, "memory", "issuance"]))
    a.add_argument("--pairs", default=",".join(PAIRS))
    a.add_argument("--out")
    a = a.parse_args()
    todo = a.cases.split(",")
    b = Bench(a.bin)
    pairs = [Pair(b, "direct", {"addr": b.origin})] + [Pair(b, n, PAIRS[n](b)) for n in a.pairs.split(",")]
    out = {"versions": versions(), "policies": mesh.POLICIES, "cases": {}, "samples": {}}
    print(f"# {', '.join(p.name for p in pairs)}; {mesh.POLICIES} policies; metrics on; access log off save in signet+log\n\n{out['versions']}")
    if "memory" in todo:
        out["memory"] = memory(b, pairs)
    for name, c in CASES.items():
        if name in todo:
            here = [p for p in pairs if not p.only or name in p.only]
            out["samples"][name] = case(b, here, c, a.secs)
            out["cases"][name] = summary(out["samples"][name])
            show(f"{name}: {c['what']}", out["cases"][name])
    if "issuance" in todo:
        out["issuance"] = issuance(b, a.secs / 2)
    out["aims"] = aims(out)
    if a.out:
        with open(a.out, "w") as f:
            json.dump(out, f, indent=1)
    b.close()
    sys.exit(0 if all(r["met"] for r in out["aims"]) else 1)


if __name__ == "__main__":
    main()
