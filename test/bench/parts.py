"""The Go benchmarks of what decides: run in rounds, one after the other, so that ratios are those of one round."""
import os, re, statistics, subprocess

SHAPES = ["principal+prefix", "namespace+exact", "method+negatives", "gateway+templates", "account-suffix", "request-principal"]
COMMON = SHAPES[:3] # identity, path and method: what the aims speak of
RULES = [1, 100, 10000]
POLICIES = ["spiffe.rego", "globs.rego", "decision.rego", "comprehension.rego"]
LOWERED = POLICIES[:3]

# Package, benchmarks (a pattern for each level of their names), how long each runs. A number of times (x) stands where a
# benchmark's set-up is part of what it times: a few hundredths of the time, then.
GROUPS = [
    ("authz/compile", "^BenchmarkDecide$/./^(1|100|10000)$/.", "0.1s"),
    ("authz/compile", "^BenchmarkDecideLinear$/^principal", "0.1s"),
    ("authz/compile", "^(BenchmarkCompile|BenchmarkCompileOneChanged)$/^(principal|namespace|method)/^10000$", "0.3s"),
    ("authz/rego", "^BenchmarkAsk$", "0.2s"),
    ("proxy/limit", "^Benchmark(Unkeyed|Selected|Refused|Clock)$", "0.3s"),
    ("proxy/limit", "^BenchmarkKeyed$", "8000000x"),
    ("proxy/limit/lease", "^BenchmarkLeased$", "2s"),
    ("proxy/limit/lease", "^Benchmark(ScriptPerRequest|FixedWindow)$", "0.3s"),
    ("identity/jwt", "^BenchmarkCached$", "1000000x"),
    ("identity/jwt", "^BenchmarkVerify$", "0.2s"),
]

LINE = re.compile(r"^Benchmark(\S+?)(?:-\d+)?\s+\d+\s+([\d.]+) ns/op(.*)$", re.M)


def build(binaries):
    """Compiles the test of each package once: {package: executable}."""
    out = {}
    for package in {g[0] for g in GROUPS}:
        out[package] = os.path.abspath(f"{binaries}/{package.replace('/', '-')}.test")
        subprocess.run(["go", "test", "-c", "-o", out[package], "./" + package], check=True)
    return out


def measure(binaries, rounds):
    """{package: {benchmark: {"ns": [a value for each round], "allocs": the most}}}"""
    tests, got = build(binaries), {}
    for _ in range(rounds):
        for package, pattern, long in GROUPS:
            cmd = [tests[package], "-test.run=^$", "-test.bench=" + pattern, f"-test.benchtime={long}", "-test.benchmem"]
            r = subprocess.run(cmd, cwd=package, capture_output=True, text=True)
            found = LINE.findall(r.stdout)
            if r.returncode or not found:
                raise RuntimeError(f"{package}: {pattern}: exit {r.returncode}\n{(r.stdout + r.stderr)[-2000:]}")
            for name, ns, rest in found:
                b = got.setdefault(package, {}).setdefault(name, {"ns": [], "allocs": 0})
                b["ns"].append(float(ns))
                if allocs := re.search(r"(\d+) allocs/op", rest):
                    b["allocs"] = max(b["allocs"], int(allocs[1]))
    return got


class Table:
    def __init__(self, got):
        self.got, self.rows = got, []

    def ns(self, package, name):
        return statistics.median(self.got[package][name]["ns"])

    def ratio(self, package, name, other):
        """The quartiles of the ratio of two benchmarks, round by round."""
        xs = [a / b for a, b in zip(self.got[package][name]["ns"], self.got[package][other]["ns"])]
        return statistics.quantiles(xs, n=4, method="inclusive") if len(xs) > 1 else xs * 3

    def row(self, what, package, name, beside="", other=None):
        q = self.ratio(package, name, other) if other else None
        text = "{1} [{0}-{2}]".format(*map(figures, q)) if q else ""
        b = self.got[package][name]
        print(f"| {what} | {time_of(self.ns(package, name))} | {b['allocs']} | {beside and f'{beside}, {time_of(self.ns(package, other))}'} | {text} |")


def time_of(ns):
    for unit, size in (("ms", 1e6), ("us", 1e3)):
        if ns >= size:
            return f"{figures(ns / size)} {unit}"
    return f"{figures(ns)} ns"


def figures(x):
    """Three of them, at least; no exponent."""
    return f"{x:,.0f}" if x >= 100 or x == 0 else f"{x:.3g}" if x >= 1e-3 else f"{x:.5f}"


