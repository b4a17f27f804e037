"""What strangers' files say on a terminal: whatever a checkpoint, a vocabulary, a session, a
grammar, a module or a name of any of them holds, no byte of it moves a cursor, sets a title,
answers back or turns the writing direction; --raw lets it through.

Run by terminal.sh; speaks TAP.  All runs are on a pseudo-terminal."""
import json
import os
import re
import shutil
import struct
import subprocess
import tempfile

from checkpoints import checkpoint
from common import SRC, finish, lines, ok, outcome, run
from screen import LIBEDIT, Shell

# title, clearing, 8-bit CSI, DEL, direction, carriage return, next line, isolate, a question to be answered
EVIL = "\x1b]0;owned\x07\x1b[2J\u009b31m\x7f\u202eabc\r\b\u0085\u2066\x1b[c\x1b[?1049h"
T = tempfile.mkdtemp(prefix="dbrx-terminal-")
os.environ["XDG_STATE_HOME"] = os.environ["XDG_CONFIG_HOME"] = T
NANO = os.path.join(SRC, "models/nano")
tried = 0


def obeyed(raw):
    """What a terminal would obey in these bytes, colours and the ends of lines aside."""
    text = re.sub(r"\x1b\[[0-9;]*m|\r\n|\n|\t|\r(?=[a-z0-9 .:%]*\r)|\r(?=\[)", "", raw.decode("utf-8", "surrogateescape"))
    return re.findall("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff].{0,12}", text)


def shown(*args, **env):
    global tried
    tried += 1
    s = Shell(*args, **{"TERM": "dumb", "NO_COLOR": "1", **env})
    code = s.wait()
    return code, s.all


def harmless(name, *args, shows=None, codes=(0, 1, 2, 3, 4, 5), **env):
    code, raw = shown(*args, **env)
    seen = re.sub(rb"\s+", b"", raw)
    return ok(code in codes and not obeyed(raw) and (shows is None or re.search(shows.encode(), seen)), name, code, obeyed(raw), raw)


def put(name, text):
    path = os.path.join(T, name)
    with open(path, "wb") as f:
        f.write(text if isinstance(text, bytes) else text.encode())
    return path


# ---- a checkpoint in a folder of such a name, whose vocabulary, template and config are such

model = os.path.join(T, "model " + EVIL)
shutil.copytree(NANO, model)
for root, _, names in os.walk(model):
    os.chmod(root, 0o755)
    for n in names:
        os.chmod(os.path.join(root, n), 0o644)
words = json.load(open(model + "/tokenizer.json"))
ID = 4000
at = next(k for k, v in words["model"]["vocab"].items() if v == ID)
del words["model"]["vocab"][at]
words["model"]["merges"] = [m for m in words["model"]["merges"] if "".join(m if isinstance(m, list) else m.split(" ")) in words["model"]["vocab"]
                            and all(x in words["model"]["vocab"] for x in (m if isinstance(m, list) else m.split(" ")))]
visible = [*range(33, 127), *range(161, 173), *range(174, 256)]        # how such a file spells bytes
hidden = [b for b in range(256) if b not in visible]
words["model"]["vocab"]["".join(chr(b if b in visible else 256 + hidden.index(b)) for b in EVIL.encode())] = ID
json.dump(words, open(model + "/tokenizer.json", "w"))
settings = json.load(open(model + "/tokenizer_config.json"))
settings["chat_template"] = "{% set x = '" + EVIL + "' %}" + settings.get("chat_template", "")
json.dump(settings, open(model + "/tokenizer_config.json", "w"))
ONE = ["-m", model, "-b", "ref", "-s", "max_tokens=3"]
SAYS = [*ONE, "-s", "temperature=0", "-s", "logit_bias=%d=100" % ID]

