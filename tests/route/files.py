"""Routing in files: /export route, dbrx trace, /route --svg and /atlas, against the reference
code's golden data and against numpy.

Run by route.sh; speaks TAP.  With Chromium at hand the page is also opened."""
import csv
import glob
import html.parser
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import tempfile
import time
import xml.etree.ElementTree

import numpy as np

from checkpoints import checkpoint, random_model, with_nan_router
from common import BACKEND, DBRX, LILY, events, finish, lines, ok, outcome, run

tmp = tempfile.TemporaryDirectory()
T = tmp.name
NAMES = {"pos", "tokens", "text", "expert", "weight", "router_prob", "router_logit", "margin", "entropy"}


def npz(path):
    return dict(np.load(path, allow_pickle=False))


def margin_of(expert, prob):
    """[L][T] from [L][T][k] and [L][T][E], the slow way."""
    out = np.full(prob.shape[:2], np.nan)
    for l in range(prob.shape[0]):
        for t in range(prob.shape[1]):
            mine = {e for e in expert[l, t] if e >= 0}
            rest = set(range(prob.shape[2])) - mine
            if mine and rest:
                out[l, t] = min(prob[l, t, e] for e in mine) - max(prob[l, t, e] for e in rest)
    return out


# ---- the reference code's routing
for name in "tiny-bf16", "tiny-f16", "tiny-clip":
    for i, case in enumerate(json.load(open(os.path.join(checkpoint(name), "golden.json")))["cases"]):
        out, ids = "%s/%s-%s-%d.npz" % (T, BACKEND, name, i), " ".join(map(str, case["tokens"]))
        run("-b", BACKEND, "-m", checkpoint(name), *lines("/feed " + ids, '/export route "%s"' % out))
        a, prob = npz(out), np.array(case["router_prob"])
        expert, weight = np.array(case["expert"]), np.array(case["weight"])
        want = margin_of(expert, prob)
        sure = want > 1e-4             # below that another precision may choose another expert
        same = (np.sort(a["expert"], 2) == np.sort(expert, 2)).all(2)
        ok(set(a) == NAMES and (a["tokens"] == case["tokens"]).all() and (a["pos"] == np.arange(len(want[0]))).all()
           and np.abs(a["router_prob"] - prob).max() < 1e-5 and same[sure].all() and sure.mean() > 0.9
           and np.abs((a["weight"] - weight)[same & sure]).max() < 1e-4
           and abs(a["margin"].min() - case["min_router_margin"]) < 1e-5 and np.abs(a["margin"] - want).max() < 1e-5,
           "%s, %s, case %d: the file has what the reference code chose" % (BACKEND, name, i),
           set(a), np.abs(a["router_prob"] - prob).max(), a["margin"].min(), case["min_router_margin"])

# ---- figures against numpy, and one format against another
base = ["-b", BACKEND, "-s", "max_tokens=24", "--seed", "3"]
out = [T + "/a" + end for end in (".npz", ".csv", ".jsonl")]
code, text, err = outcome(*base, *lines(LILY, *('/export route "%s"' % o for o in out)))
a = npz(out[0])
L, n, k = a["expert"].shape
p = a["router_prob"].astype(np.float64)
z = np.exp(a["router_logit"].astype(np.float64) - a["router_logit"].max(2, keepdims=True))
top = np.take_along_axis(p, a["expert"], 2)
with np.errstate(divide="ignore", invalid="ignore"):
    entropy = -np.nansum(np.where(p > 0, p * np.log2(p), 0), 2)
ok(code == 0 and n == 37 and err.count("wrote the routing of 37 tokens to") == 3, "three files", err)
ok(np.abs(p.sum(2) - 1).max() < 1e-5 and np.abs(z / z.sum(2, keepdims=True) - p).max() < 1e-5,
   "probabilities are the softmax of the logits")
# the trace is of tokens one by one, the probabilities of all at once: equal but for rounding
ok(np.abs(top / top.sum(2, keepdims=True) - a["weight"]).max() < 1e-4 and (np.diff(a["weight"], axis=2) <= 1e-6).all(),
   "weights are those of the chosen, heaviest first")
