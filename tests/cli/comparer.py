"""What /compare says, worked out again with numpy from what /dump writes of both backends; exit
codes and events of dbrx compare; how it looks at 80 and 200 columns; what Ctrl-C leaves.

Run by compare.sh; speaks TAP."""
import json
import os
import re
import signal
import subprocess
import tempfile
import time

import numpy as np

from common import BACKEND, DBRX, SRC, events, finish, lines, ok, run
from screen import Shell

MODULES = os.environ["MODULES"] + ":" + os.environ["builddir"] + "/tests/conformance/.libs"
TMP = tempfile.TemporaryDirectory()
K = 3


def log_softmax(x):
    x = x.astype(np.longdouble)
    x = x - x.max(axis=-1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))


def figures(a, b):
    """The same from the two dumps, in another way: long double, sets, argsort."""
    la, lb, tokens = log_softmax(a["logits"]), log_softmax(b["logits"]), a["tokens"]
    err = np.abs(b["logits"].astype(float) - a["logits"])
    kl = (np.exp(la) * (la - lb)).sum(axis=1)
    back = (np.exp(lb) * (lb - la)).sum(axis=1)
    first = {"a": la.argmax(axis=1), "b": lb.argmax(axis=1)}
    order = [np.argsort(-x["logits"], axis=1, kind="stable")[:, :K] for x in (a, b)]
    at = np.arange(len(tokens) - 1)
    nll = [-x[at, tokens[1:]] for x in (la, lb)]
    L, T, _ = a["expert"].shape
    sets = [[[frozenset(x["expert"][l, t]) for t in range(T)] for l in range(L)] for x in (a, b)]
    flips = {}
    for l in range(L):
        for t in range(T):
            out, new = sets[0][l][t] - sets[1][l][t], sets[1][l][t] - sets[0][l][t]
            if out:
                pa = a["router_prob"][l, t].astype(float)
                o, i = max(out, key=lambda e: pa[e]), min(new, key=lambda e: pa[e])
                pb = b["router_prob"][l, t].astype(float)
                flips[l, t] = (len(out), np.log(pa[o] / pa[i]), np.log(pb[i] / pb[o]))
    return {
        "real": {
            "logit_error_max": err.max(), "logit_error_mean": err.mean(), "logit_error_rms": np.sqrt((err ** 2).mean()),
            "kl_mean": kl.mean(), "kl_max": kl.max(), "kl_reverse_mean": back.mean(),
            "kl_median": np.sort(kl)[int(np.ceil(T / 2)) - 1],
            "top1": (first["a"] == first["b"]).mean(),
            "topk": np.mean([len(set(x) & set(y)) / K for x, y in zip(*order)]),
            "perplexity_a": np.exp(nll[0].mean()), "perplexity_b": np.exp(nll[1].mean()),
            "log_perplexity_gap": (nll[1] - nll[0]).mean(),
            "log_perplexity_gap_error": (nll[1] - nll[0]).std(ddof=1) / np.sqrt(T - 1),
        },
        "count": {"tokens": T, "changed": int((first["a"] != first["b"]).sum()), "routed": L * T, "flipped": len(flips)},
        "router": [float(np.abs(b["router_prob"][l] - a["router_prob"][l]).max()) for l in range(L)],
        "layer_flips": [sum(k[0] == l for k in flips) for l in range(L)],
        "flips": flips,
        "changes": {t: la[t, first["a"][t]] - la[t, first["b"][t]] for t in range(T) if first["a"][t] != first["b"][t]},
    }


def close(x, y, rel=1e-6, least=1e-13):
    return x is not None and abs(x - float(y)) <= max(rel * abs(float(y)), least)


def dump(model, ids, backend):
    """What that backend, "NAME OPTIONS", computes."""
    with tempfile.TemporaryDirectory() as d:
        out = run("--module-path", MODULES, "-m", model, "-b", BACKEND, "--threads", "1", "-c", "/backend " + backend, "-c",
                  "/feed " + ids, "-c", "/dump " + d)
        if out.returncode:
            print("# " + out.stderr.decode())
        return {n: np.load("%s/%s.npy" % (d, n)) for n in ("tokens", "logits", "router_prob", "expert", "weight")}


