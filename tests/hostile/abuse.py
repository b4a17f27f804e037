"""Files that abuse and machines that fail: every one ends in a sentence and an exit code, never in
a signal, a hang or a conversation lost.

    abuse.py            what make check runs
    DBRX_LONG=1 ...     more switches and turns (.ci/nightly)

Run by abuse.sh; speaks TAP.  All runs have 4 GB of address space, so that what would take all the
memory there is fails here."""
import json
import os
import re
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time

from checkpoints import checkpoint, with_nan_router
from common import DBRX, SRC, finish, lines, ok, skip

LONG = bool(os.environ.get("DBRX_LONG"))
T = tempfile.mkdtemp(prefix="dbrx-abuse-")
NANO, TINY = os.path.join(SRC, "models/nano"), checkpoint("tiny-bf16")
ONE = ["-m", TINY, "-b", "ref", "--ctx", "64", "-s", "max_tokens=3"]
GB, REFUSED = 1 << 30, (1, 2, 3, 4, 5)
tried = 0


def limits(mb=4096, **more):
    def set_them():
        if not os.environ.get("SANITIZER"):   # whose shadow is terabytes of addresses
            resource.setrlimit(resource.RLIMIT_AS, (mb << 20, mb << 20))
        for name, value in more.items():
            resource.setrlimit(getattr(resource, name), (value, value))
    return set_them


def go(*args, mb=4096, timeout=300, stdin=subprocess.DEVNULL, **kw):
    """Exit code, stdout, stderr; the code is "hangs" when it does."""
    global tried
    tried += 1
    kw.setdefault("stdout", subprocess.PIPE)
    kw.setdefault("stderr", subprocess.PIPE)
    kw.setdefault("preexec_fn", limits(mb))
    try:
        p = subprocess.run([DBRX, *map(str, args)], stdin=stdin, timeout=timeout, **kw)
    except subprocess.TimeoutExpired:
        return "hangs", "", ""
    text = [(x or b"").decode("utf-8", "replace") for x in (p.stdout, p.stderr)]
    return (p.returncode, *text)


def said(err, word=""):
    """One complaint, short enough to be one, in which word stands."""
    mine = [x for x in err.splitlines() if x.startswith("dbrx: ")]
    return len(mine) == 1 and len(mine[0]) < 500 and re.search(word, mine[0])


def refuses(name, args, word, codes=REFUSED, **kw):
    code, out, err = go(*args, **kw)
    return ok(code in codes and said(err, word), name, code, err, out)


def copy(of=NANO):
    to = os.path.join(T, "copy")
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(of, to)
    for root, _, names in os.walk(to):
        os.chmod(root, 0o755)
        for n in names:
            os.chmod(os.path.join(root, n), 0o644)
    return to


def put(name, text, size=None):
    path = os.path.join(T, name)
    with open(path, "wb") as f:
        f.write(text if isinstance(text, bytes) else text.encode())
    if size:
        os.truncate(path, size)            # the rest is a hole
    return path


# ---- files of a checkpoint

feed = ["-b", "ref", "-c", "/feed 1"]
for name in "config.json", "generation_config.json", "model.safetensors":
    m = copy()
    os.truncate(os.path.join(m, name), 3 * GB)
    refuses("%s of 3 GB" % name, ["-m", m, *feed], re.escape(name), (4,))
for name in "tokenizer.json", "tokenizer_config.json":
    m = copy()
    os.truncate(os.path.join(m, name), 3 * GB)
    code, out, err = go("-m", m, *feed, "-c", "Once")
    ok(code in (0, 3) and "larger than" in err, "%s of 3 GB costs what it is needed for" % name, code, err)
    m = copy()
    os.unlink(os.path.join(m, name))
    os.mkfifo(os.path.join(m, name))
    code, out, err = go("-m", m, *feed, "-c", "Once", timeout=60)
    ok(code in (0, 3) and "regular file" in err, "%s is a pipe that nobody writes to" % name, code, err)
for name in "config.json", "model.safetensors":
    m = copy()
    os.unlink(os.path.join(m, name))
    os.mkfifo(os.path.join(m, name))
    refuses("%s is a pipe that nobody writes to" % name, ["-m", m, *feed], name, (4,), timeout=60)