ok(np.abs(entropy - a["entropy"]).max() < 1e-4 and np.abs(margin_of(a["expert"], p) - a["margin"]).max() < 1e-6,
   "entropy and margin are numpy's", np.abs(entropy - a["entropy"]).max())
rows = list(csv.DictReader(open(out[1], newline="", encoding="utf-8")))
ok(len(rows) == L * n * k and all(
    int(r["id"]) == a["tokens"][int(r["pos"])] and r["text"] == a["text"][int(r["pos"])]
    and int(r["expert"]) == a["expert"][int(r["layer"]), int(r["pos"]), int(r["rank"])]
    and np.float32(r["weight"]) == a["weight"][int(r["layer"]), int(r["pos"]), int(r["rank"])]
    and np.float32(r["prob"]) == a["router_prob"][int(r["layer"]), int(r["pos"]), int(r["expert"])]
    and np.float32(r["logit"]) == a["router_logit"][int(r["layer"]), int(r["pos"]), int(r["expert"])]
    and np.float32(r["margin"]) == a["margin"][int(r["layer"]), int(r["pos"])]
    and np.float32(r["entropy"]) == a["entropy"][int(r["layer"]), int(r["pos"])] for r in rows),
    ".csv says the same as .npz")
toks = [json.loads(line) for line in open(out[2], encoding="utf-8")]

def lists(key):
    return np.array([[l[key] for l in t["layers"]] for t in toks], dtype=np.float32).swapaxes(0, 1)
ok([t["text"] for t in toks] == list(a["text"]) and [t["pos"] for t in toks] == list(range(n)) and
   all((lists(j) == a[b]).all() for j, b in (("expert", "expert"), ("weight", "weight"), ("prob", "router_prob"),
       ("logit", "router_logit"), ("margin", "margin"), ("entropy", "entropy"))), "... and so does .jsonl")
evs = [e for e in events(*base, *lines(LILY, "/route * --prob", "/route -2 --logits --layer 1,3..4", "/route ..1"))
       if e["type"] == "route"]
same = [dict(e, layers=[{f: l[f] for f in l if f != "logit"} for l in t["layers"]])
        for e, t in zip(evs[:n], toks)]
ok(len(evs) == n + 3 and [{f: e[f] for f in e if f != "type"} for e in evs[:n]] ==
   [{f: e[f] for f in e if f != "type"} for e in same], "/route --json says the same too", evs[:1], same[:1])
ok([l["layer"] for l in evs[n]["layers"]] == [1, 3, 4] and evs[n]["pos"] == n - 2 and
   np.allclose(evs[n]["layers"][1]["logit"], toks[n - 2]["layers"][3]["logit"], atol=1e-4) and "prob" not in evs[n]["layers"][0] and
   [e["pos"] for e in evs[n + 1:]] == [0, 1], "... of the tokens and layers asked for")

# a set of tokens
part = T + "/part.npz"
code, text, err = outcome(*base, *lines(LILY, '/export route "%s" 3,-5..-2' % part))
b, pick = npz(part), [3, 32, 33, 34, 35]
ok("of 5 tokens" in err and (b["pos"] == pick).all() and (b["text"] == a["text"][pick]).all() and
   np.abs(b["router_prob"] - a["router_prob"][:, pick]).max() < 1e-5 and (b["expert"] == a["expert"][:, pick]).all(),
   "some of the tokens", err, b["pos"])

# looking changes nothing: the conversation goes on to the last bit as if nobody had
looks = ["/route * --prob", "/route 3", '/export route "%s"' % part, '/atlas "%s/x.html"' % T]
with_look = [e for e in events(*base, *lines(LILY, *looks, "And then", "/logits 20")) if e.get("of") == "logits" or e["type"] == "reply"]
without = [e for e in events(*base, *lines(LILY, "And then", "/logits 20")) if e.get("of") == "logits" or e["type"] == "reply"]
ok([e.get("tokens") for e in with_look] == [e.get("tokens") for e in without] and with_look[-1] == without[-1],
   "looking leaves the conversation as it was, to the bit", with_look[-1], without[-1])

