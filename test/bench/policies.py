"""What deciding costs: our sidecar beside Envoy with the same policies, and the parts of it as Go benchmarks.

    caller -> outbound proxy -> mTLS 1.3 -> inbound proxy with n policies -> program

For each shape of rules one inbound sidecar and one Envoy for each number of policies are up at once and take turns in short
slices, in a new random order each cycle. Only the inbound proxy counts: CPU time of its threads, user and system, over a
closed loop on four connections. The inbound proxies run on the second CPU, everything else on the first.

    policies.py --bin DIR [--cycles N] [--rounds N] [--sizes 1,100,...] [--shapes identity,...] [--only proxies|parts] [--out FILE.json]
"""
import argparse, json, os, random, statistics, subprocess, sys, time

import bench, parts, peers, rules

CONNECTIONS, SLICE = 4, 0.25 # of the load on a proxy; seconds


class Server:
    """An inbound proxy with n policies, and the addresses at which its two kinds of callers find a way to it."""

    def __init__(self, b, name, n, cmd, ways, host):
        self.name, self.n, self.proc, self.ways, self.host = name, n, b.start(cmd, b.back), ways, host
        self.meter, self.loads, self.count = bench.Meter(self.proc.pid), {}, {}

    def load(self, b, kind, ask):
        stranger, path, status = ask
        self.loads[kind] = b.load(self.ways["stranger" if stranger else "client"], CONNECTIONS, host=self.host, path=path, status=status)

    def ready(self, kind, seconds=120):
        """Until the answers are the ones that the policies demand, twice in a row."""
        good, end = 0, time.time() + seconds
        while good < 2:
            good = good + 1 if bench.ask(self.loads[kind], "run 8 0")["err"] == 0 else 0
            if good == 0:
                if time.time() > end or self.proc.poll() is not None:
                    raise RuntimeError(f"{self.name} with {self.n} policies, {kind}: wrong answers; it says:\n" + open(self.proc.logname).read()[-2000:])
                time.sleep(0.3)
        r = bench.ask(self.loads[kind], "run 100 0")
        self.count[kind] = max(20, min(2000, int(SLICE * r["rps"])))

    def slice(self, kind):
        """CPU in us a request."""
        before, r = self.meter.cpu_ns(), bench.ask(self.loads[kind], f"run {self.count[kind]} 0")
        if r["err"]:
            raise RuntimeError(f"{self.name} with {self.n} policies, {kind}: {r['err']} of {r['n']} answers were wrong")
        return (self.meter.cpu_ns() - before) / r["n"] / 1e3


def signet(b, shape, sizes, number):
    net = f"127.0.{80 + number}."
    callers, servers = {"client": net + "1", "stranger": net + "2"}, {n: f"{net}{10 + i}" for i, n in enumerate(sizes)}
    folder, state = f"{b.D}/mesh", f"{b.D}/mesh-state"
    rules.write(folder, shape, sizes, callers, servers, b.origin)
    control, token = bench.control(b, folder, state, b.front)
    side = lambda w: [b.bin + "/signet-proxy", "--control", control, "--token", token(w), "--state=", "--run-dir", f"{b.D}/run-{w}"]
    for c in callers:
        b.start(side(c), b.front)
    ways = {c: a + ":15001" for c, a in callers.items()}
    return [Server(b, "signet", n, side(f"s{n}"), ways, f"s{n}.local") for n in sizes]


def envoy(b, shape, sizes):
    def command(name, listeners, clusters):
        f = f"{b.D}/envoy-{name}.json"
        with open(f, "w") as w:
            json.dump({"static_resources": {"listeners": listeners, "clusters": clusters}}, w)
        return [os.environ["SIGNET_TEST_ENVOY"], "-c", f, "--concurrency", "1", "--disable-hot-restart", "-l", "error"]

    listeners, clusters, servers = [], [], []
    for n in sizes:
        into, ways = b.ports(1)[0], {}
        for caller, leaf in (("client", "out"), ("stranger", "stranger")):
            port = b.ports(1)[0]
            tls = peers.context(b, "out")
            tls["common_tls_context"]["tls_certificates"] = [
                {"certificate_chain": {"filename": f"{b.D}/{leaf}.crt"}, "private_key": {"filename": f"{b.D}/{leaf}.key"}}]
            listeners.append(peers.listener(port, f"to-{port}"))
            clusters.append(peers.cluster(f"to-{port}", f"127.0.0.1:{into}", tls))
            ways[caller] = f"127.0.0.1:{port}"
        servers.append(Server(b, "envoy", n, command(f"in{n}", [rules.inbound(b, shape, n, into)], [peers.cluster("app", b.origin)]), ways, bench.HOST))
    b.start(command("out", listeners, clusters), b.front)
    return servers


