"""dbrx specialists: its scores against numpy, what it does not believe, and its file as labels.
Run by specialists.sh; speaks TAP."""
import json
import os
import subprocess
import tempfile

import numpy as np

from common import BACKEND, DBRX, SRC, events, finish, ok, run


def tool(cwd, *args):
    return run("specialists", *args, cwd=cwd)


ALL = [json.loads(x) for x in open(SRC + "/docs/topics.jsonl", encoding="utf-8")]
long = 80 if BACKEND == "ref" else 160                 # ref takes its time
by = {t: [x["prompt"][:long] for x in ALL if x["topic"] == t] for t in ("arithmetic", "prose")}
with tempfile.TemporaryDirectory() as tmp:
    def write(name, rows):
        open("%s/%s" % (tmp, name), "w", encoding="utf-8").write("".join(json.dumps({"topic": t, "prompt": p}) + "\n" for t, p in rows))

    mixed = [x for pair in zip([("sums", p) for p in by["arithmetic"][:10]], [("tales", p) for p in by["prose"][:10]]) for x in pair]
    write("two.jsonl", mixed)
    p = tool(tmp, "--prompts", "two.jsonl", "-b", BACKEND, "--out", "two.json")
    ok(p.returncode == 0 and b"written to two.json" in p.stderr, "two topics", p)
    j = json.load(open(tmp + "/two.json"))
    ok(j["type"] == "dbrx.specialists/1" and j["backends"] == [BACKEND] and (j["layers"], j["experts"]) == (6, 16), "what it is about", j)
    ok([t["texts"] for t in j["topics"]] == [10, 10] and not j["sensitive"] and len(j["specialists"]) > 10, "specialists of both", j)

    # shares of the first, third, ... text of each topic, from /dump
    share, n, sizes = {}, {}, {}
    for topic, texts in ("sums", by["arithmetic"][:10]), ("tales", by["prose"][:10]):
        for held in 0, 1:
            used, tokens = np.zeros((6, 16)), 0
            for text in texts[held::2]:
                open(tmp + "/t", "w", encoding="utf-8").write(text)
                ids = subprocess.run([DBRX, "tokenize", tmp + "/t"], stdout=subprocess.PIPE, check=True).stdout.decode().split()
                subprocess.run([DBRX, "-b", BACKEND, "-c", "/feed " + " ".join(ids), "-c", "/dump d"], cwd=tmp, check=True,
                               stderr=subprocess.DEVNULL)
                e = np.load(tmp + "/d/expert.npy")
                one = np.zeros((6, e.shape[1], 16))
                np.put_along_axis(one, e, 1, 2)
                used += one.sum(1)
                tokens += e.shape[1]
            share[topic, held], n[topic, held] = used / tokens, tokens
    ok([(t["tokens"], t["tokens_held_out"]) for t in j["topics"]] == [(n[t, 0], n[t, 1]) for t in ("sums", "tales")], "tokens of the halves", j["topics"])
    good = True
    for r in j["specialists"]:
        other = "tales" if r["topic"] == "sums" else "sums"
        at = r["layer"], r["expert"]
        good &= abs(r["score"] - (share[r["topic"], 0] - share[other, 0])[at]) < 1e-6
        good &= abs(r["held_out"] - (share[r["topic"], 1] - share[other, 1])[at]) < 1e-6
        good &= r["score"] >= 0.1 and r["low"] > 0 and r["held_out"] >= 0.05 and r["low"] <= r["score"] <= r["high"]
    ok(good, "scores are differences of shares, found in one half and held out in the other")
    s = [r["score"] for r in j["specialists"]]
    ok(s == sorted(s, reverse=True), "the strongest first")

    # ---- what does not replicate: texts of the held-out half are of another kind
    odd = [("sums", by["arithmetic"][i] if i % 2 == 0 else by["prose"][12 + i // 2]) for i in range(10)]
    write("odd.jsonl", odd + [("tales", p) for p in by["prose"][:10]])
    k = json.loads(tool(tmp, "--prompts", "odd.jsonl", "-b", BACKEND, "--json").stdout)
    ok(len(k["sensitive"]) > 10 and all("not replicated on the held-out half with " + BACKEND in r["reason"] for r in k["sensitive"]),
       "what does not replicate is sensitive, and why", k["sensitive"][:2], len(k["specialists"]))
    ok(len(k["specialists"]) < len(j["specialists"]) / 2, "... and no specialist", len(k["specialists"]))
    two = json.loads(tool(tmp, "--prompts", "two.jsonl", "-b", "cpu-blas:isa=plain", "-b", BACKEND, "--json").stdout)
    ok(len(two["backends"]) == 2 and [(r["topic"], r["layer"], r["expert"]) for r in two["specialists"]] ==
       [(r["topic"], r["layer"], r["expert"]) for r in j["specialists"]], "two backends that agree", two["backends"])

    # ---- two that do not: a backend that says of the layers from 3 on that other experts ran there
    liar = open(SRC + "/docs/naive.c", encoding="utf-8").read().replace("    if (b->route) {", """    for (uint32_t j = 0; j < n && l > 2; j++)
        expert[j] = (uint16_t)(c->n_experts - 1 - expert[j]);
    if (b->route) {""").replace('"naive"', '"liar"')
    os.mkdir(tmp + "/m")
    open(tmp + "/m/liar.c", "w", encoding="utf-8").write(liar)
    subprocess.run([*os.environ["CC"].split(), "-std=c11", "-O2", "-shared", "-fPIC", "-I" + SRC, "-o", "liar.so", "liar.c", "-lm"],
                   cwd=tmp + "/m", check=True)
    two = [("sums", p[:90]) for p in by["arithmetic"][:8]] + [("tales", p[:90]) for p in by["prose"][:8]]
    write("short.jsonl", two)
    p = tool(tmp, "--prompts", "short.jsonl", "-b", "cpu-blas", "-b", "liar", "--module-path", os.environ["MODULES"] + ":" + tmp + "/m", "--json")
    k = json.loads(p.stdout)
    one = json.loads(tool(tmp, "--prompts", "short.jsonl", "-b", "cpu-blas", "--json").stdout)
    found = {(r["topic"], r["layer"], r["expert"]) for r in one["specialists"]}
    both = {(r["topic"], r["layer"], r["expert"]) for r in k["specialists"]}
    there = {x for x in found if x[1] > 2}
    ok(k["backends"] == ["cpu-blas", "liar"] and len(there) > 1, "two backends that do not agree about layers", k["backends"], found)
    ok(both == {x for x in found if x[1] <= 2 or (x[0], x[1], 15 - x[2]) in found}, "... have no specialists there, and all the others",
       found - both, both - found)
    why = {(r["topic"], r["layer"], r["expert"]): r["reason"] for r in k["sensitive"] if r["layer"] > 2}
    ok(all(("not found on liar" in why[x] or "with liar" in why[x]) and "cpu-blas" not in why[x] for x in there - both),
       "... what only one of them finds is sensitive, and the reason names the other", why)
    ok(all("cpu-blas" in why[x[0], x[1], 15 - x[2]] for x in there - both), "... and the other way round", why)

    # ---- labels
    best = j["specialists"][0]
    rows = events("-b", BACKEND, "-s", "labels=%s/two.json" % tmp, "-c", "/feed 930", "-c", "/experts --layer %d" % best["layer"])[-1]["rows"]
    ok(rows[best["expert"]]["label"] == best["topic"], "/experts shows the label", rows[best["expert"]])
    p = subprocess.run([DBRX, "-b", BACKEND, "-s", "on_error=continue", "-c", "/set labels %s/two.json" % tmp, "-c", "/set labels /nowhere",
                        "-c", "/set labels", "-c", "/set labels default", "-c", "/feed 930", "-c", "/experts"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    ok(b"/nowhere cannot be read" in p.stderr and b"two.json" in p.stdout and p.returncode == 3, "/set labels keeps what it had", p)
    broken = {"no JSON": "no JSON", '{"type":"x"}': "no file of labels",
              json.dumps({**j, "layers": 7}): "model of 7 layers x 16 experts; this one has 6 x 16",
              json.dumps({**j, "specialists": [{"topic": "a", "layer": 6, "expert": 0, "score": 1}]}): "specialist 1 has no topic",
              json.dumps({**j, "specialists": [3]}): "specialist 1 has no topic"}
    for text, why in broken.items():
        open(tmp + "/bad.json", "w").write(text)
        p = subprocess.run([DBRX, "-b", BACKEND, "-s", "labels=%s/bad.json" % tmp], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
        ok(p.returncode == 2 and why in p.stderr.decode(), "labels refused: " + why, p)

    # ---- bad prompts
    for text, why in {"": "at least two topics", "{}\n": "bad.jsonl:1: it is no JSON object with", "[1]\n": "it is no JSON object with",
                      '{"topic":"a","prompt":""}\n': "the prompt is empty",
                      '{"topic":"a","prompt":"x"}\n' * 9: "at least two topics",
                      '{"topic":"a","prompt":"x"}\n' * 7 + '{"topic":"b","prompt":"x"}\n' * 8: 'the topic "a" has 7 prompts'}.items():
        open(tmp + "/bad.jsonl", "w").write(text)
        p = tool(tmp, "--prompts", "bad.jsonl", "-b", BACKEND)
        ok(p.returncode == 2 and why in p.stderr.decode() and not p.stdout, "refused: " + why, p)
    for args, code, why in ([], 2, "wants --prompts"), (["--prompts", "/nowhere"], 2, "/nowhere cannot be read"), \
                           (["--prompts", "two.jsonl", "-b", "nosuch"], 5, "there is no backend"), \
                           (["--prompts", "two.jsonl", "-b", BACKEND, "--out", "/nowhere/x"], 1, "cannot be written"):
        p = tool(tmp, *args)
        ok(p.returncode == code and why in p.stderr.decode(), "refused: " + why, p)
finish()