# what is not evaluated yet, and a KV cache from a file
saved, out = T + "/s.dbrx", T + "/s.npz"
run("-s", "max_tokens=24", "--seed", "3", *lines(LILY, '/save "%s" --kv' % saved))
code, text, err = outcome(*lines('/load "%s"' % saved, '/export route "%s"' % out))
a, b = npz(T + "/a.npz"), npz(out)
ok(code == 0 and (a["expert"] == b["expert"]).mean() > 0.98 and np.abs(a["router_prob"] - b["router_prob"]).max() < 1e-3,
   "after /load the routing is computed when it is asked for", err)

# ---- steering: what is exported is what was steered
run("-b", BACKEND, "-s", "max_tokens=5", "--seed", "3", *lines(LILY, "/ban 3@1 7@*", "/force 5@2", "/bias 9@0 2.5", "/k 6 4", "/k 2 5",
                                                           '/export route "%s"' % out, '/dump "%s/steered"' % T))
a = npz(out)
z = a["router_logit"].astype(np.float64)
z[1, :, 3], z[:, :, 7], z[0, :, 9] = -np.inf, -np.inf, z[0, :, 9] + 2.5
p = np.exp(z - z.max(2, keepdims=True))
p /= p.sum(2, keepdims=True)
want = [np.sort(np.argsort(-p[l], 1, kind="stable")[:, :k]) for l, k in ((0, 4), (1, 4), (3, 4), (4, 6), (5, 2))]
got = [np.sort(a["expert"][l][:, :k]) for l, k in ((0, 4), (1, 4), (3, 4), (4, 6), (5, 2))]
same = np.concatenate([(w == g).all(1) for w, g in zip(want, got)])
ok(a["expert"].shape[2] == 6 and (a["expert"][5, :, 2:] == -1).all() and (a["expert"][2] == 5).any(1).all() and
   np.abs(p - a["router_prob"]).max() < 1e-5 and same.mean() > 0.97 and (a["weight"][5, :, 2:] == 0).all() and
   np.abs(margin_of(a["expert"], a["router_prob"].astype(np.float64)) - a["margin"]).max() < 1e-6 and a["margin"][2].min() < 0,
   "steered experts are chosen and left out as in numpy", a["expert"][:, 0], same.mean(), np.abs(p - a["router_prob"]).max())
expert, weight = (np.load("%s/steered/%s.npy" % (T, name)) for name in ("expert", "weight"))
b = T + "/later.npz"
run("-b", BACKEND, "-s", "max_tokens=5", "--seed", "3", *lines(LILY, "/ban 3@1 7@*", "/force 5@2", "/bias 9@0 2.5", "/k 6 4", "/k 2 5",
                                                           '/export route "%s" 5,9..11' % b))
b = npz(b)
ok(b["pos"].tolist() == [5, 9, 10, 11] and np.abs(b["router_prob"] - a["router_prob"][:, b["pos"]]).max() < 1e-5,
   "some tokens of a context that is to be computed again: after all that is before them", b["pos"])
ok(expert.shape == a["expert"].shape and (expert == a["expert"]).mean() > 0.97 and
   ((expert == -1) == (a["expert"] == -1)).all() and (weight[expert == -1] == 0).all(),
   "/dump has as many experts a layer as /k gives it", expert.shape, (expert == a["expert"]).mean())

# ---- SVG
for name, args, rects in ("one token", "-1", 6 * 4 + 12), ("a range", "-5..", None), ("a layer", "-5.. --layer 2", 5 * 4):
    code, text, err = outcome("-s", "max_tokens=9", "--seed", "3", *lines('<b> & "x" ]]>', '/route %s --svg "%s/m.svg"' % (args, T)))
    root = xml.etree.ElementTree.parse(T + "/m.svg").getroot()
    cells = [g for g in root if g.tag.endswith("}g")]
    ok(code == 0 and root.tag == "{http://www.w3.org/2000/svg}svg" and (rects is None or len(cells) == rects) and
       all(len(g.findall("*")) >= 2 for g in cells) and float(root.get("width")) < 900, "--svg: " + name, len(cells), err)
    text = open(T + "/m.svg", encoding="utf-8").read()
    ok("href" not in text and "<script" not in text and text.count("http") == 1, "... needs nothing else")