harmless("a reply of such tokens", *SAYS, "-c", "Once", shows=r"\^\[\]0;owned\^G\^\[\[2J", codes=(0,))
harmless("... in colours", *SAYS, "-s", "show=probs", "-c", "Once", codes=(0,), TERM="xterm-256color", NO_COLOR="")
harmless("... searched for", *SAYS, "-s", "num_beams=2", "-c", "Once", codes=(0,))
for line in ("/tokens", "/transcript", "/transcript --tokens", "/prompt", "/logits", "/surprise", "/pick 1", "/route", "/route --list", "/route --tokens", "/route 5",
             "/route --layer 0 --prob", "/lens", "/lens --experts", "/stats", "/replay", "/branch " + EVIL.replace("\r", ""), "/switch " + EVIL.replace("\r", ""),
             "/retry 2", "/undo", "/top 1@0", "/watch on", "/compare cpu-blas", "/set", "/backend", "/instruments", "/export txt /dev/stdout", "/export md /dev/stdout"):
    harmless(line if EVIL[:4] not in line else line.split()[0] + " of such a name", *SAYS, "-c", "Once", *lines(line))
for form in "json", "route":
    harmless("/export %s" % form, *SAYS, "-c", "Once", "-c", "/export %s %s/x" % (form, T))
harmless("events in JSON", *SAYS, "--json", "-c", "Once", "-c", "/tokens", "-c", "/transcript", shows="009b31m", codes=(0,))
code, raw = shown(*SAYS, "--json", "-c", "Once")
texts = [e["text"] for e in map(json.loads, raw.decode().splitlines()) if e["type"] == "reply"]
ok(texts and EVIL in texts[0], "... which mean the same as ever", texts)
harmless("inspect", "inspect", model, shows=r"model\^\[\]0;owned", codes=(0,))
harmless("inspect --json", "inspect", "--json", model, codes=(0,))
ids = put("ids", "%d\n%d\n" % (ID, ID))
harmless("detokenize", "detokenize", "-m", model, ids, shows=r"\^\[\]0;owned", codes=(0,))
p = run("detokenize", "-m", model, ids)
ok(p.stdout == 2 * EVIL.encode(), "... into a pipe it is what it is", p.stdout)
harmless("tokenize a file of such a name", "tokenize", "-m", model, put("text " + EVIL, "a\xff"))
harmless("perplexity", "perplexity", "-m", model, put("text " + EVIL, "Once upon a time " + EVIL))
harmless("quantize", "quantize", "--type", "q8_0", model, T + "/q.gguf", codes=(0,))
harmless("... what came of it", "-m", T + "/q.gguf", *SAYS[2:], "-c", "Once", shows=r"\^\[\]0;owned", codes=(0,))
harmless("--raw", *SAYS, "-c", "/tokens", "--raw")
code, raw = shown(*SAYS, "--raw", "-c", "Once")
ok(code == 0 and b"\x1b]0;owned\x07\x1b[2J" in raw and "\u009b31m\x7f\u202e".encode() in raw, "--raw lets a reply through as it is", code, raw)
p = run(*SAYS, "-c", "Once")
ok(p.returncode == 0 and EVIL.encode() in p.stdout, "so does a pipe", p.stdout)
ok(not obeyed(p.stderr), "... but not what is said beside it", p.stderr)

# ---- drawings

for name, line in ("svg", "/route --svg %s"), ("atlas", "/atlas %s"):
    path = os.path.join(T, name)
    run(*SAYS, "-c", "Once", "-c", line % path)
    data = open(path, "rb").read()
    ok(data and not obeyed(data) and b"<script>alert" not in data, "%s: a drawing has none of it" % name, obeyed(data))
if run(*SAYS, "--raw", "-c", "Once", "-c", "/route --svg %s/raw" % T).returncode == 0:
    ok(not obeyed(open(T + "/raw", "rb").read()), "svg: nor with --raw, it is no terminal")

# ---- files that are wrong, in such words


def broken(change, base="config.json"):
    m = os.path.join(T, "broken")
    shutil.rmtree(m, ignore_errors=True)
    shutil.copytree(NANO, m)
    os.chmod(m, 0o755)
    for n in os.listdir(m):
        os.chmod(os.path.join(m, n), 0o644)
    path = os.path.join(m, base)
    if base.endswith(".json"):
        j = json.load(open(path))
        change(j)
        json.dump(j, open(path, "w"))
    else:
        change(path)
    return m