# ---- against numpy
for name in "tiny-bf16", "tiny-clip", "tiny-f16":
    model = os.path.join(SRC, "tests/data", name)
    ids = " ".join(map(str, json.load(open(model + "/golden.json"))["cases"][0]["tokens"]))
    for a, b in (("cpu-blas isa=plain", "ref"), ("ref", "broken break=router-1"), ("broken break=experts-0", "cpu-blas")):
        e = events("--module-path", MODULES, "-m", model, "-b", BACKEND, "--threads", "1", "-c", "/backend " + a,
                   "-c", "/feed " + ids, "-c", "/compare %s --top %d" % (b, K))[-1]
        what = "%s: %s, then %s" % (name, a, b)
        if e["type"] != "compare":
            ok(False, what, e)
            continue
        want = figures(dump(model, ids, a), dump(model, ids, b))
        bad = [(k, e[k], float(v)) for k, v in want["real"].items() if not close(e[k], v)]
        bad += [(k, e[k], v) for k, v in want["count"].items() if e[k] != v]
        ok(not bad, what + ": figures", bad)
        layers = e["layers"][1:]
        ok([y["flips"] for y in layers] == want["layer_flips"] and
           all(close(y["router"], r) for y, r in zip(layers, want["router"])), "... layers' routers", layers, want["router"])
        got = {(f["layer"], f["pos"]): (f["experts"], f["margin_a"], f["margin_b"]) for f in e["flips"]}
        ok(set(got) == set(want["flips"]) and
           all(g[0] == w[0] and close(g[1], w[1], 1e-5) and close(g[2], w[2], 1e-5)
               for g, w in ((got[k], want["flips"][k]) for k in got)), "... %d flips with their margins" % len(got), got)
        ok({c["pos"]: True for c in e["changes"]} == {t: True for t in want["changes"]} and
           all(close(c["margin"], want["changes"][c["pos"]], 1e-5) for c in e["changes"]),
           "... %d changes with their margins" % len(e["changes"]), e["changes"])
        broken = [int(x[-1]) for x in (a, b) if "break" in x]
        ok(e["first_layer_off"] == (broken[0] if broken else None), "... the first layer that is off", e["first_layer_off"])

# ---- steering is on for both sides
feed = ["-c", "/feed 930 739 259 559 11 300 12 13 14 15 900 4001"]


def perplexity(*commands):
    evs = events("-b", BACKEND, *feed, *lines(*commands))
    return [(e["perplexity_a"], e["perplexity_b"]) if e["type"] == "compare" else e["perplexity"] for e in evs[-2:]]


free, steered = (perplexity(*how, "/surprise", "/compare cpu-blas isa=plain") for how in ([], ["/k 1", "/ban 5@*"]))
ok(all(close(x, p[0], 1e-5) for p in (free, steered) for x in p[1]) and not close(free[0], steered[0], 1e-3),
   "perplexity is what /surprise says, with steering and without", free, steered)

# ---- the tool
prompts = TMP.name + "/prompts.jsonl"
with open(prompts, "w") as f:
    f.write('{"id":"lily","prompt":"Once upon a time, there was a little girl named Lily."}\n\n'
            '{"messages":[{"role":"user","content":"What is the capital of France?"}]}\n{"id":7,"tokens":[930,739,259]}\n')
common = ["--module-path", MODULES, "--prompts", prompts]
evs = events("compare", "ref", "cpu-blas:isa=plain,threads=1", *common)
texts = [e for e in evs if e["type"] == "compare_text"]
ok([e.get("id") for e in texts] == ["lily", 3, 7] and evs[-1]["type"] == "compare" and evs[-1]["texts"] == 3 and
   evs[-1]["tokens"] == sum(e["tokens"] for e in texts) and evs[-1]["b"] == "cpu-blas isa=plain threads=1",
   "one event a prompt, then one of all", evs)
ok(max(e["kl_max"] for e in texts) == evs[-1]["kl_max"] and
   close(sum(e["kl_mean"] * e["tokens"] for e in texts) / evs[-1]["tokens"], evs[-1]["kl_mean"]), "... whose figures add up")
for limit, code in (["--max-kl", "1e-4"], 0), (["--max-kl", "1e-30"], 3), (["--min-top1", "1"], 0), (["--max-kl", "0"], 3):
    out = run("compare", "ref", "cpu-blas", *common, *limit, "--json")
    ok(out.returncode == code and (b'"failed":"max-kl"' in out.stdout) == (code == 3), "exit code %d with %s" % (code, limit),
       out.returncode, out.stderr)