# ---- /atlas
class Page(html.parser.HTMLParser):
    """The data block; whatever would need the network."""
    def __init__(self):
        super().__init__()
        self.data, self.inside, self.outside = "", False, []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.inside = attrs.get("id") == "data"
        self.outside += [v for k, v in attrs.items() if k in ("src", "href")] + [tag] * (tag in ("link", "iframe", "img"))

    def handle_endtag(self, tag):
        self.inside = False

    def handle_data(self, text):
        if self.inside:
            self.data += text


def page_of(path):
    p = Page()
    text = open(path, encoding="utf-8").read()
    p.feed(text)
    return p, text


def rounded(x):
    """As the page has it: four digits, null for what is no number."""
    return [None if v != v else float("%.4g" % v) for v in np.asarray(x, dtype=np.float64).ravel()]


nasty = 'x</script><script>alert(1)</script><!-- é \\ " \' &amp; \u2028 一'
code, text, err = outcome("-s", "max_tokens=24", "--seed", "3", *lines(LILY, nasty, '/atlas "%s/a.html"' % T, '/export route "%s"' % out))
page, text = page_of(T + "/a.html")
data, a = json.loads(page.data), npz(out)
L, n, k = a["expert"].shape
ok(code == 0 and not page.outside and "<" not in page.data and "@DATA@" not in text and not re.search(r"https?:", text.replace(page.data, "")),
   "the page needs nothing but itself", page.outside, err)
ok((data["layers"], data["experts"], data["top_k"], data["model"], len(data["tokens"])) == (L, 16, k, "nano", n) and
   [t[0] for t in data["tokens"]] == list(a["pos"]) and [t[1] for t in data["tokens"]] == list(a["tokens"]) and
   [t[2] for t in data["tokens"]] == list(a["text"]), "its data are the tokens, whatever they are made of")
ok(data["expert"] == list(a["expert"].ravel()) and all(
   data[j] == rounded(a[b]) for j, b in (("weight", "weight"), ("prob", "router_prob"), ("entropy", "entropy"))) and
   np.allclose(data["margin"], a["margin"].ravel(), rtol=6e-4, atol=1e-7), "... and what /export route writes")
ok(len(data["scale"]) == 33 and data["scale"][0] == "#440154" and data["scale"][8] == "#3b528b" and data["scale"][16] == "#21908d" and data["scale"][-1] == "#fde725" and len(data["hues"]) == 8,
   "... and the colours of the terminal")

# ---- labels of experts
json.dump({"type": "dbrx.specialists/1", "layers": 6, "experts": 16, "specialists": [
    {"topic": "a \x1b[31m<b>", "layer": 5, "expert": e, "score": 1} for e in range(16)]}, open(T + "/labels.json", "w"))
code, text, err = outcome("-s", "labels=%s/labels.json" % T, *lines(LILY, '/atlas "%s/l.html"' % T, "/route --tokens", "/route --layer 5"))
data = json.loads(page_of(T + "/l.html")[0].data)
ok(code == 0 and data["labels"] == [[None] * 16] * 5 + [["a \x1b[31m<b>"] * 16] and "\x1b" not in text and
   re.search(r"= e\d+ a \\x1b\[31m<b> \d", text) and re.search(r"(?m)^e7 a \\x1b", text), "labels of experts, fit to print", err, text[-900:])

code, text, err = outcome("-s", "labels=%s/labels.json" % T, *lines(LILY, "/route", "/route -3.. --layer 5", "/route --layer 4", "/route -1 --prob",
                                                                   '/route --svg "%s/l.svg"' % T))
