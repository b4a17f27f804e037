"""dbrx perplexity and dbrx imatrix against numpy: the figures by another way, from logits that
/dump writes and from the weights themselves.  Run by weights.sh; speaks TAP."""
import json
import os
import struct
import tempfile

import numpy as np

from common import BACKEND, OTHER, SRC, finish, ok, run

NANO = SRC + "/models/nano"


def event(*args):
    out = run(*args)
    try:
        return json.loads(out.stdout)
    except ValueError:
        return {"error": out.stderr.decode()}


def figure(e, name):
    return next((r for r in e.get("rows", []) if r["name"] == name), {"value": float("nan"), "error": float("nan")})


def logits(ids, cwd):
    """What the model says after each of these, from an empty session."""
    where = "%s/dump%d" % (cwd, len(os.listdir(cwd)))
    run("-b", BACKEND, "-c", "/feed " + " ".join(map(str, ids)), "-c", "/dump " + where)
    return np.load(where + "/logits.npy").astype(np.float64)


def surprises(ids, first, cwd):
    """-ln p of the tokens at first + 1 ..."""
    x = logits(ids, cwd)
    x -= x.max(axis=1, keepdims=True)
    x -= np.log(np.exp(x).sum(axis=1, keepdims=True))
    return [-x[i, ids[i + 1]] for i in range(first, len(ids) - 1)]


def tensors_gguf(path):
    """The F32 tensors of a small GGUF file, read here once more."""
    raw = open(path, "rb").read()
    at = 4

    def take(form):
        nonlocal at
        v = struct.unpack_from("<" + form, raw, at)[0]
        at += struct.calcsize("<" + form)
        return v

    def text():
        nonlocal at
        n = take("Q")
        at += n
        return raw[at - n:at].decode()

    assert take("I") == 3
    n_tensors, n_kv = take("Q"), take("Q")
    forms = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "B", 10: "Q", 11: "q", 12: "d"}
    keys = {}

    def value(t):
        if t == 8:
            return text()
        if t == 9:
            t, n = take("I"), take("Q")
            return [value(t) for _ in range(n)]
        return take(forms[t])

    for _ in range(n_kv):
        k = text()
        keys[k] = value(take("I"))
    infos = []
    for _ in range(n_tensors):
        name = text()
        dims = [take("Q") for _ in range(take("I"))]
        infos.append((name, dims, take("I"), take("Q")))
    base = (at + 31) // 32 * 32
    return keys, {n: np.frombuffer(raw, "<f4", int(np.prod(d)), base + off).reshape(d[::-1]) for n, d, t, off in infos}