def decisions(t):
    p = "authz/compile"
    print("\n### A decision alone, ns: a rule matches / none does\n")
    print("| rules | " + " | ".join(f"{n:,}" for n in RULES) + " | allocations | 10,000 rules, x 1 |\n|---|" + "---|" * (len(RULES) + 2))
    for s in SHAPES:
        name = lambda n, kind: f"Decide/{s}/{n}/{kind}"
        cells = [" / ".join(f"{t.ns(p, name(n, k)):.0f}" for k in ("hit", "miss")) for n in RULES]
        most = max(t.got[p][name(n, k)]["allocs"] for n in RULES for k in ("hit", "miss"))
        x = " / ".join(f"{t.ratio(p, name(10000, k), name(1, k))[1]:.2f}" for k in ("hit", "miss"))
        print(f"| {s} | " + " | ".join(cells) + f" | {most} | {x} |")


def others(t):
    c, r, l, s, j = "authz/compile", "authz/rego", "proxy/limit", "proxy/limit/lease", "identity/jwt"
    print("\n### The other parts\n\n| | a time | allocations | beside it | ratio [quartiles] |\n|---|---|---|---|---|")
    t.row("no rule of 1,000 matches, judged one by one", c, "DecideLinear/principal+prefix/1000/miss", "by the index, of 10,000", "Decide/principal+prefix/10000/miss")
    for shape in COMMON:
        t.row(f"compiling 10,000 rules, {shape}", c, f"Compile/{shape}/10000")
        t.row(f"one policy of 10,000 changed, {shape}", c, f"CompileOneChanged/{shape}/10000", "compiling all", f"Compile/{shape}/10000")
    for name in POLICIES:
        how = "lowered" if name in LOWERED else "not lowered"
        t.row(f"Rego, {name}, {how}", r, f"Ask/{name}/ask", "OPA's evaluation alone", f"Ask/{name}/pure")
        t.row(f"Rego, {name}, by topdown", r, f"Ask/{name}/topdown", "OPA's evaluation alone", f"Ask/{name}/pure")
    for what, name in (("", "Unkeyed"), (", refusing", "Refused"), (", path, method, header and CIDR select", "Selected"),
                       (", per identity, 1", "Keyed/1"), (", per identity, 1,000", "Keyed/1000"), (", per identity, 64,000", "Keyed/64000")):
        t.row("local limit" + what, l, name, "reading the clock", "Clock")
    for keys in (1, 1000):
        t.row(f"global limit, {keys:,} keys" if keys > 1 else "global limit, 1 key", s, f"Leased/{keys}_keys", "a script a request", "ScriptPerRequest")
    t.row("what Envoy's ratelimit asks of Redis", s, "FixedWindow", "a script a request", "ScriptPerRequest")
    t.row("JWT that was verified before", j, "Cached", "verifying ES256", "Verify/ES256")


def aims(t):
    """The promises, beside the medians of this run."""
    p, s, rows = "authz/compile", "proxy/limit/lease", []
    asks = [f"Decide/{shape}/10000/{k}" for shape in COMMON for k in ("hit", "miss")]
    add = lambda what, value, limit, below=True: rows.append({"aim": what, "measured": value, "limit": limit, "met": value <= limit if below else value >= limit})
    add("decision at 10,000 rules, identity, path, method: ns", max(t.ns(p, a) for a in asks), 150)
    add("its allocations", max(t.got[p][a]["allocs"] for a in asks), 0)
    add("compiling 10,000 rules: ms", max(t.ns(p, f"Compile/{shape}/10000") for shape in COMMON) / 1e6, 100)
    for n in LOWERED:
        add(f"lowered Rego decision, {n}: ns", t.ns("authz/rego", f"Ask/{n}/ask"), 300)
    for n in POLICIES:
        add(f"{n} by topdown, x OPA's evaluation alone", t.ratio("authz/rego", f"Ask/{n}/topdown", f"Ask/{n}/pure")[1], 1.5)
    add("local limit under contention: ns", t.ns("proxy/limit", "Unkeyed"), 40)
    add("global limit: decisions a second", min(1e9 / t.ns(s, f"Leased/{k}_keys") for k in (1, 1000)), 300000, below=False)
    print("\n### Aims\n\n| aim | measured | limit | |\n|---|---|---|---|")
    for r in rows:
        print(f"| {r['aim']} | {figures(r['measured'])} | {r['limit']:,} | {'met' if r['met'] else 'MISSED'} |")
    return rows


def run(binaries, rounds):
    """Measures, prints the tables and returns what was measured and whether all aims were met."""
    got = measure(binaries, rounds)
    t = Table(got)
    decisions(t)
    others(t)
    rows = aims(t)
    return {"benchmarks": got, "aims": rows}, all(r["met"] for r in rows)