deep = '{"a":' + "[" * 1000000
m = copy()
open(m + "/config.json", "w").write(deep)
refuses("a config nested 10^6 deep", ["-m", m, *feed], "too deep", (4,))
m = copy()
open(m + "/config.json", "w").write('{"model_type":"dbrx","d_model":%s}' % ("9" * 10000000))
refuses("a number of 10^7 digits", ["-m", m, *feed], "config.json", (4,))


def with_header(text, data=0):
    m = copy()
    text = text.encode()
    text += b" " * (-len(text) % 8)
    with open(m + "/model.safetensors", "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
    if data:
        os.truncate(m + "/model.safetensors", 8 + len(text) + data)
    return m


refuses("a safetensors header nested 10^6 deep", ["-m", with_header(deep), *feed], "too deep", (4,))
many = ",".join('"t%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}' % i for i in range(250000))
refuses("250,000 tensors that are none", ["-m", with_header("{%s}" % many), *feed], "lacks", (4,))
many = ",".join('"t%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}' % i for i in range(1000000))
refuses("10^6 tensors", ["-m", with_header("{%s}" % many), *feed], "safetensors", (4,))
put("huge.safetensors", b"")
m = copy()
open(m + "/model.safetensors", "wb").write(struct.pack("<Q", 10 * GB) + b'{"a":1')
os.truncate(m + "/model.safetensors", 11 * GB)
refuses("a header of 10 GB", ["-m", m, *feed], "safetensors", (4,))


def gguf(n_tensors, n_keys, tail=b"", size=None):
    return put("x.gguf", b"GGUF" + struct.pack("<IQQ", 3, n_tensors, n_keys) + tail, size)


s = lambda text: struct.pack("<Q", len(text)) + text
for name, path in (
        ("2^60 tensors", lambda: gguf(1 << 60, 0)), ("2^60 keys", lambda: gguf(0, 1 << 60)),
        ("a text of 2^62 bytes", lambda: gguf(0, 1, struct.pack("<Q", 1 << 62) + b"a", GB)),
        ("a list of 2^40 texts", lambda: gguf(0, 1, s(b"k") + struct.pack("<IIQ", 9, 8, 1 << 40), GB)),
        ("a list of 2^28 numbers, in a hole", lambda: gguf(0, 1, s(b"k") + struct.pack("<IIQ", 9, 4, 1 << 28), 2 * GB)),
        ("lists in lists, 10^5 deep", lambda: gguf(0, 1, s(b"k") + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 100000)),
        ("nothing but a hole of 10 GB", lambda: gguf(0, 0, b"", 10 * GB))):
    refuses("GGUF: " + name, ["-m", path(), *feed], "gguf", (4,))
tiny_config = json.load(open(TINY + "/config.json"))
for name, where, value in (("RoPE theta 0", "attn_config", {"rope_theta": 0}), ("top_k 0", "ffn_config", {"moe_top_k": 0}),
                           ("top_k above the experts", "ffn_config", {"moe_top_k": 999}), ("vocab_size 2^31", None, {"vocab_size": 1 << 31}),
                           ("heads that do not divide", None, {"n_heads": 7}), ("RoPE theta NaN", "attn_config", {"rope_theta": float("nan")})):
    c = json.loads(json.dumps(tiny_config))
    (c[where] if where else c).update(value)
    m = copy(TINY)
    json.dump(c, open(m + "/config.json", "w"))
    refuses(name, ["-m", m, *feed], "config.json", (4,))

# a vocabulary with entries of 1 MB: they work
m = copy()
j = json.load(open(m + "/tokenizer.json"))
for word, text in (("a", 1000000), ("b", 1000000)):
    j["added_tokens"].append({"id": 4000 if word == "a" else 4001, "content": word * text, "special": False})
vocab = {k: v for k, v in j["model"]["vocab"].items() if v not in (4000, 4001)}
j["model"].update(vocab=vocab, merges=[x for x in j["model"]["merges"] if "".join(x if isinstance(x, list) else x.split(" ")) in vocab])
json.dump(j, open(m + "/tokenizer.json", "w"))
code, out, err = go("-m", m, "-b", "ref", "-c", "/feed 4000 4001", "-c", "/tokens", "-c", "/transcript", "-s", "max_tokens=2")
ok(code in (0, 3) and (len(out) > 2000000 or said(err)), "a vocabulary with tokens of 1 MB", code, err[:500], len(out))

# ---- weights that are no numbers

for layer in 0, 1:
    m = os.path.join(T, "nan%d" % layer)
    with_nan_router(m, layer)
    for b in "ref", "cpu-blas":
        refuses("%s: a router that is no number is found in layer %d" % (b, layer), ["-m", m, "-b", b, "-c", "/feed 1 2 3", "-c", "/continue"],
                "layer %d " % layer, (3,))


def spoilt(tensor, value):
    m = copy(TINY)
    path = m + "/model.safetensors"
    data = bytearray(open(path, "rb").read())
    n = struct.unpack("<Q", data[:8])[0]
    begin, end = json.loads(data[8:8 + n])[tensor]["data_offsets"]
    data[8 + n + begin:8 + n + end] = value * ((end - begin) // 2)
    open(path, "wb").write(data)
    return m


INF, HUGE = b"\x80\x7f", b"\x7f\x7f"
for tensor, word in (("transformer.wte.weight", "embedding"), ("transformer.blocks.0.ffn.experts.mlp.w2", "layer 0 gives"),
                     ("transformer.blocks.1.norm_attn_norm.attn.Wqkv.weight", "layer 1 gives"), ("transformer.norm_f.weight", "head"),
                     ("lm_head.weight", "head")):
    refuses("infinities in %s" % tensor, ["-m", spoilt(tensor, INF), *ONE[2:], "-c", "/feed 1 2 3", "-c", "/continue"], word, (3,))

# ---- a file cut short while it is mapped


def talk(backend, cut):
    """The events of a session in which cut() happens after the first reply, and how it ended."""
    p = subprocess.Popen([DBRX, "-m", os.path.join(T, "copy"), "-b", backend, "--json", "-s", "max_tokens=8", "-s", "temperature=0",
                          "-s", "on_error=continue"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    p.stdin.write("Once upon a time\n")
    p.stdin.flush()
    before, text = [], ""
    while not before or before[-1]["type"] != "reply":
        before.append(json.loads(p.stdout.readline()))
    cut()
    p.stdin.write("/continue\n/tokens\n/save %s/kept\n/continue\n/backend %s\n/new\nTwice\n" % (T, "ref" if backend != "ref" else "cpu-blas"))
    p.stdin.close()
    after = [json.loads(x) for x in p.stdout]
    return before, after, p.wait()


for b in "ref", "cpu-blas":
    m = copy()
    path = m + "/model.safetensors"
    if os.path.exists(T + "/kept"):
        os.unlink(T + "/kept")
    before, after, code = talk(b, lambda: os.truncate(path, os.path.getsize(path) // 3))
    errors = [e["text"] for e in after if e["type"] == "error"]
    ok(code == 3 and len(errors) == 4 and all("model.safetensors cannot be read any more" in e for e in errors),
       "%s: weights cut short while in use: every attempt names the file" % b, code, errors)
    rows = [e for e in after if e["type"] == "rows" and e["of"] == "tokens"]
    said_ids = [e["id"] for e in before if e["type"] == "token"]
    ids = [r["id"] for r in rows[0]["rows"]] if rows else []
    ok(len(said_ids) == 8 and ids[4:12] == said_ids, "%s: ... the conversation is whole" % b, ids, said_ids)
    code, out, err = go("-m", NANO, "-b", b, "-c", "/load %s/kept" % T, "-c", "/continue", "-s", "max_tokens=2")
    ok(code == 0, "%s: ... saved, it goes on with a good copy" % b, code, err)
    m = copy()
    before, after, code = talk(b, lambda: os.replace(os.path.join(shutil.copytree(NANO, T + "/other", dirs_exist_ok=True), "model.safetensors"), path))
    ok(code == 0 and not [e for e in after if e["type"] == "error"], "%s: weights replaced while in use: the old ones are still there" % b, after)
m = copy()
size = os.path.getsize(m + "/model.safetensors")
p = subprocess.Popen([DBRX, "quantize", "--type", "q8_0", m, T + "/q.gguf"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
time.sleep(0.02)
os.truncate(m + "/model.safetensors", size // 4)
err = p.communicate()[1].decode()
ok(p.returncode >= 0 and (p.returncode == 0) == os.path.exists(T + "/q.gguf"), "quantize: weights cut short below it: a sentence, and no file", p.returncode, err)

# ---- texts

hole = put("hole", "", 3 * GB)
for name, args in (("a script", ["-f", hole]), ("a prompt", ["-p", hole]), ("/load", ["-c", "/load " + hole]), ("/read", ["-c", "/read " + hole]),
                   ("a grammar", ["-s", "grammar=" + hole]), ("a schema", ["-s", "schema=" + hole]), ("/steer load", ["-c", "/steer load " + hole]),
                   ("labels", ["-s", "labels=" + hole]), ("/contrast", ["-c", "/contrast %s %s" % (hole, hole)])):
    refuses("a hole of 3 GB as %s" % name, [*ONE, *args], "")
for name, args in (("tokenize", ["tokenize", hole]), ("perplexity", ["perplexity", hole]),
                   ("an imatrix", ["imatrix", "--prompts", hole, "--out", T + "/im"])):
    refuses("a hole of 3 GB as %s" % name, args, "")
for name, text, args in (
        ("a grammar", "root ::= " + "(" * 1000000, ["-s", "grammar="]), ("a schema", '{"items":' * 20000, ["-s", "schema="]),
        ("steering", "[" * 1000000, ["-c", "/steer load "]), ("a prompt of a batch", '{"prompt":' + "[" * 1000000, ["--prompts", ""])):
    path = put("deep", text)
    more = ["--out", T + "/out"] if args[0] == "--prompts" else []
    refuses("%s nested 10^6 deep" % name, [*(["-m", NANO] if more else ONE), args[0], args[1] + path, *more], "")

# ---- places where nothing can be written

talked = [*ONE, "-c", "/feed 1 2 3", "-c", "/continue"]
spoken = ["-m", NANO, "-b", "ref", "-s", "max_tokens=3", "-c", "Once"]
for name, line in (("/save", "/save /dev/full"), ("/export", "/export json /dev/full"), ("/export md", "/export md /dev/full"), ("/export txt", "/export txt /dev/full"), 
                   ("/atlas", "/atlas /dev/full"), ("/steer save", "/steer save /dev/full"), ("/route --svg", "/route --svg /dev/full"),
                   ("/ablate --out", "/ablate --sweep --out /dev/full"), ("/dump", "/dump /dev/full")):
    refuses("%s to a full disk" % name, [*spoken, "-c", "/ban 1@0" if "steer" in line else "/tokens", "-c", line], "o space left|/dev/full (cannot be written|is not a directory)")
code, out, err = go(*talked, "-c", "/output /dev/full", "-c", "/tokens", "-c", "/output")
ok(code in REFUSED and "dbrx: " in err, "/output to a full disk", code, err)
prompts = put("prompts", '{"prompt":"Once"}\n')
im = put("text", "Once upon a time. " * 200)
topics = put("topics", "".join('{"topic":"%s","prompt":"Once upon a time"}\n' % t for t in "ab" for _ in range(8)))
for name, args in (("--out", ["--prompts", prompts, "--out", "/dev/full", "-s", "max_tokens=2"]), ("quantize", ["quantize", "--type", "q8_0", NANO, "/dev/full"]),
                   ("convert", ["convert", NANO, "/dev/full/x"]), ("imatrix", ["imatrix", "--text", im, "--out", "/dev/full"]),
                   ("trace", ["trace", "--prompts", prompts, "--out", "/dev/full"]), ("specialists", ["specialists", "--prompts", topics, "--out", "/dev/full"])):
    refuses("%s to a full disk" % name, args, "")


def writers(d):
    """The programs that write something to a folder; each by the name x."""
    x = d + "/x"
    return (["quantize", "--type", "q8_0", NANO, x + ".gguf"], ["convert", NANO, x], ["imatrix", "--text", im, "--out", x + ".gguf"],
            ["trace", "--prompts", prompts, "--out", x], ["specialists", "--prompts", topics, "--out", x],
            ["--prompts", prompts, "--out", x, "-s", "max_tokens=2"])


full = open("/dev/full", "wb")
for name, args in (("a reply", spoken), ("--help", ["--help"]), ("inspect", ["inspect", TINY]), ("--json", [*talked, "--json"]), ("rows", [*ONE, "-c", "/help"]),
                   ("tokenize", ["tokenize", im]), ("--help-man", ["--help-man"]), ("--version", ["--version"]), ("a batch", ["--prompts", prompts, "-s", "max_tokens=2"])):
    code, out, err = go(*args, stdout=full)
    ok(code in REFUSED and err.count("\n") < 4 and "o space left" in err, "%s into a full stdout" % name, code, err)
for fds in (0,), (1,), (2,), (0, 1, 2):
    def without(fds=fds):
        for fd in fds:
            os.close(fd)
    code, out, err = go(*talked, preexec_fn=without, stdin=None)
    ok(code in (0, *REFUSED), "without descriptors %s" % (fds,), code, err)
    before = set(os.listdir(T))
    code, out, err = go(*talked, "-c", "/save %s/closed" % T, preexec_fn=without, stdin=None)
    new = set(os.listdir(T)) - before
    good = "closed" not in new or go("-m", TINY, "-b", "ref", "-c", "/load %s/closed" % T)[0] == 0
    ok(good and new <= {"closed"}, "... nor does anything else land in a file that is saved", code, new)
    if "closed" in new:
        os.unlink(T + "/closed")

for name, args in (("inspect", ["inspect", TINY]), ("tokenize", ["tokenize", im]), ("bench", ["bench", "-m", TINY, "--prompt", 2, "--gen", 1, "ref"]),
                   ("perplexity", ["perplexity", "-b", "ref", prompts]), ("--help", ["--help"]), ("--help-man", ["--help-man"])):
    code, out, err = go(*args, preexec_fn=lambda: os.close(1))
    ok(code in REFUSED and "dbrx: " in err, "%s with stdout closed" % name, code, err)

# ---- nobody's home, and nothing to be written in it

for name, env in (("no home", {"HOME": None}), ("a home that is not there", {"HOME": T + "/not/there"}), ("a home that is a file", {"HOME": im}),
                  ("a home of 5,000 characters", {"HOME": "/" + "x" * 5000}), ("nothing in the environment", None)):
    e = {} if env is None else {k: v for k, v in {**os.environ, **env}.items() if v is not None}
    code, out, err = go(*talked, "-c", "/load", env=e)
    ok(code in (0, 3) and not os.path.exists(T + "/not"), name, code, err)
if os.geteuid() == 0:
    os.chmod(T, 0o755)
    locked = os.path.join(T, "locked")
    os.mkdir(locked, 0o755)

    def nobody():
        os.chdir("/")
        os.setgid(65534)
        os.setuid(65534)
    mine = {**os.environ, "HOME": locked, "XDG_STATE_HOME": locked + "/s"}
    try:
        reached = not subprocess.run([DBRX, "--version"], preexec_fn=nobody, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode
    except PermissionError:
        reached = False
    if not reached:
        skip("another user cannot reach the program here")
    else:
        p = go(*talked, "-c", "/tokens", env=mine, preexec_fn=nobody)
        ok(p[0] == 0, "as somebody else, in a home that cannot be written to", *p)
        for line in ("/save %s/x", "/export json %s/x", "/dump %s/x", "/atlas %s/x", "/steer save %s/x", "/output %s/x"):
            refuses("... %s" % line.split()[0], [*spoken, "-c", "/ban 1@0", "-c", line % locked], "ermission denied", env=mine, preexec_fn=nobody)
        for args in writers(locked):
            refuses("... %s" % args[0], args, "ermission denied", env=mine, preexec_fn=nobody)
        os.chmod(im, 0)
        refuses("... a file that may not be read", [*ONE, "-c", "/read " + im], "ermission denied", env=mine, preexec_fn=nobody)
        os.chmod(im, 0o644)
else:
    skip("who is not root cannot become nobody")

# ---- little of everything

worst = []
steps = sorted({int(20 * 1.13 ** k) for k in range(0, 30 if not LONG else 34)})
for mb in steps:
    for b in "ref", "cpu-blas":
        code, out, err = go("-m", NANO, "-b", b, "-s", "max_tokens=4", "-c", "Once", "-c", "/save %s/small" % T, mb=mb, env={**os.environ, "OPENBLAS_NUM_THREADS": "1"})
        # below what the loader itself needs, it is the system that says no (127)
        if not (code in (0, 127, *REFUSED) and (code == 0 or err)):
            worst.append((mb, b, code, err[-300:]))
ok(not worst, "address space of %d to %d MB: done, or refused in a sentence" % (steps[0], steps[-1]), *worst)
for n in range(3, 24, 1 if LONG else 3):
    code, out, err = go(*talked, "-c", "/save %s/few" % T, preexec_fn=limits(RLIMIT_NOFILE=n))
    if not (code in (0, 127, *REFUSED) and (code == 0 or err)):
        worst.append((n, code, err[-300:]))
ok(not worst, "3 to 24 descriptors", *worst)
code, out, err = go(*spoken, "-c", "/save %s/limited" % T, "-c", "/export json %s/limited.json" % T, "-s", "on_error=continue", preexec_fn=limits(RLIMIT_FSIZE=200))
ok(code == 3 and err.count("too large") == 2 and not os.path.exists(T + "/limited"), "files of at most 200 bytes", code, err)

small = os.path.join(T, "few-bytes")
os.mkdir(small)
for args in writers(small):
    code, out, err = go(*args, preexec_fn=limits(RLIMIT_FSIZE=100))
    left = [os.path.join(root, n) for root, _, names in os.walk(small) for n in names if n != "x" or args[0] != "--prompts"]
    ok(code in REFUSED and "too large" in err and not left, "%s: files of at most 100 bytes, and none is left half written" % args[0], code, err, left)
    shutil.rmtree(small)
    os.mkdir(small)
for line in ("/export md %s/x", "/export txt %s/x", "/export json %s/x", "/export route %s/x.jsonl", "/export route %s/x.csv", "/export route %s/x.npz",
             "/atlas %s/x", "/dump %s/x", "/route --svg %s/x", "/ablate --sweep --out %s/x"):      # a sweep goes on where it ended
    code, out, err = go(*spoken, "-c", line % small, preexec_fn=limits(RLIMIT_FSIZE=4))
    left = [os.path.join(root, n) for root, _, names in os.walk(small) for n in names if "--sweep" not in line]
    ok(code in REFUSED and "too large" in err and not left, "%s: files of at most 4 bytes, and none is left half written" % line.replace("%s/", ""), code, err, left)
    shutil.rmtree(small)
    os.mkdir(small)

# ---- for a long time


def usage(pid):
    text = open("/proc/%d/status" % pid).read()
    return int(re.search(r"VmRSS:\s*(\d+)", text).group(1)), len(os.listdir("/proc/%d/fd" % pid))


def grows(name, args, step, times):
    """Runs step(i), lines, `times` times in one session; memory and descriptors of the last half."""
    p = subprocess.Popen([DBRX, *args, "--json"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    seen = []
    for i in range(times):
        p.stdin.write(step(i) + "\n/echo mark\n")
        p.stdin.flush()
        while True:
            line = p.stdout.readline()
            if not line or ("mark" in line and '"status"' in line) or '"mark"' in line:
                break
        if not line:
            break
        if i % (times // 20) == 0:
            seen.append(usage(p.pid))
    p.stdin.close()
    p.stdout.read()
    err = p.stderr.read()
    code = p.wait()
    late = seen[len(seen) // 2:]
    kb = max(x[0] for x in late) - late[0][0] if late else 1 << 30
    ok(code == 0 and len(seen) >= 20 and kb < 4096 and len({x[1] for x in late}) == 1, name, code, err[-500:], seen)
    if late:
        print("# for long: %s: %.1f MiB and %d descriptors half way, %+d KiB and %+d since" % (
            name, late[0][0] / 1024, late[0][1], late[-1][0] - late[0][0], late[-1][1] - late[0][1]))


times = 1000 if LONG else 100
grows("%d switches of backends: no memory, no descriptor more" % times, ["-m", TINY, "-b", "ref", "-c", "/feed 1 2 3", "-f", "-", "--threads", "2"],
      lambda i: "/backend " + ("cpu-blas" if i % 2 == 0 else "ref"), times)
times = 8 * 60 * 4 if LONG else 300
grows("a chat of %d turns in a full context: flat" % times,
      ["-m", NANO, "-b", "cpu-blas", "--ctx", "64", "-s", "max_tokens=4", "-s", "overflow=shift", "-f", "-"],
      lambda i: "Once upon a time" + ("\n/new" if i % 40 == 39 else "\n/undo\n/redo" if i % 7 == 3 else ""), times)

print("# hostile inputs tried: %d" % tried)
shutil.rmtree(T, ignore_errors=True)
finish()
