"""What other programs read: JSON Lines, .npy files, exit codes after signals.

Run by read.sh; speaks TAP.  numpy is optional: without it the .npy checks are skipped."""
import json
import math
import os
import resource
import signal
import subprocess
import tempfile

from common import BACKEND, DBRX, LILY, OTHER, SRC, events, finish, ok, run, skip

GOLDEN = json.load(open(os.path.join(SRC, "models/nano/golden.json")))["cases"]
TYPES = {"session", "backend", "token", "route", "reply", "rows", "status", "error"}


def of(evs, kind):
    return [e for e in evs if e["type"] == kind]


b = ["-b", BACKEND]

# /surprise and /logits speak of the same tokens: 40 of them, more than it takes at a time
ids = GOLDEN[0]["tokens"]
ids = (ids * (40 // len(ids) + 1))[:40]
evs = of(events(*b, "-c", "/feed " + " ".join(map(str, ids)), "-c", "/surprise",
                *(a for pos in range(1, 40) for a in ("-c", "/logits 4096 %d" % pos))), "rows")
bits = {r["pos"]: r["bits"] for r in evs[0]["rows"] if "bits" in r and r["bits"] is not None}
wrong = [(e["pos"], bits.get(e["pos"]), r["before"]) for e in evs[1:] for r in e["rows"] if r.get("taken")
         if abs(bits.get(e["pos"], 1e9) + math.log2(r["before"])) > 1e-3]
taken = sum(r.get("taken", False) for e in evs[1:] for r in e["rows"])
ok(len(bits) == taken == 39 and not wrong, "/surprise is what /logits says of the token there", wrong, evs[0])
mean = sum(bits.values()) / 39
ok(abs(evs[0]["perplexity"] / 2 ** mean - 1) < 1e-3, "... and the perplexity is their mean's", mean, evs[0])

# greedy continuations are the reference code's
for i, case in enumerate(GOLDEN):
    ids = " ".join(map(str, case["tokens"]))
    evs = events(*b, "-s", "temperature=0", "-s", "mode=base", "-s",
                 "max_tokens=%d" % len(case["greedy"]), "-c", "/feed " + ids, "-c", "")
    got, want = of(evs, "reply")[0]["tokens"], case["greedy"]
    n = len(want)                  # a near tie may fall differently in another precision
    for k, margin in enumerate(case["greedy_margin"]):
        if margin < 0.02:
            n = k
            break
    eos = next((k + 1 for k, t in enumerate(got) if t in (4080, 4087)), len(want))
    n = min(n, eos)
    ok(got[:n] == want[:n] and n > 0, "%s: greedy golden %d, %d tokens" % (BACKEND, i, n), got, want)

evs = events(*b, "-s", "max_tokens=24", "--seed", "3", "-c", LILY, "-c", "/route", "-c", "/set",
             "-c", "/backend", "-c", "/stats", "-c", "/tokens", "-c", "/help", "-c", "/new",
             "-c", "/feed 1", "-c", "/backend " + OTHER, "-c", "/nonsense")
reply, tokens = of(evs, "reply")[0], of(evs, "token")
ok({e["type"] for e in evs} == TYPES, "every type of event occurs, no other",
   {e["type"] for e in evs})
ok("".join(t["text"] for t in tokens) == reply["text"] and [t["id"] for t in tokens] == reply["tokens"]
   and reply["finish_reason"] == "length" and reply["seed"] == 3,
   "the tokens make up the reply", reply, tokens)
text = run(*b, "-s", "max_tokens=24", "--seed", "3", "-c", LILY).stdout.decode()
ok(text == reply["text"] + "\n", "JSON and text say the same", text, reply["text"])
ok(evs[-1]["type"] == "error" and evs[-1]["where"] == "-c 11", "the error says where", evs[-1])
rows = {e["of"]: e["rows"] for e in of(evs, "rows")}
ok(set(rows) == {"settings", "backends", "stats", "tokens", "commands"} and
   any(r["name"] == BACKEND and r["current"] for r in rows["backends"]) and
   len(rows["tokens"]) == 13 + 24, "rows", rows.keys())
route = of(evs, "route")[0]
ok(route["pos"] == 36 and len(route["layers"]) == 6 and
   all(len(l["expert"]) == 4 and abs(sum(l["weight"]) - 1) < 1e-5 for l in route["layers"]),
   "/route gives each layer's experts", route)

same = [of(events(*b, "--seed", "11", "-s", "max_tokens=40", "-c", LILY), "reply")[0]["tokens"] for _ in "ab"]
ok(same[0] == same[1], "a seed repeats a reply")
two = of(events(*b, "--seed", "12", "-s", "max_tokens=40", "-c", LILY, "-c", "/new", "-c", LILY), "reply")
ok(two[0]["tokens"] != same[0], "another seed makes another")
ok(two[0]["tokens"] == two[1]["tokens"], "/new starts a given seed again")
seed = of(events(*b, "-s", "max_tokens=20", "-c", LILY), "reply")[0]
again = of(events(*b, "-s", "max_tokens=20", "-s", "seed=%d" % seed["seed"], "-c", LILY), "reply")[0]
ok(seed["tokens"] == again["tokens"], "so does the seed that was drawn and reported")

end = of(events(*b, "-s", "mode=chat", "-s", "temperature=0", "-c", "What is the capital of France?"), "reply")[0]
ok(end["finish_reason"] == "eos" and end["tokens"][-1] in (4080, 4087) and "<|" not in end["text"],
   "the end of text is a token of the reply, but no text", end)

# any bytes in, valid JSON out
for name, args in {"prompt": ["-s", "max_tokens=2", "-c", b"caf\xe9 \xff\xc3"], "command": ["-c", b"/\xff\xfe"],
                   "setting": ["-c", b"/set mode \x80"], "file": ["-p", b"/no/\xff"]}.items():
    evs = events("-b", BACKEND, *args)
    ok(all(e["type"] in TYPES for e in evs), "invalid UTF-8 in a %s makes no invalid JSON" % name)
with tempfile.NamedTemporaryFile() as f:
    f.write(b"Once\0upon \xf0\x9f\x98 a time")
    f.flush()
    reply = of(events("-b", BACKEND, "-s", "max_tokens=40", "-s", "temperature=50", "-s", "top_p=1",
                      "--seed", "5", "-p", f.name), "reply")
    ok(len(reply) == 1 and len(reply[0]["tokens"]) > 0, "NUL and broken UTF-8 in a prompt; wild tokens in a reply")

# a chat turn that was cut is closed before the next one
evs = events("-b", BACKEND, "-s", "mode=chat", "-s", "system=Be brief.", "-s", "temperature=0", "-s",
             "max_tokens=3", "-c", "Hello", "-c", "<|im_end|>", "-c", "/tokens")
said = "".join(r["text"] if r["text"] != "\\n" else "\n" for r in of(evs, "rows")[0]["rows"])
ok(said.startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n")
   and said.count("<|im_start|>") == 5 and "<|im_end|>\n<|im_start|>user\n<|im_end|><|im_end|>\n" in said,
   "chat: the rendered conversation is ChatML", said)
ids = [r["id"] for r in of(evs, "rows")[0]["rows"]]
ok(ids.count(4087) == 4, "chat: typed <|im_end|> is text, not a token", ids)

# ---- batches: what a kill leaves, and that the same command goes on
def results(path):
    return [json.loads(l) for l in open(path, encoding="utf-8").read().splitlines()]


with tempfile.TemporaryDirectory() as tmp:
    src, out, whole = (os.path.join(tmp, n) for n in ("in.jsonl", "out.jsonl", "whole.jsonl"))
    words = ["Once", "The dog", "Lily went", "One day", "In the park", "She said"]
    with open(src, "w") as f:
        for i in range(60):
            f.write(json.dumps({"id": "p%d" % i, "prompt": words[i % 6] + " %d" % i, "settings": {"max_tokens": 5 + i % 9}}) + "\n")
    cmd = ["-b", BACKEND, "--seed", "9", "--prompts", src, "--out"]
    r = run(*cmd, whole)
    want = results(whole)
    ok(r.returncode == 0 and [w["id"] for w in want] == ["p%d" % i for i in range(60)] and not r.stdout and
       all(len(w["tokens"]) <= 5 + i % 9 and w["finish_reason"] in ("length", "eos") and w["seed"] == 9 and
           w["prompt_tokens"] > 0 and w["seconds"] >= 0 for i, w in enumerate(want)), "a batch: one result a line, in order", r, want[:3])
    kills, lost = 0, 0
    while kills < 25:
        p = subprocess.Popen([DBRX, *cmd, out], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            p.wait(0.05 + 0.013 * (kills % 11))
            break
        except subprocess.TimeoutExpired:
            p.kill()
            p.wait()
            kills += 1
            if kills % 3 == 0 and os.path.exists(out) and os.path.getsize(out) > 40:
                os.truncate(out, os.path.getsize(out) - 17)   # as a kill in mid-write would
                lost += 1
    r = run(*cmd, out)
    same = [(g["id"], g["text"], g["tokens"]) for g in results(out)] == [(w["id"], w["text"], w["tokens"]) for w in want]
    ok(r.returncode == 0 and same and kills, "killed %d times and torn %d times, it ends with the same results" % (kills, lost), r)
    r = run(*cmd, out)
    ok(b"0 drawn, 60 there already" in r.stderr and r.returncode == 0, "... and then there is nothing left to do", r)
    with open(out, "a") as f:
        f.write('{"id":"gone","text":"' + "a" * 300)
    before = os.path.getsize(out)
    r = run(*cmd, out)
    ok(r.returncode == 0 and before - os.path.getsize(out) == 321 and len(results(out)) == 60, "a torn last line is cut off, whatever it was", r)
    open(src, "w").write('{"messages":[{"role":"system","content":"Be brief."},{"role":"user","content":"Hi"}],"id":1}\n'
                         '{"id":1,"prompt":"again"}\n{"prompt":"a\\u0000b"}\n{"prompt":"x","settings":{"heat":1}}\n'
                         '{"prompt":"x","settings":{"top_p":7}}\n{"messages":[{"role":"dog","content":"woof"}]}\n[]\n'
                         '{"prompt":"%s"}\n{"prompt":"Once"}\n' % ("long " * 600))
    r = run("-b", BACKEND, "-s", "max_tokens=3", "--prompts", src, "--json")
    got = [json.loads(l) for l in r.stdout.decode().splitlines()]
    ok(r.returncode == 3 and [g["id"] for g in got if "error" not in g] == [1, 9] and all("in.jsonl:%d: " % n in r.stderr.decode() for n in range(2, 9)),
       "bad lines are named, the others run", r.stderr.decode(), got)
    ok([(g["id"], g["line"]) for g in got if "error" in g] == [(1, 2)] + [(n, n) for n in range(3, 9)] and
       all("in.jsonl:%d: %s" % (g["line"], g["error"]) in r.stderr.decode() for g in got if "error" in g), "... and leave a line that says why", got)

    # a result that failed is tried again, in the place where it would have come
    with open(src, "w") as f:
        f.write('{"id":"a","prompt":"Once"}\n{"id":"b","prompt":"Once","settings":{"grammar":"%s/g"}}\n{"id":"c","prompt":"One"}\n' % tmp)
    cmd, fixed = ["-b", "ref", "-s", "max_tokens=3", "--prompts", src, "--out"], os.path.join(tmp, "fixed.jsonl")
    r = run(*cmd, fixed)
    first = results(fixed)
    ok(r.returncode == 3 and [(g["id"], "error" in g) for g in first] == [("a", False), ("b", True), ("c", False)] and
       b"2 drawn, 0 there already, 1 failed" in r.stderr, "what fails has a line in the output", r, first)
    r = run(*cmd, fixed)
    ok(r.returncode == 3 and [g["id"] for g in results(fixed)] == ["a", "c", "b"] and b"0 drawn, 2 there already, 1 failed" in r.stderr,
       "... tried again it has one, not two", r, results(fixed))
    open(tmp + "/g", "w").write('root ::= " upon"')
    r = run(*cmd, fixed)
    again = results(fixed)
    ok(r.returncode == 0 and again[:2] == [first[0], first[2]] and again[2]["text"] == " upon" and b"1 drawn, 2 there" in r.stderr and
       sorted(os.listdir(tmp)) == ["fixed.jsonl", "g", "in.jsonl", "out.jsonl", "whole.jsonl"], "... and then a result, the others as they were", r, again)
    os.chmod(tmp, 0o500)
    open(fixed, "a").write('{"id":"b","error":"x","line":2}\n')
    before = open(fixed).read()
    r = run(*cmd, fixed)
    ok(os.getuid() == 0 or (r.returncode == 3 and b"cannot be written" in r.stderr and open(fixed).read() == before),
       "... where that cannot be done nothing is lost", r)
    os.chmod(tmp, 0o700)

# ---- a session through JSON
with tempfile.TemporaryDirectory() as tmp:
    evs = events("-b", BACKEND, "--seed", "5", "-s", "max_tokens=6", "-s", "temperature=2", "-c", "Once", "-c", "/retry 3", "-c", "/branch",
                 "-c", "/undo", "-c", "/redo", "-c", "/save %s/s" % tmp, "-c", "/load %s/s" % tmp, "-c", "/replay", "-c", "/prompt",
                 "-c", "/transcript", "-c", "/transcript --tokens", "-c", "/export json %s/e.json" % tmp)
    replies = of(evs, "reply")
    rows = {e["of"]: e["rows"] for e in of(evs, "rows")}
    ok({e["type"] for e in evs} <= TYPES and [r["branch"] for r in replies] == ["main", "retry-1", "retry-2", "retry-3"] and
       len({r["seed"] for r in replies}) == 4 and len({r["text"] for r in replies}) == 4, "retries say their branch and seed", replies)
    ok([b["name"] for b in rows["branches"]] == ["main", "retry-1", "retry-2", "retry-3"] and rows["branches"][1]["current"] and
       rows["prompt"] == replies[0]["tokens"][:0] + [930] and rows["replay"][0]["result"] == "same" and
       "".join(t["text"] for t in rows["transcript_tokens"]) == rows["transcript"][0]["text"], "rows of the tree", rows)
    e = json.load(open(tmp + "/e.json"))
    ok(e["turns"][0]["reply"] == replies[1]["tokens"] and e["messages"][0]["text"] == rows["transcript"][0]["text"], "/export json", e)
    plain = run("-b", BACKEND, "--seed", "5", "-s", "max_tokens=40", "-s", "temperature=0", "-s", "stop=' outside'", "-c", LILY).stdout
    ok(plain == b" She loved to play\n", "a stop string in quotes", plain)

# ---- signals: what the caller sees
WILD = ["-b", BACKEND, "--json", "-s", "max_tokens=0", "-s", "temperature=90", "-s", "top_p=1", "--seed", "1"]
for name, sig in ("SIGINT", signal.SIGINT), ("SIGTERM", signal.SIGTERM):
    for where in "in a reply", "waiting for a line":
        p = subprocess.Popen([DBRX, *WILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        p.stdin.write(b"Once\n" if where == "in a reply" else b"/set mode base\n")
        p.stdin.flush()
        for line in p.stdout:
            if json.loads(line)["type"] in ("token", "status"):
                break
        p.send_signal(sig)
        p.stdout.read()
        code = p.wait(60)
        ok(code in (-sig, 128 + sig), "%s %s ends the program by it" % (name, where), code)
p = subprocess.Popen([DBRX, *WILD, "-c", "Once"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
p.stdout.readline()
p.stdout.close()
code = p.wait(60)
ok(code in (-signal.SIGPIPE, 141), "SIGPIPE when nobody reads on", code)
with open("/dev/full", "w") as full:
    p = subprocess.run([DBRX, "-b", BACKEND, "-c", "/help"], stdin=subprocess.DEVNULL, stdout=full, stderr=subprocess.PIPE)
ok(p.returncode == 1 and b"cannot be written" in p.stderr, "a full disk under stdout is an error", p)

# ---- /dump
try:
    import numpy as np
except ImportError:
    skip("no numpy: /dump is not read back")
    finish()

T, L, E, K, V = 13 + 20, 6, 16, 4, 4096
with tempfile.TemporaryDirectory() as tmp:
    out = os.path.join(tmp, "a b", )
    os.mkdir(out)
    out = os.path.join(out, "dump")
    evs = events("-b", BACKEND, "-s", "temperature=0", "-s", "max_tokens=20", "-c", LILY,
                 "-c", '/dump "%s"' % out, "-c", "/dump '%s'" % out, "-c", "", *sum((["-c", "/route %d" % i] for i in range(T)), []))
    names = {"tokens": ("int32", (T,)), "logits": ("float32", (T, V)), "router_prob": ("float32", (L, T, E)),
             "expert": ("int32", (L, T, K)), "weight": ("float32", (L, T, K))}
    ok(sorted(os.listdir(out)) == sorted(n + ".npy" for n in names),
       "/dump leaves its five files and nothing else", os.listdir(out))
    a = {n: np.load(os.path.join(out, n + ".npy")) for n in names}
    ok(all((str(a[n].dtype), a[n].shape) == names[n] for n in names), "dtypes and shapes",
       {n: (a[n].dtype, a[n].shape) for n in names})
    reply, more = of(evs, "reply")
    ok(list(a["tokens"]) == GOLDEN[0]["tokens"] + reply["tokens"], "tokens.npy is the timeline")
    ok(list(a["logits"].argmax(1)[12:]) == reply["tokens"] + more["tokens"][:1],
       "each row of logits has the next greedy token on top", a["logits"].argmax(1))
    top = np.sort(a["router_prob"], axis=2)[:, :, ::-1][:, :, :K]
    ok(np.abs(a["router_prob"].sum(2) - 1).max() < 1e-5 and
       np.abs(np.take_along_axis(a["router_prob"], a["expert"], 2) - top).max() < 1e-6 and
       np.abs(top / top.sum(2, keepdims=True) - a["weight"]).max() < 1e-5,
       "weights are the largest probabilities, normalised")
    routes = of(evs, "route")
    expert = np.array([[l["expert"] for l in r["layers"]] for r in routes]).transpose(1, 0, 2)
    weight = np.array([[l["weight"] for l in r["layers"]] for r in routes]).transpose(1, 0, 2)
    ok((expert == a["expert"]).all() and np.abs(weight - a["weight"]).max() < 1e-5,
       "/route shows what /dump writes", np.abs(weight - a["weight"]).max())


def small_files():
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))


with tempfile.TemporaryDirectory() as tmp:
    r = run("-b", BACKEND, "-c", "/feed 1 2 3", "-c", "/dump %s/new" % tmp, preexec_fn=small_files)
    ok(r.returncode == 3 and b"failed: File too large" in r.stderr and not os.listdir(tmp),
       "/dump: no room on the disk leaves nothing behind", r, os.listdir(tmp))
    os.mkdir(tmp + "/old")
    open(tmp + "/old/logits.npy", "w").write("precious")
    r = run("-b", BACKEND, "-c", "/feed 1 2 3", "-c", "/dump %s/old" % tmp, preexec_fn=small_files)
    ok(os.listdir(tmp + "/old") == ["logits.npy"] and open(tmp + "/old/logits.npy").read() == "precious",
       "/dump: ... and keeps what was there", r, os.listdir(tmp + "/old"))

finish()