out = run("compare", "ref", "broken:break=router-0", *common, "--max-kl", "1e-6", "--min-top1", "1", "--json")
ok(out.returncode == 3 and b'"failed":"max-kl, min-top1"' in out.stdout and b"the check failed" in out.stderr,
   "a broken backend fails both checks", out.returncode, out.stderr)
ok(run("compare", "ref", "ref", *common, "--max-kl", "0", "--min-top1", "1").returncode == 0, "a backend passes against itself")
out = run("compare", "ref", "broken:break=nan", "--module-path", MODULES, "--prompts", prompts, "-m", SRC + "/tests/data/tiny-f16")
ok(out.returncode in (1, 2), "what cannot be evaluated is no failed check", out.returncode, out.stderr)

# ---- what generation reads, from the shape: nano's 6 layers have 64 keys and 64 values a token
for kv, size in ("f32", 4), ("f16", 2), ("bf16", 2), ("q8_0", 34 / 32), ("", 4):
    other = ["kv=" + kv] if kv else []
    row = events("bench", "--json", "--depth", "100", "--prompt", "20", "--gen", "5", "--reps", "2", ":".join(["cpu-blas"] + other))[-1]["rows"][0]
    read = sum(125 - i for i in range(5)) / 5 * 6 * 128 * size
    ok(close(row["kv_bytes_per_token"], read), "KV that a token reads, %s" % (kv or "by itself"), row["kv_bytes_per_token"], read)
    moved = (row["weight_bytes_per_token"] + read) * row["gen_tokens_per_second"]["max"]
    ok(close(row["moved_bytes_per_second"]["max"], moved, 0.2), "... is in what is moved", row["moved_bytes_per_second"], moved)
e = events("-b", BACKEND, *lines("/feed 930 739 259 559", "/compare ref", "/compare cpu-blas --step 3", "/compare all"))
ok([x["step"] for x in e if x["type"] == "compare"] == [4, 3] and [r["step"] for r in e[-1]["rows"]] == [4],
   "step is what was evaluated at a time", e[-3:])

# ---- on a terminal
for cols in 80, 200:
    s = Shell("--module-path", MODULES, "-b", BACKEND, "--no-rc", rows=60, cols=cols)
    s.read("dbrx> ")
    s.send("/feed 930 739 259 559 11 300 12 13 14 15 900 4001\r/compare broken break=router-2\r/compare all\r"
           "/bench --gen 1 --prompt 4 --reps 1\r/echo over\r")
    start = s.at
    ok(s.read(BACKEND + ", then broken break=router-2") and s.read("layer +flips") and s.read("margin") and
       s.read("Another likeliest token") and s.read("backend +and +KL") and s.read("gen tok/s") and s.read("over\r\n"),
       "%d columns: figures, layers, flips, changes, pairs, speeds" % cols, s.all[start:])
    seen = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]|[^\r\n]*\r(?!\n)", "", s.all[start:].decode("utf-8", "replace"))
    wide = [line for line in seen.split("\r\n") if len(line) > cols]
    ok(not wide, "... and no line is wider", *wide)
    s.quit("... and it ends")

# ---- Ctrl-C
long_text = TMP.name + "/long"
with open(long_text, "w") as f:
    f.write("Once upon a time, there was a little girl named Lily. " * 4000)
s = Shell("-b", BACKEND, "--no-rc", "-s", "max_tokens=3", "-s", "temperature=0")
s.read("dbrx> ")
s.send("Once upon\r")
s.read("dbrx> ")
s.send("/compare ref --against %s\r" % long_text)
s.expect("comparing: +[0-9]+%", "a long comparison shows progress")
time.sleep(0.2)
s.send("\x03")
s.expect("interrupted", "Ctrl-C ends it")
s.send("/bench --gen 200 --reps 999\r")
s.expect("measuring: +[0-9]+%", "... and a long measurement")
s.send("\x03")
s.expect("interrupted", "is ended as well")
s.send("/tokens\r")
s.expect(r"\n +0 +[0-9]+ +\"", "the conversation is there")
s.quit("and goes on")
p = subprocess.Popen([DBRX, "compare", "ref", "ref", "--against", long_text], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
time.sleep(0.7)
p.send_signal(signal.SIGINT)
p.communicate(timeout=300)
ok(p.returncode == -signal.SIGINT, "dbrx compare ends by the signal", p.returncode)
finish()
