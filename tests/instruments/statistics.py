"""What the instruments say against numpy over the arrays that /dump writes: other code, other
formulas where there are any.  Run by statistics.sh; speaks TAP."""
import itertools
import json
import math
import re
import subprocess
import sys
import tempfile

import numpy as np

import common
from common import BACKEND, DBRX, SRC, finish, lines, ok


def printed(cwd, *commands, options=()):
    p = common.run(*options, "-b", BACKEND, *lines(*commands), cwd=cwd)
    assert p.returncode == 0, p.stderr.decode()
    return p.stdout.decode()


def run(cwd, *commands, options=()):
    return [json.loads(x) for x in printed(cwd, *commands, options=["--json", *options]).strip().split("\n")]


def tables(events):
    return {(e["instrument"], e["table"], i): e for i, e in enumerate(e for e in events if e["type"] == "instrument")}


def table(events, name):
    found = [e for e in events if e["type"] == "instrument" and e["table"] == name]
    assert len(found) == 1, found
    return found[0]


def load(folder):
    return {n: np.load("%s/%s.npy" % (folder, n)) for n in ("tokens", "router_prob", "expert", "weight")}


def close(a, b, tol=1e-5):
    return np.allclose(np.array(a, float), np.array(b, float), rtol=tol, atol=tol, equal_nan=True)


def col(t, name):
    return [r[name] for r in t["rows"]]