svg = "".join(xml.etree.ElementTree.parse(T + "/l.svg").getroot().itertext())
named = re.split(r"\nlabels: ", re.sub(r"[ \n]+(?=\S+@|\\x1b|a )", " ", text))[1:]
ok(code == 0 and len(named) == 3 and [n.count("@5 a \\x1b[31m<b>") for n in named][::2] == [4, 4] and 4 <= named[1].count("@5 a") <= 12 and
   "labels: e" in svg and svg.count("@5 a ") == 4 and "\x1b" not in text + svg,
   "labels below maps of several layers or tokens, and in an SVG", err, text[-2500:], svg[-500:])

# ---- a router that is no number: the backend says so, and there is nothing to show
nan = T + "/nan"
with_nan_router(nan, 1)
for command in "/route", "/route * --list", '/export route "%s/n.npz"' % T, '/atlas "%s/n.html"' % T:
    code, text, err = outcome("-m", nan, "-s", "on_error=continue", *lines("/feed 1 2 3 4", command))
    ok(code == 3 and "router of layer 1" in err and not glob.glob(T + "/n.*"), "a router that is no number: " + command, err)

# ---- all experts chosen: there is no margin
every = T + "/every"
shutil.copytree(checkpoint("tiny-clip"), every)
os.chmod(every + "/config.json", 0o644)
config = json.load(open(every + "/config.json"))
config["ffn_config"]["moe_top_k"] = config["ffn_config"]["moe_num_experts"]
json.dump(config, open(every + "/config.json", "w"))
code, text, err = outcome("-m", every, *lines("/feed 1 2 3 4", '/export route "%s"' % out, '/export route "%s/n.csv"' % T,
                                              '/atlas "%s/n.html"' % T, '/route * --svg "%s/n.svg"' % T, "/route", "/route * --list"))
a, (page, _) = npz(out), page_of(T + "/n.html")
data = json.loads(page.data, parse_constant=lambda c: 1 / 0)
ok(code == 0 and np.isnan(a["margin"]).all() and set(data["margin"]) == {None} and
   all(len(r) == 11 and r[9] == "" for r in csv.reader(open(T + "/n.csv")) if r[0] != "pos") and
   re.search(r"(?m)^margin( +-){%d}" % a["margin"].shape[0], text), "all experts chosen: no margin, and it says so", err, text)
xml.etree.ElementTree.parse(T + "/n.svg")
evs = [e for e in events("-m", every, *lines("/feed 1 2 3 4", "/route *")) if e["type"] == "route"]
ok(len(evs) == 4 and evs[0]["layers"][1]["margin"] is None, "... nor in --json", evs[:1])

# ---- dbrx trace
prompts = [{"prompt": "Once upon a time"}, {"id": "a/../b c", "prompt": LILY}, {"id": ".x", "messages": [{"role": "user", "content": "hi"}]},
           {"id": "ids", "tokens": [1, 2, 3]}, {"id": 7, "prompt": "seven"}]
corpus, folder = T + "/p.jsonl", T + "/traces"
open(corpus, "w").write("\n".join(map(json.dumps, prompts)) + "\n\n")
code, text, err = outcome("trace", "--prompts", corpus, "--out", folder)
files = sorted(os.listdir(folder))
ok(code == 0 and files == ["%2ex.npz", "1.npz", "7.npz", "a%2f..%2fb%20c.npz", "ids.npz", "trace.json", "trace.tokens"] and
   "5 texts traced (" in err and "0 failed" in err, "dbrx trace: a file a prompt, whatever its id is", files, err)
run(*lines("/feed 1 2 3", '/export route "%s"' % out))
a, b = npz(out), npz(folder + "/ids.npz")
ok(set(a) == set(b) and all((a[x] == b[x]).all() for x in a if x not in ("weight",)) and np.abs(a["weight"] - b["weight"]).max() < 1e-5,
   "... as /export route has it")