def measure(b, shape, sizes, cycles, number):
    """{(proxy, n, kind): [us a request in each cycle]} and the RSS of each proxy in KiB."""
    servers = envoy(b, shape, sizes) + signet(b, shape, sizes, number)
    for kind, ask in shape.asks.items():
        for s in servers:
            s.load(b, kind, ask)
            s.ready(kind)
    cells = [(s, kind) for s in servers for kind in shape.asks]
    out = {(s.name, s.n, kind): [] for s, kind in cells}
    for cycle in range(cycles + 1):
        for s, kind in random.sample(cells, len(cells)):
            us = s.slice(kind)
            if cycle: # the first warms up
                out[s.name, s.n, kind].append(us)
    return out, {f"{s.name} {s.n}": s.meter.rss_kib() for s in servers}


def show(shape, sizes, got, rss):
    """A row for each number of policies; each cell for a request that the last one allows / that none does."""
    med, kinds, rows = statistics.median, list(shape.asks), []
    ratio = lambda a, c: bench.quartiles([x / y for x, y in zip(a, c)])
    both = lambda f: " / ".join(f(k) for k in kinds)
    print(f"\n{shape.what[0].upper()}{shape.what[1:]}:\n\n| policies | Envoy | x with {sizes[0]} | signet | x with {sizes[0]} "
          "| signet / Envoy [quartiles] | RSS, MiB: Envoy, signet |")
    print("|---|---|---|---|---|---|---|")
    for n in sizes:
        row = {"policies": n}
        for p in ("envoy", "signet"):
            row[p] = {k: {"us": med(got[p, n, k]), "x_first": ratio(got[p, n, k], got[p, sizes[0], k])} for k in kinds}
        row["ratio"] = {k: ratio(got["signet", n, k], got["envoy", n, k]) for k in kinds}
        cell = [both(lambda k: f"{row[p][k]['us']:,.0f}") + " | " + both(lambda k: f"{row[p][k]['x_first'][1]:.2f}") for p in ("envoy", "signet")]
        q = both(lambda k: "{1:.3f} [{0:.3f}-{2:.3f}]".format(*row["ratio"][k]))
        print(f"| {n:,} | {cell[0]} | {cell[1]} | {q} | {rss[f'envoy {n}'] / 1024:.0f}, {rss[f'signet {n}'] / 1024:.0f} |", flush=True)
        rows.append(row)
    return {"rows": rows, "rss_kib": rss}


def proxies(a):
    sizes = [int(n) for n in a.sizes.split(",")]
    out = {}
    print("\n### A request: CPU of the inbound proxy, us; the last policy allows it / none does")
    for number, shape in enumerate(rules.SHAPES):
        if shape.name not in a.shapes.split(","):
            continue
        b = bench.Bench(a.bin)
        got, rss = measure(b, shape, sizes, a.cycles, number)
        b.close()
        out[shape.name] = show(shape, sizes, got, rss)
    return out


def versions():
    v = lambda *c: subprocess.run(c, capture_output=True, text=True, check=True).stdout.strip().splitlines()[0]
    return {"envoy": v(os.environ["SIGNET_TEST_ENVOY"], "--version"), "redis": v("redis-server", "--version"), "go": v("go", "version"),
            "kernel": os.uname().release, "cpus": os.cpu_count(), "load": os.getloadavg()}


def main():
    a = argparse.ArgumentParser()
    a.add_argument("--bin", required=True)
    a.add_argument("--cycles", type=int, default=15, help="slices of each proxy, number of policies and kind of request")
    a.add_argument("--rounds", type=int, default=7, help="runs of each Go benchmark")
    a.add_argument("--sizes", default=",".join(map(str, rules.SIZES)), help="numbers of policies, the first is what the others are compared to")
    a.add_argument("--shapes", default=",".join(s.name for s in rules.SHAPES))
    a.add_argument("--only", choices=["proxies", "parts"])
    a.add_argument("--out")
    a = a.parse_args()
    out = {"versions": versions()}
    print(f"# Policies; {a.cycles} cycles, {a.rounds} rounds; medians\n\n{out['versions']}", flush=True)
    met = True
    if a.only != "parts":
        out["proxies"] = proxies(a)
    if a.only != "proxies":
        out["parts"], met = parts.run(a.bin, a.rounds)
    print(f"\nload at the end: {os.getloadavg()}")
    if a.out:
        with open(a.out, "w") as f:
            json.dump(out, f, indent=1)
    sys.exit(0 if met else 1)


if __name__ == "__main__":
    main()