TEXT = "Once upon a time, there was a little girl named Lily. She loved to play outside with her dog, and 12 + 3 = 15."
with tempfile.TemporaryDirectory() as tmp:
    ev = run(tmp, "/set seed 5", "/set max_tokens 40", TEXT, "/experts", "/experts --layer 1,-1", "/coactivation 5000",
             "/transitions 5000", "/top *@* 3", "/dump d")
    d = load(tmp + "/d")
    L, T, E = d["router_prob"].shape
    k = d["expert"].shape[2]
    used = np.zeros((L, T, E))
    np.put_along_axis(used, d["expert"], 1, 2)

    # ---- /experts
    t = table(ev, "layers")
    share = used.mean(1)
    ok(t["facts"]["tokens"] == T and t["facts"]["generated"] == 40 and t["facts"]["with_probabilities"] == T, "/experts: every token", t["facts"])
    ok(close(col(t, "load"), share), "load is the share of tokens")
    ok(close(col(t, "max_over_mean"), share.max(1) / (k / E)), "the largest over the mean")
    ok(close(col(t, "cv"), share.std(1) / share.mean(1)), "coefficient of variation")
    p = d["router_prob"].astype(float)
    ok(close(col(t, "entropy"), -(p * np.log2(p)).sum(2).mean(1), 1e-4), "entropy of the router", col(t, "entropy"))
    same = [[len(set(d["expert"][l, i]) & set(d["expert"][l, i + 1])) / k for i in range(T - 1)] for l in range(L)]
    ok(close(col(t, "consistency"), np.mean(same, 1)), "consistency of neighbours", col(t, "consistency"), np.mean(same, 1))
    ok(col(t, "dead") == (share == 0).sum(1).tolist(), "dead experts")
    t = table(ev, "experts")
    ok([(r["layer"], r["expert"]) for r in t["rows"]] == [(l, e) for l in (1, L - 1) for e in range(E)], "--layer takes a set")
    w = np.zeros((L, T, E))
    np.put_along_axis(w, d["expert"], d["weight"], 2)
    with np.errstate(all="ignore"):
        mean = (w.sum(1) / used.sum(1))[[1, L - 1]].ravel()
    got = [math.nan if r["mean_weight"] is None else r["mean_weight"] for r in t["rows"]]
    ok(close(got, mean), "mean weight where it was used", got, mean)
    ok(col(t, "tokens") == used.sum(1)[[1, L - 1]].ravel().tolist(), "tokens")

    # ---- /coactivation: chance by going through all sets
    t = table(ev, "pairs")
    both = np.einsum("lta,ltb->lab", used, used)
    ok(len(t["rows"]) == L * E * (E - 1) // 2 and all(r["tokens"] == both[r["layer"], r["a"], r["b"]] for r in t["rows"]),
       "/coactivation counts pairs")
    sets = np.array(list(itertools.combinations(range(E), k)))
    member = np.zeros((len(sets), E))
    np.put_along_axis(member, sets, 1, 1)
    for l in range(L):
        target, odds = share[l], np.full(E, -1.0)
        alive = target > 0
        theta = np.where(alive, np.log(np.maximum(target, 1e-12)), -np.inf)
        for _ in range(20000):                 # Newton-free: multiply odds until the loads are met
            q = np.where(member.astype(bool), theta, 0).sum(1)
            q = np.exp(q - q.max())
            q /= q.sum()
            pi = q @ member
            if np.abs(pi - target).max() < 1e-9:
                break
            theta = np.where(alive, theta + np.log(np.maximum(target, 1e-300) / np.maximum(pi, 1e-300)), -np.inf)
        expect = np.einsum("s,sa,sb->ab", q, member, member) * T
        rows = [r for r in t["rows"] if r["layer"] == l]
        ok(close([r["expected"] for r in rows], [expect[r["a"], r["b"]] for r in rows], 2e-4),
           "layer %d: chance is random sets with these loads" % l,
           max(abs(r["expected"] - expect[r["a"], r["b"]]) for r in rows))


    def likelihood_ratio(r):
        """Of n in T under the share seen over that under chance, as two binomials."""
        def log_p(p):
            return (r["tokens"] and r["tokens"] * math.log(p)) + (r["tokens"] < T and (T - r["tokens"]) * math.log1p(-p))
        return 2 * (log_p(r["tokens"] / T) - log_p(r["expected"] / T)) if 0 < r["expected"] < T else 0

    score = [likelihood_ratio(r) for r in t["rows"]]
    ok(close(col(t, "score"), score, 1e-3) and col(t, "score") == sorted(col(t, "score"), reverse=True),
       "sorted by the log-likelihood ratio against chance", list(zip(col(t, "score"), score))[:5])
    ok(all(r["tokens"] > 1 or r["expected"] > 1 for r in t["rows"][:20]), "what was seen once is not on top", t["rows"][:20])

    # ---- /transitions
    t = table(ev, "transitions")
    step = np.einsum("lta,ltb->lab", used[:-1], used[1:])
    chance = np.einsum("la,lb->lab", used[:-1].sum(1), used[1:].sum(1)) / T
    ok(len(t["rows"]) == (L - 1) * E * E and all(r["tokens"] == step[r["layer"], r["a"], r["b"]] for r in t["rows"]),
       "/transitions counts steps")
    ok(close(col(t, "score"), [likelihood_ratio(r) for r in t["rows"]], 1e-3) and
       col(t, "score") == sorted(col(t, "score"), reverse=True), "... sorted by the same measure")
    ok(close(col(t, "expected"), [chance[r["layer"], r["a"], r["b"]] for r in t["rows"]], 1e-4), "... and chance is independence")

    # ---- /top
    t = table(ev, "top")
    good = True
    for l in range(L):
        for e in range(E):
            best = np.sort(np.where(used[l, :, e] > 0, d["router_prob"][l, :, e], -1))[::-1][:3]
            good &= close([r["prob"] for r in t["rows"] if (r["layer"], r["expert"]) == (l, e)], [b for b in best if b >= 0])
    ok(good, "/top: the highest router probabilities of each expert")
    ok(all(r["context"].count("[") >= 1 for r in t["rows"]), "... in context")

    # ---- a mark: the difference of two dumps
    ev = run(tmp, "/feed 930 739 259 559", "/experts mark here", "/dump a", "/feed 14 355 293 705 514 1", "/experts --since here",
             "/dump b")
    t, b = table(ev, "layers"), load(tmp + "/b")
    u = np.zeros((L, 10, E))
    np.put_along_axis(u, b["expert"], 1, 2)
    ok(t["facts"]["tokens"] == 6 and close(col(t, "load"), u[:, 4:].mean(1)), "--since counts what came after")

    # ---- one reset, of all instruments; until then all of it survives /new
    ev = run(tmp, "/feed 930 739 259 559", "/new", "/feed 14 355", "/experts", "/coactivation", "/top *@*", "/experts reset", "/feed 5",
             "/experts", "/coactivation", "/transitions", "/top *@*")
    t = [e for e in ev if e["type"] == "instrument" and e["table"] != "reset"]
    ok([e["facts"].get("tokens") for e in t] == [6, 6, None, 1, 1, 1, None], "/new keeps the statistics, a reset is for all of them", t)
    ok(set(col(t[2], "id")) == {930, 739, 259, 559, 14, 355} and set(col(t[6], "id")) == {5} and len(t[6]["rows"]) == L * k,
       "... and for the best tokens", t[6])

    # ---- steering: tokens count with the experts they were given, and the head says how many were steered
    plain = ["/set seed 5", "/set max_tokens 20", TEXT, "/experts mark m", "/k 2"]
    text = printed(tmp, *plain, "/experts --since m", "/experts", "/k 3 0", "/experts --layer 0..1", "/top *@0 2")
    heads = re.sub(r"\s+", " ", text)
    n = T - 20                                 # the prompt's tokens, and 20 generated
    for want in ("%d tokens since m, 0 of them generated, %d steered;" % (n, n), "(even: 0.125)",
                 "%d tokens, 20 of them generated, %d steered;" % (2 * n, n), "(even: 0.188)", "(even: 0.167 to 0.188, by layer)",
                 "* The choice of experts was steered"):
        ok(want in heads, "steered tokens: " + want, text)
    ev = run(tmp, *plain, "/experts", "/k 4", "/experts", "/steer off", "Lily", "/experts")
    before, again, after = (e for e in ev if e["type"] == "instrument" and e["table"] == "layers")
    ok(before["facts"]["steered"] == before["facts"]["tokens"] / 2 and close(col(before, "load"), np.array(col(before, "load"))) and
       close(np.array(col(before, "load")).sum(1), 3), "half of the tokens with 4 experts, half with 2: loads sum to 3", before["facts"])
    ok(close(col(before, "max_over_mean"), np.array(col(before, "load")).max(1) / (3 / E)), "max is relative to what is even")
    ok(after["facts"]["generated"] == 40 and after["facts"]["steered"] == before["facts"]["steered"],
       "what is written afterwards is generated", after["facts"])

    # ---- /transitions has none behind the last layer
    p = common.run("-b", BACKEND, *lines("/feed 1 2 3", "/transitions --layer -1"))
    ok(p.returncode == 3 and b"layer %d is the last" % (L - 1) in p.stderr, "/transitions --layer LAST says why there is nothing", p.stderr)
    text = printed(tmp, TEXT, "/coactivation 3000")
    shown = re.findall(r"(?m)^ +\d+ +\d+ +\d+ +[1-9]\d* +(\d+\.\d+)", text)
    ok(len(shown) > 50 and all(float(x) > 0 for x in shown), "by chance is shown with digits that mean something", text[:400])

    # ---- /contrast, against windows fed by hand; ref takes its time: windows of a quarter of the size
    part = 4 if BACKEND == "ref" else 1
    window, most, size = 128 // part, 480 // part, 6000 // part
    small = ["--ctx", window] if part > 1 else []
    code = open(SRC + "/repl/trace.c").read()[:size]
    topics = [json.loads(x) for x in open(SRC + "/docs/topics.jsonl", encoding="utf-8")]
    prose = "\n".join(x["prompt"] for x in topics if x["topic"] == "prose")[:size]
    open(tmp + "/code.txt", "w").write(code)
    open(tmp + "/prose.txt", "w").write(prose)
    ev = run(tmp, "/contrast code.txt prose.txt --tokens %d --top 1000" % most, options=small)
    t = table(ev, "contrast")
    sides = {}
    for name, text in ("a", code), ("b", prose):
        p = subprocess.run([DBRX, "tokenize", "-"], input=text.encode(), stdout=subprocess.PIPE, check=True)
        ids = [int(x) for x in p.stdout.split()][:most]
        xs, ms = [], []
        for at in range(0, len(ids), window):
            piece = ids[at:at + window]
            run(tmp, "/feed " + " ".join(map(str, piece)), "/dump w")
            w = load(tmp + "/w")
            one = np.zeros((L, len(piece), E))
            np.put_along_axis(one, w["expert"], 1, 2)
            xs.append(one.sum(1))
            ms.append(len(piece))
        sides[name] = np.array(xs), np.array(ms, float)
    ok(t["facts"]["windows_a"] == 4 and t["facts"]["tokens_a"] == most == t["facts"]["tokens_b"], "/contrast: --tokens", t["facts"])
    shares, design = {}, {}
    for name, (x, m) in sides.items():
        n, M = len(m), m.sum()
        p = shares[name] = x.sum(0) / M
        resid = x - p * m[:, None, None]
        var = n / (n - 1) * (resid ** 2).sum(0) / M ** 2
        with np.errstate(all="ignore"):
            de = np.where((p > 0) & (p < 1), np.maximum(1, var / (p * (1 - p) / M)), np.nan)
        fill = np.nanmean(de, 1)
        design[name] = M / np.where(np.isnan(de), fill[:, None], de)
    ok(close(col(t, "share_a"), [shares["a"][r["layer"], r["expert"]] for r in t["rows"]]) and
       close(col(t, "share_b"), [shares["b"][r["layer"], r["expert"]] for r in t["rows"]]), "shares of windows on their own")

    def wilson(p, n, z):
        """As the roots of the score equation (p - x)^2 = z^2 x (1 - x) / n."""
        lo, hi = sorted(np.roots([1 + z * z / n, -(2 * p + z * z / n), p * p]).real)
        return max(lo, 0), min(hi, 1)

    def newcombe(r, z):
        at = r["layer"], r["expert"]
        pa, pb = shares["a"][at], shares["b"][at]
        (l1, u1), (l2, u2) = wilson(pa, design["a"][at], z), wilson(pb, design["b"][at], z)
        return pa - pb - math.hypot(pa - l1, u2 - pb), pa - pb + math.hypot(u1 - pa, pb - l2)

    z95 = 2.446912                             # Student's t, 6 degrees of freedom, two-sided 95%
    ends = [newcombe(r, z95) for r in t["rows"]]
    ok(close(col(t, "low"), [e[0] for e in ends], 5e-3) and close(col(t, "high"), [e[1] for e in ends], 5e-3),
       "Newcombe's interval over windows as clusters", [(r["low"], e[0]) for r, e in zip(t["rows"], ends)][:5])
    ok(0 < t["facts"]["holding"] < L * E and t["facts"]["holding"] == sum(r["holds"] == "yes" for r in t["rows"]) and
       all(r["low"] * r["high"] > 0 for r in t["rows"] if r["holds"]), "what holds for all excludes 0 for one", t["facts"])
    z_all = 6.737114                           # 95% for all 96 experts together: 1 - 0.05 / 96 for one
    sure = [max(lo, -hi) for lo, hi in (newcombe(r, z_all) for r in t["rows"])]  # how far it is from 0
    ok(len(ends) == 96 and 0 < sum(x > 0 for x in sure) < sum(r["low"] * r["high"] > 0 for r in t["rows"]) and
       all((r["holds"] == "yes") == (x > 0) for r, x in zip(t["rows"], sure) if abs(x) > 5e-3), "holds is Bonferroni's",
       [(r["holds"], x) for r, x in zip(t["rows"], sure)])
    near = [max(r["low"], -r["high"]) for r in t["rows"]]
    ok(near == sorted(near, reverse=True), "sorted by what is sure")
    back = table(run(tmp, "/contrast prose.txt code.txt --tokens %d --top 1000" % most, options=small), "contrast")
    key = {(r["layer"], r["expert"]): r for r in back["rows"]}
    ok(close(col(t, "difference"), [-key[r["layer"], r["expert"]]["difference"] for r in t["rows"]]), "the other way round it is the negative")
    ban = table(run(tmp, "/ban 3@2", "/contrast code.txt prose.txt --layer 2 --top 16 --tokens %d" % most, options=small), "contrast")
    ok([r["share_a"] for r in ban["rows"] if r["expert"] == 3] == [0], "what is steered is steered here, too", ban["rows"])
    same = table(run(tmp, "/contrast code.txt code.txt --tokens %d" % most, options=small), "contrast")
    ok(same["facts"]["holding"] == 0 and set(col(same, "difference")) == {0}, "a text does not differ from itself")

    # ---- the conversation does not notice
    a = run(tmp, "/set seed 1", "/set max_tokens 20", TEXT, "/tokens", "/experts")
    b = run(tmp, "/set seed 1", "/set max_tokens 10", TEXT, "/contrast code.txt prose.txt --tokens 140", "/set max_tokens 10",
            "/continue", "/tokens", "/experts")
    ok([e for e in a if e.get("of") == "tokens"] == [e for e in b if e.get("of") == "tokens"], "/contrast leaves the conversation")
    ok(table(a, "layers")["rows"] == table(b, "layers")["rows"], "... and what is counted")

    # ---- texts of a .jsonl
    open(tmp + "/two.jsonl", "w").write(json.dumps({"text": code[:size // 8]}) + "\n\n" + json.dumps({"prompt": code[size // 8:size // 4]}) + "\n")
    t = table(run(tmp, "/contrast two.jsonl prose.txt --tokens %d" % (2 * most), options=small), "contrast")
    ids = sum(len(subprocess.run([DBRX, "tokenize", "-"], input=c.encode(), stdout=subprocess.PIPE).stdout.split())
              for c in (code[:size // 8], code[size // 8:size // 4]))
    ok(t["facts"]["tokens_a"] == ids, "a .jsonl has a text a line", t["facts"], ids)

    # ---- views: at 80 columns and at 200, without colour
    for wide in 80, 200:
        for cmd in "/experts", "/experts --layer 0", "/coactivation", "/transitions", "/top *@0 2", "/instruments":
            p = subprocess.run([sys.executable, SRC + "/tests/instruments/wide.py", str(wide), "-b", BACKEND, "-c",
                                "/feed 930 739 259 559 11 412 287 259 514 293 705 13 355 14", "-c", cmd], stdout=subprocess.PIPE, timeout=300)
            text = p.stdout.decode()
            widest = max(len(re.sub("\033\\[[0-9;]*m", "", x.rstrip())) for x in text.splitlines())
            ok(p.returncode == 0 and 40 < widest <= wide and "\033" not in text, "%s fits %d columns" % (cmd, wide), widest, text[-1500:])
finish()