stamp = {f: os.stat(folder + "/" + f).st_mtime_ns for f in files}
os.remove(folder + "/7.npz")
code, text, err = outcome("trace", "--prompts", corpus, "--out", folder)
ok(code == 0 and "1 texts traced" in err and "4 there already" in err and
   all(os.stat(folder + "/" + f).st_mtime_ns == stamp[f] for f in files if f not in ("7.npz", "trace.tokens")) and os.path.exists(folder + "/7.npz"),
   "... run again it does what is missing", err)
prompts[3]["tokens"] = [3, 2, 1, 4]
open(corpus, "w").write("\n".join(map(json.dumps, prompts)) + "\n")
code, text, err = outcome("trace", "--prompts", corpus, "--out", folder)
ok(code == 0 and "1 texts traced (4 tokens), 4 there already" in err and list(npz(folder + "/ids.npz")["tokens"]) == [3, 2, 1, 4],
   "... and what a changed prompt has left", err)
prompts[3]["tokens"] = [1, 2, 3]           # back again: the last line of the ledger counts; its end may be cut
open(corpus, "w").write("\n".join(map(json.dumps, prompts)) + "\n")
open(folder + "/trace.tokens", "a").write("0123")
code, text, err = outcome("trace", "--prompts", corpus, "--out", folder)
ok(code == 0 and "1 texts traced (3 tokens), 4 there already" in err and list(npz(folder + "/ids.npz")["tokens"]) == [1, 2, 3],
   "... twice", err)
used = json.load(open(folder + "/trace.json"))["backend"]
other = "ref" if used != "ref" else "cpu-blas"
code, text, err = outcome("trace", "-b", other, "--prompts", corpus, "--out", folder)
ok(code == 3 and "traces of the backend %s, and this is %s; go on with -b %s" % (used, other, used) in err, "... of one backend a folder", err)
code, text, err = outcome("trace", "-b", used, "--prompts", corpus, "--out", folder)
ok(code == 0 and "5 there already" in err, "... with which it goes on", err)
evs = events("trace", "--prompts", corpus, "--out", folder, "--format", "csv")
ok(evs[-1]["traced"] + evs[-1]["there"] == 5 and os.path.exists(folder + "/ids.csv"), "... in another format", evs)
code, text, err = outcome("trace", "-m", checkpoint("tiny-clip"), "--prompts", corpus, "--out", folder)
ok(code == 3 and "of another checkpoint" in err, "... of one checkpoint a folder", err)
open(corpus, "w").write('{"id":"a","prompt":"x"}\n{"id":"a","prompt":"y"}\nnonsense\n{"prompt":1}\n{"id":[],"prompt":"x"}\n{"tokens":[99999]}\n{"id":"z","prompt":"last"}\n')
code, text, err = outcome("trace", "--prompts", corpus, "--out", T + "/bad")
ok(code == 3 and "was there before" in err and ":3: it is no JSON object" in err and "no token id" in err and "5 failed" in err and
   sorted(os.listdir(T + "/bad")) == ["a.npz", "trace.json", "trace.tokens", "z.npz"], "... bad lines are said and passed over", err, os.listdir(T + "/bad"))
code, text, err = outcome("trace", "--prompts", corpus, "--out", corpus)
ok(code == 3 and ("Not a directory" in err or "cannot be" in err), "... a file is no folder", err)
for args in ([], ["--prompts", corpus], ["--prompts", corpus, "--out", T, "--format", "parquet"], ["--nonsense"]):
    code, text, err = outcome("trace", *args)
    ok(code == 2 and "dbrx" in err, "trace " + " ".join(args[:1]) + ": usage", code, err)
open(corpus, "w").write("".join('{"prompt":"%s %d"}\n' % (LILY * 8, i) for i in range(400)))
p = subprocess.Popen([DBRX, "trace", "-b", BACKEND, "--prompts", corpus, "--out", T + "/many"], stderr=subprocess.PIPE, stdout=subprocess.PIPE)
while p.poll() is None and not glob.glob(T + "/many/2.npz"):
    time.sleep(0.01)