def tensors(path):
    raw = open(path, "rb").read()
    n = struct.unpack("<Q", raw[:8])[0]
    j = json.loads(raw[8:8 + n])
    j[EVIL] = {"dtype": EVIL, "shape": [1], "data_offsets": [0, 0]}
    head = json.dumps(j).encode()
    open(path, "wb").write(struct.pack("<Q", len(head)) + head + raw[8 + n:])


feed = ["-b", "ref", "-c", "/feed 1", "-c", "Once"]
for name, m in (("an architecture", lambda: broken(lambda j: j.update(model_type=EVIL))),
                ("an activation", lambda: broken(lambda j: j["ffn_config"].update(ffn_act_fn={"name": EVIL}))),
                ("a number", lambda: broken(lambda j: j.update(d_model=EVIL)))):
    harmless("%s of such a name" % name, "-m", m(), *feed)
harmless("tensors and types of such names", "-m", broken(tensors, "model.safetensors"), *feed)
harmless("... inspected", "inspect", T + "/broken")
m = broken(lambda j: j["model"]["merges"].append(EVIL), "tokenizer.json")
harmless("merges of such words", "-m", m, *feed)
m = broken(lambda j: j.update(tokenizer_class=EVIL, chat_template=EVIL), "tokenizer_config.json")
harmless("a template of nothing else", "-m", m, "-b", "ref", "-s", "mode=chat", "-s", "max_tokens=2", "-c", "/prompt", "-c", "Once", "-c", "/prompt", "-c", "/system")
m = broken(lambda p: os.unlink(p), "model.safetensors")
open(m + "/model.safetensors.index.json", "w").write(json.dumps({"weight_map": {EVIL: "../" + EVIL, "a": EVIL}}))
harmless("shards of such names", "-m", m, *feed)
s = lambda b: struct.pack("<Q", len(b)) + b
E = EVIL.encode()
gguf = lambda *kv: b"GGUF" + struct.pack("<IQQ", 3, 1, len(kv)) + b"".join(s(k) + struct.pack("<I", 8) + s(v) for k, v in kv) + s(E) + struct.pack("<IQIQ", 1, 1, 0, 0)
for name, data in (("an architecture", gguf((b"general.architecture", E))), ("keys and tensors", gguf((b"general.architecture", b"dbrx"), (b"general.name", E), (E, E))),
                   ("a type of key", b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + s(E) + struct.pack("<I", 99))):
    harmless("GGUF: %s of such a name" % name, "-m", put("x %s.gguf" % EVIL, data), *feed, shows=None, codes=(4,))
real = bytearray(open(T + "/q.gguf", "rb").read())
k = real.find(b"general.name")
ok(k > 0, "the name of a real one is found")
n = struct.unpack("<Q", real[k + 16:k + 24])[0]
real[k + 24:k + 24 + n] = (E + b"." * n)[:n]
harmless("... a real one", "-m", put("r.gguf", bytes(real)), *feed, codes=(0,))
harmless("... inspected", "inspect", T + "/r.gguf", codes=(0,))

# ---- the rest of what comes in files or has a name

harmless("a checkpoint that is not there", "-m", "/nowhere" + EVIL, *feed, codes=(4,), shows=r"/nowhere\?\]0;")
harmless("... inspected", "inspect", "/nowhere" + EVIL, codes=(4,))
for args in (["/nowhere" + EVIL], ["--" + EVIL], ["-s", EVIL], ["-s", EVIL + "=1"], ["-s", "seed=" + EVIL], ["--ctx", EVIL], ["-b", EVIL, "-c", "/feed 1"], ["-f", "/" + EVIL],
             ["-p", "/" + EVIL], ["inspect", "a", EVIL], ["inspect", "--plan", EVIL, NANO], ["tokenize", "--" + EVIL], ["detokenize", put("i", EVIL)], ["trace", "--format", EVIL],
             ["quantize", "--type", EVIL, NANO, "x"], ["compare", "ref", EVIL], ["bench", EVIL], ["perplexity", "/" + EVIL], ["--help-completion", EVIL]):
    harmless("dbrx %s" % " ".join(args).replace(EVIL, "...").replace(T, ""), *args, codes=(1, 2, 3, 4, 5))