def tensor_hf(name):
    raw = open(NANO + "/model.safetensors", "rb").read()
    n = struct.unpack_from("<Q", raw)[0]
    a, b = json.loads(raw[8:8 + n])[name]["data_offsets"]
    return (np.frombuffer(raw, "<u2", (b - a) // 2, 8 + n + a).astype(np.uint32) << 16).view(np.float32)


def perplexity(cwd):
    text = cwd + "/text.txt"
    open(text, "w").write("Once upon a time there was a little dog. " * 3 + "He liked to run in the park with his friend Tim, "
                          "who was a big cat. One day they found a red ball under a tree and played all day")
    ids = [int(x) for x in run("tokenize", text).stdout.split()]
    w = 24
    e = event("perplexity", "--json", "-b", BACKEND, "--window", w, text)
    s = sum((surprises(ids[i:i + w], w // 2, cwd) for i in range(0, len(ids) - w + 1, w)), [])
    got = figure(e, "perplexity")
    ok(e.get("scored") == len(s) and abs(got["value"] / np.exp(np.mean(s)) - 1) < 1e-5,
       "perplexity: the second half of each window", e, np.exp(np.mean(s)), len(s))
    error = np.exp(np.mean(s)) * np.sqrt((np.mean(np.square(s)) - np.mean(s) ** 2) / (len(s) - 1))
    ok(abs(got["error"] / error - 1) < 1e-4, "... and its standard error", got, error)
    ok(abs(figure(e, "bits per token")["value"] - np.mean(s) / np.log(2)) < 1e-5, "... bits per token")
    e = event("perplexity", "--json", "-b", BACKEND, "--window", w, "--stride", 7, text)
    s = sum((surprises(ids[i:i + w], w - 8, cwd) for i in range(0, len(ids) - w + 1, 7)), [])
    ok(e.get("scored") == len(s) and abs(figure(e, "perplexity")["value"] / np.exp(np.mean(s)) - 1) < 1e-5,
       "perplexity: with --stride the last tokens of windows that overlap", e, np.exp(np.mean(s)))
    q = cwd + "/q.gguf"
    run("quantize", NANO, q, "--type", "q4_0")
    e = event("perplexity", "--json", "-m", q, "-b", BACKEND, "--window", w, "--windows", 1, "--reference", NANO, text)
    a = logits(ids[:w], cwd)
    dump = cwd + "/dumpq"
    run("-m", q, "-b", BACKEND, "-c", "/feed " + " ".join(map(str, ids[:w])), "-c", "/dump " + dump)
    b = np.load(dump + "/logits.npy").astype(np.float64)
    lp = [x - x.max(1, keepdims=True) for x in (a, b)]
    lp = [x - np.log(np.exp(x).sum(1, keepdims=True)) for x in lp]
    kl = (np.exp(lp[0]) * (lp[0] - lp[1])).sum(1)[w // 2:w - 1]
    ok(abs(figure(e, "KL mean")["value"] / kl.mean() - 1) < 1e-3 and abs(figure(e, "KL worst")["value"] / kl.max() - 1) < 1e-3,
       "KL against another checkpoint", e, kl.mean(), kl.max())
    e = event("perplexity", "--json", "-b", BACKEND, "--window", w, "--against", BACKEND, text)
    ok(figure(e, "KL mean")["value"] == 0 and figure(e, "perplexity / reference")["value"] == 1, "a backend against itself", e)
    for args, want in ((["--window", 10000, text], "more than the context"), (["--window", w, "--stride", w, text], "below --window"),
                       ([cwd + "/none"], "cannot be read"), (["--window", w, "--reference", SRC + "/docs", text], "neither config.json"),
                       (["--window", w, "--against", "nobody", text], "no backend"), ([], "wants a text")):
        out = run("perplexity", *args)
        ok(out.returncode and want in out.stderr.decode(), "perplexity refuses: " + want, out.stderr)
    return text, ids


def imatrix(cwd, text, ids):
    im = cwd + "/im.gguf"
    e = event("imatrix", "--json", "-b", BACKEND, "--text", text, "--out", im)
    ok(e.get("tokens") == len(ids) and e.get("path") == im, "imatrix sees the text", e)
    keys, t = tensors_gguf(im)
    ok(keys["general.type"] == "imatrix" and keys["imatrix.datasets"] == [text] and "imatrix.chunk_count" in keys, "its keys", keys)
    d, ffn, layers, experts = 192, 352, 6, 16
    ok(t["blk.5.ffn_down_exps.weight.in_sum2"].shape == (experts, ffn) and t["blk.0.attn_qkv.weight.in_sum2"].shape == (1, d)
       and t["output.weight.counts"].shape == (1, 1) and len(t) == 2 * (6 * layers + 1), "its tensors")
    x = tensor_hf("transformer.wte.weight").reshape(-1, d)[ids].astype(np.float64)
    x = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5)
    x = x * tensor_hf("transformer.blocks.0.norm_attn_norm.norm_1.weight").astype(np.float64)
    ok(np.allclose(t["blk.0.attn_qkv.weight.in_sum2"][0], (x ** 2).sum(0), rtol=1e-4), "what enters the first layer, by numpy")
    good = all(t["blk.%d.ffn_gate_exps.weight.counts" % l].sum() == 4 * len(ids) for l in range(layers))
    rows = {r["layer"]: r for r in e.get("rows", [])}
    good &= all(rows[l]["counts"] == [int(c) for c in t["blk.%d.ffn_down_exps.weight.counts" % l][:, 0]] for l in range(layers))
    good &= all(rows[l]["empty"] == [i for i, c in enumerate(rows[l]["counts"]) if not c] for l in range(layers))
    ok(good, "every token counts at four experts of each layer; those that saw none are named", e)
    routed = np.stack([t["blk.2.ffn_gate_exps.weight.in_sum2"].sum(0) / 4, t["blk.2.ffn_gate_inp.weight.in_sum2"][0]])
    ok(np.allclose(routed[0], routed[1], rtol=1e-4), "what the router gets is what its experts get, four times")
    ok(np.array_equal(t["blk.3.ffn_up_exps.weight.in_sum2"], t["blk.3.ffn_gate_exps.weight.in_sum2"]), "up and gate share their input")
    one = cwd + "/one.jsonl"
    open(one, "w").write(json.dumps({"tokens": ids[:1]}) + "\n")
    im1 = cwd + "/im1.gguf"
    run("imatrix", "-b", BACKEND, "--prompts", one, "--out", im1)
    _, u = tensors_gguf(im1)
    h2 = u["blk.0.ffn_gate_inp.weight.in_sum2"][0]
    chosen = np.flatnonzero(u["blk.0.ffn_down_exps.weight.counts"][:, 0])
    ok(len(chosen) == 4 and all(np.array_equal(u["blk.0.ffn_gate_exps.weight.in_sum2"][c], h2) for c in chosen),
       "one token goes to four experts", chosen)
    other = cwd + "/im-cpu.gguf"
    out = run("imatrix", "-b", OTHER, "--text", text, "--out", other)
    if out.returncode == 5:
        print("# %s cannot run here" % OTHER)
    else:
        _, v = tensors_gguf(other)
        worst = max(np.abs(t[n] - v[n]).sum() / np.abs(t[n]).sum() for n in t)
        ok(worst < 0.02, OTHER + " hands out what %s does" % BACKEND, worst)
    q = cwd + "/qi.gguf"
    out = run("quantize", NANO, q, "--type", "q4_0", "--imatrix", im)
    a, b = open(cwd + "/q.gguf", "rb").read(), open(q, "rb").read()
    ok(out.returncode == 0 and abs(len(a) - len(b)) < 64 and a[-10**6:] != b[-10**6:],
       "quantize takes it, and other blocks come of it", out.stderr)
    for args, want in ((["--out", im], "wants --prompts"), (["--text", cwd + "/none", "--out", im], "cannot be read"),
                       (["--text", text, "--out", cwd + "/no/where"], "cannot be written")):
        out = run("imatrix", *args)
        ok(out.returncode and want in out.stderr.decode(), "imatrix refuses: " + want, out.stderr)


with tempfile.TemporaryDirectory() as where:
    imatrix(where, *perplexity(where))
finish()