p.send_signal(signal.SIGINT)
err = p.communicate()[1].decode()
there = glob.glob(T + "/many/*.npz")
ok(p.returncode in (130, -2) and 2 <= len(there) < 400 and "goes on" in err and all(set(npz(f)) == NAMES for f in there) and
   not glob.glob(T + "/many/*.npz.*"), "Ctrl-C: what is there is whole", p.returncode, len(there), err)

# ---- what is refused
for commands, want in ((["/export route x.npz"], "conversation is empty"), (["/atlas x.html"], "no token yet"), (["/route"], "no token yet"),
                       (["/feed 1", "/export route x.parquet"], r"FILE.jsonl, FILE.csv or FILE.npz"),
                       (["/feed 1", "/export route x.npz 1"], "token 1 is not there"), (["/feed 1", "/export md x.md 0"], "only route"),
                       (["/feed 1", "/export route /nowhere/x.npz"], "No such file"), (["/feed 1", "/atlas /"], "cannot be written"),
                       (["/feed 1", "/route --layer 6"], "layer 6 is not there"),
                       (["/feed 1", "/route 0..5"], "token 5 is not there"), (["/feed 1", "/route --prob --load"], "at a time"),
                       (["/feed 1", "/route 0 --svg /nowhere/x.svg"], "No such file"), (["/feed 1", "/route 5..2"], "token 5 is not there|ends before")):
    code, text, err = outcome(*lines(*commands), cwd=T)
    ok(code == 3 and re.search(want, err) and not glob.glob(T + "/x.*p*"), commands[-1] + " is refused", err)

# ---- a full disk leaves what was there, and nothing else
def small_files():
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))


full = T + "/full"
os.mkdir(full)
for name, command in (("x.npz", "/export route"), ("x.csv", "/export route"), ("x.jsonl", "/export route"), ("x.html", "/atlas"),
                      ("x.svg", "/route * --svg")):
    open(full + "/" + name, "w").write("precious")
    code, text, err = outcome(*lines("/feed 1 2 3 4 5 6", '%s "%s/%s"' % (command, full, name)), preexec_fn=small_files)
    ok(code == 3 and "cannot be written: File too large" in err and open(full + "/" + name).read() == "precious",
       "a full disk: " + command + " " + name, code, err)
open(corpus, "w").write('{"prompt":"%s"}\n' % LILY)
code, text, err = outcome("trace", "--prompts", corpus, "--out", full + "/t", preexec_fn=small_files)
ok(code == 3 and "File too large" in err and sorted(os.listdir(full)) == ["t", "x.csv", "x.html", "x.jsonl", "x.npz", "x.svg"] and
   os.listdir(full + "/t") == ["trace.json"], "... and dbrx trace", code, err, os.listdir(full))

# ---- the size it must hold: 1,000 tokens of 40 layers
random_model(T + "/wide", 40)
ids = " ".join(str(i % 4000 + 1) for i in range(1000))
code, text, err = outcome("-m", T + "/wide", *lines("/feed " + ids, '/atlas "%s/w.html"' % T, '/export route "%s"' % out))
a, data = npz(out), json.loads(page_of(T + "/w.html")[0].data)
ok(code == 0 and data["expert"] == list(a["expert"].ravel()) and data["prob"] == rounded(a["router_prob"]) and
   a["expert"].shape == (40, 1000, 4) and os.path.getsize(T + "/w.html") < 10e6, "1,000 tokens of 40 layers", err)

# ---- in a browser, where there is one
browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
for name in ("a", "l", "n", "w") if browser else ():
    p = subprocess.run([browser, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--user-data-dir=%s/chrome" % T,
                        "--virtual-time-budget=5000", "--dump-dom", "file://%s/%s.html" % (T, name)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=300)
    dom, err = p.stdout.decode(), p.stderr.decode()
    ok(re.search(r'data-ready="\d+x\d+"', dom) and "CONSOLE" not in err, "Chromium opens %s.html without an error" % name, err[-800:])
if not browser:
    ok(True, "# SKIP no Chromium")
finish()