nano = ["-m", NANO, "-b", "ref", "-s", "max_tokens=2"]
for line in ("/nosuch%s", "/load /%s", "/read /%s", "/set %s", "/set seed %s", "/help %s", "/echo %s", "/branch %s", "/backend %s", "/steer load /%s", "/ban %s", "/source /%s",
             "/save /nowhere/%s", "/feed %s", "/contrast /%s /%s", "/system %s", "%s", "/k %s", "/export %s /x"):
    harmless(line.replace("%s", "..."), *nano, "-s", "on_error=continue", "-c", line.replace("%s", EVIL.replace("\r", "")), "-c", "/transcript", "-c", "/set")
for setting, text in ("grammar", 'root ::= "a" %s' % EVIL), ("grammar", "%s ::= x" % EVIL), ("schema", json.dumps({"$ref": "#/" + EVIL})), ("schema", EVIL), ("labels", EVIL), \
        ("labels", json.dumps({"topics": [EVIL], "specialists": [{"layer": 0, "expert": 0, "topic": EVIL}]})):
    harmless("%s: %s" % (setting, text.replace(EVIL, "...")[:40]), *nano, "-s", "%s=%s" % (setting, put("rules " + EVIL, text)), "-c", "Once", "-c", "/route", "-c", "/route --list")
harmless("a script", *nano, "-f", put("script " + EVIL, "/echo %s\n/nosuch%s\n" % (EVIL, EVIL)))
harmless("a batch", *nano, "--prompts", put("prompts " + EVIL, json.dumps({"id": EVIL, "prompt": EVIL}) + "\n" + EVIL + "\n"), "--out", T + "/out " + EVIL)
harmless("steering", *nano, "-c", "/steer load " + put("steer", json.dumps({EVIL: EVIL})))
kept = os.path.join(T, "kept")
run(*SAYS, "-c", "Once", "-c", "/save " + kept)
harmless("a saved conversation", *ONE, "-c", "/load " + kept, "-c", "/transcript", "-c", "/branch", shows=r"\^\[\]0;owned")
data = open(kept, "rb").read()
for k in range(8, min(len(data), 400), 7):
    open(kept, "wb").write(data[:k] + E + data[k + len(E):])
    code, raw = shown(*ONE, "-c", "/load " + kept)
    if obeyed(raw) or code not in (0, 3):
        break
else:
    k = 0
ok(not k, "a conversation overwritten with it anywhere", k, raw if k else "")
d = os.path.join(T, "modules")
os.mkdir(d)
for text in b"no module", E:
    open(os.path.join(d, "m%s.so" % EVIL), "wb").write(text)
    harmless("a module of such a name", "-m", checkpoint("tiny-bf16"), "-b", "ref", "--module-path", d, "-c", "/backend", "-c", "/instruments", shows=r"m\^\[\]0;owned")

# ---- the editor

d = os.path.join(T, "names")
os.mkdir(d)
for n in "aa " + EVIL, "ab", "ac" + EVIL:
    open(os.path.join(d, n), "w").close()
if not LIBEDIT:
    for term in "dumb", "xterm-256color":
        s = Shell(*nano, TERM=term, NO_COLOR="1")
        s.prompt()
        at = len(s.all)
        s.send("/read %s/a\t\t" % d)
        s.read("/ab")
        s.send("\x15/echo done\r")
        s.read("done\r\n")
        s.send("/quit\r")
        s.wait()
        ok(b"owned" not in s.all[at:] and b"/ab" in s.all[at:], "%s: Tab offers the names that can be shown" % term, s.all[at:])

print("# hostile inputs tried: %d" % tried)
shutil.rmtree(T, ignore_errors=True)
finish()
