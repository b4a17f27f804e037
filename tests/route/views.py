"""What people see of the routing: maps and coloured text on terminals of 80 and 200 columns, in
24 bits of colour, 256 colours and none, against the numbers of /export route.

Run by views.sh; speaks TAP."""
import json
import os
import re
import tempfile

import numpy as np

from checkpoints import random_model
from common import BACKEND, LILY, finish, lines, ok, run
from screen import Shell

tmp = tempfile.TemporaryDirectory()
T = tmp.name
os.environ["XDG_STATE_HOME"] = os.environ["XDG_CONFIG_HOME"] = T
ESC = re.compile(r"\x1b\[[?0-9;]*[a-zA-Z]")
wide = T + "/wide"
random_model(wide, 40)


def all_seen(commands, *args, **kw):
    """What each command prints at a terminal, line by line."""
    marked = [x for c in commands for x in ("/echo <<<", c)]
    s = Shell("-b", BACKEND, "-s", "max_tokens=1", "--seed", "3", *args, *lines(LILY, *marked), **kw)
    s.wait()
    text = re.sub("\r[^\r\n]*(?=\r[^\n])", "", s.all.decode("utf-8", "replace"))    # progress that was erased
    return [[l.lstrip("\r") for l in part.split("\r\n")[:-1]] for part in text.split("<<<\r\n")[1:]]


def seen(command, *args, **kw):
    return all_seen([command], *args, **kw)[0]


def numbers(rows):
    """{row name: its numbers} of a map without colour."""
    return {r.split()[0]: [float(x) for x in r.split()[1:]] for r in rows}


# ---- a legend explains what is in the cells: numbers, or ink
narrow, inky = seen("/route", NO_COLOR="1"), seen("/route", "-m", wide, NO_COLOR="1")
ok(any(re.match(r"weight 0 to 1  ", l) for l in narrow) and "..:" not in "".join(narrow), "numbers in the cells: no ink in the legend", narrow[-3:])
ok(any("..::--==++**##%%@@" in l for l in inky), "ink in the cells: ink in the legend", inky[-3:])

# ---- whatever the terminal: no line too long, no colour where there is none, always a legend
VIEWS = {"/route": "entropy 0 to 4", "/route *": "weight 0 ", "/route -5.. --layer 3": "weight 0 ", "/route --prob": "probability 0",
         "/route --logits": "logit -", "/route --load *": "load 0 ", "/route --tokens": "by the heaviest expert at layer",
         "/route 2 --layer 1": "weight 0 ", "/route --list 1,3": "margin", "/route --tokens 3.. --layer 0": "at layer 0"}
TERMINALS = {"256 colours": {}, "true colour": {"COLORTERM": "truecolor"}, "NO_COLOR": {"NO_COLOR": "1"}, "TERM=dumb": {"TERM": "dumb"},
             "no UTF-8": {"LC_ALL": "C"}}
for cols in 80, 200:
    for name, env in TERMINALS.items():
        for model in ([], ["-m", wide]):
            bad = []
            shown = all_seen(VIEWS, *model, cols=cols, **env)
            for (command, want), out in zip(VIEWS.items(), shown):
                flat = [ESC.sub("", l) for l in out]
                colour = any("\x1b[" in l for l in out)
                if max(map(len, flat)) > cols or want not in "\n".join(flat) or "\x1b" in "".join(flat):
                    bad.append((command, max(map(len, flat)), flat[:3]))
                if name in ("NO_COLOR", "TERM=dumb") and colour or \
                   name not in ("NO_COLOR", "TERM=dumb") and not colour and "--list" not in command:
                    bad.append((command, "colour", out[:3]))
                if name == "true colour" and colour != ("48;2;" in "".join(out)):
                    bad.append((command, "depth"))
                if name == "no UTF-8" and not "".join(flat).isascii():
                    bad.append((command, "not ASCII", flat))
            ok(len(shown) == len(VIEWS) and not bad, "%d columns, %s, %s: all views" % (cols, name, "40 layers" if model else "nano"), *bad)

# ---- on a screen of 80x24 the whole map of 40 layers is seen, with the command and the next prompt
out = seen("/route", "-m", wide, cols=80)
ok(len(out) <= 22, "the map of one token at 40 layers fits 24 lines", len(out))

# ---- the numbers of a map are those that are exported
run("-b", BACKEND, "-s", "max_tokens=1", "--seed", "3", *lines(LILY, '/export route "%s/a.npz"' % T))
a = dict(np.load(T + "/a.npz"))
L, n, k = a["expert"].shape
dense = np.zeros((L, n, 16))
np.put_along_axis(dense, a["expert"].astype(np.int64), a["weight"], 2)
chosen = dense > 0
got = numbers(l for l in seen("/route 5", cols=200, NO_COLOR="1") if re.match("e[0-9]|margin|entropy", l))
ok(all(np.allclose(got["e%d" % e], [w for w in dense[:, 5, e] if w], atol=0.0051) for e in range(16)) and
   np.allclose(got["margin"], a["margin"][:, 5], atol=0.0051) and np.allclose(got["entropy"], a["entropy"][:, 5], atol=0.0051),
   "one token: weights, margin, entropy", got)
got = numbers(l for l in seen("/route 2..8 --load", cols=200, NO_COLOR="1") if re.match("e[0-9]|margin|entropy", l))
load = chosen[:, 2:9].mean(1)
ok(all(np.allclose(got["e%d" % e], [x for x in load[:, e] if x], atol=0.0051) for e in range(16)) and
   np.allclose(got["entropy"], a["entropy"][:, 2:9].mean(1), atol=0.0051), "a range: load", got)
got = numbers(l for l in seen("/route 2..8", cols=200, NO_COLOR="1") if re.match("e[0-9]|margin|entropy", l))
mean = dense[:, 2:9].mean(1)
ok(all(np.allclose(got["e%d" % e], [x for x in mean[:, e] if x], atol=0.0051) for e in range(16)), "a range: mean weight", got)
got = numbers(l for l in seen("/route * --logits", cols=200, NO_COLOR="1") if re.match("e[0-9]", l))
ok(all(np.allclose(got["e%d" % e], a["router_logit"][:, :, e].mean(1), atol=0.0051) for e in range(16)), "mean logits", got)
got = [l for l in seen("/route 4..9 --layer 2 --prob", cols=200, NO_COLOR="1") if re.match('[0-9]+ "', l)]
got = np.array([[float(x) for x in l.rsplit('"', 1)[1].split()] for l in got])
ok(got.shape == (6, 18) and np.allclose(got[:, :16], a["router_prob"][2, 4:10], atol=0.0051) and
   np.allclose(got[:, 16], a["margin"][2, 4:10], atol=0.0051) and np.allclose(got[:, 17], a["entropy"][2, 4:10], atol=0.0051),
   "tokens at one layer: probabilities, margin, entropy", got)
got = [l for l in seen("/route 5 --list", cols=80, NO_COLOR="1") if re.match("L[0-9]", l)]
got = [[(int(e), float(w)) for e, w in re.findall(r"e(\d+) +([0-9.]+)", l)] for l in got]
ok([[e for e, w in l] for l in got] == a["expert"][:, 5].tolist() and
   np.allclose([[w for e, w in l] for l in got], a["weight"][:, 5], atol=0.0051), "--list", got)

# ---- many tokens: a row for several, and nothing is computed again unless it is asked for
LONG = " ".join([LILY] * 20)
run("-b", BACKEND, "-s", "max_tokens=1", "--seed", "3", *lines(LONG, '/export route "%s/b.npz"' % T))
b = dict(np.load(T + "/b.npz"))
n = b["expert"].shape[1]
views = "/route *", "/route * --margin", "/route 0..209 --layer 1", "/route 3,9,150..151,210 --margin", "/route * --tokens"
s = Shell("-b", BACKEND, "-s", "max_tokens=1", "--seed", "3", *lines(LONG, *(x for c in views for x in ("/echo <<<", c))), NO_COLOR="1")
s.wait()
every, margin, rows, some, text = [part.split("\r\n")[:-1] for part in s.all.decode().split("<<<\r\n")[1:]]
ok(n > 200 and "--margin" in every[-1] and not any(l.startswith("margin ") and "have" not in l for l in every) and "--margin" not in "".join(text),
   "a map of many tokens: what is recorded, and how to have the rest", every[-3:])
got = numbers(l for l in margin if re.match("margin|entropy", l))
ok(np.allclose(got["margin"], b["margin"].mean(1), atol=0.0051) and np.allclose(got["entropy"], b["entropy"].mean(1), atol=0.0051) and
   [l.split() for l in margin[1:18]] == [l.split() for l in every[1:18]], "--margin: the means of all tokens, and the same weights", margin)
dense = np.zeros((210, 16))
np.put_along_axis(dense, b["expert"][1, :210].astype(np.int64), b["weight"][1, :210], 1)
names = [l.split()[0] for l in rows[2:-2]]
cells = [[100 * x for x in dense[i:i + 4].mean(0) if x] for i in range(0, 210, 4)]
ok(names == ["%d..%d" % (i, min(i + 3, 209)) for i in range(0, 210, 4)] and "4 tokens a row" in rows[0] and
   all(np.allclose([float(x) for x in l.split()[1:]], want, atol=0.51) for l, want in zip(rows[2:-2], cells)),
   "more than 200 tokens at a layer: a row for several, their mean", rows)
got, at = numbers(l for l in some if re.match("margin|entropy", l)), [3, 9, 150, 151, 210]
ok(np.allclose(got["margin"], b["margin"][:, at].mean(1), atol=0.0051) and np.allclose(got["entropy"], b["entropy"][:, at].mean(1), atol=0.0051),
   "tokens far apart are computed each where it is", some)

# ---- the colour of a cell is its number's
run("-b", BACKEND, "-s", "max_tokens=1", "--seed", "3", *lines(LILY, '/atlas "%s/a.html"' % T))
scale = json.loads(re.search(r'id="data">(.*?)</script>', open(T + "/a.html", encoding="utf-8").read(), re.S)[1])["scale"]
worst = 0
for line in seen("/route 5", cols=80, COLORTERM="truecolor"):
    for r, g, b, text in re.findall(r"48;2;(\d+);(\d+);(\d+)m([^\x1b]*)", line) if line.startswith("e") and line[1].isdigit() else ():
        at = float(text) * 32              # of 33 steps; the colour is between the two nearest
        lo, hi = scale[int(at)], scale[min(32, int(at) + 1)]
        for i, v in enumerate((r, g, b)):
            x = [int(s[1 + 2 * i:3 + 2 * i], 16) for s in (lo, hi)]
            worst = max(worst, min(x) - int(v), int(v) - max(x))
ok(worst <= 4, "true colour: cells have the colour of their number", worst)

# ---- the text and its letters
flat = seen("/route * --tokens --layer 4", cols=80, NO_COLOR="1")
text, marks = flat[1], flat[2]
top, at, bad = a["expert"][4, :, 0], 0, []
for t, word in enumerate(a["text"]):
    if text[at:at + len(word)] != word or (marks + " " * 80)[at] != "0123456789abcdef"[top[t]]:
        bad.append((t, word))
    at += len(word)
ok(not bad and text == "".join(a["text"]), "--tokens: the text, and below each token its expert's letter", bad, text, marks)
key = dict(re.findall(r"= e(\d+) (\d+)", " ".join(flat[3:])))
ok({int(e): int(c) for e, c in key.items()} == {int(e): int((top == e).sum()) for e in set(top)}, "... and how many chose each", flat, top)

# ---- more layers than columns, more experts than colours, text that is no ASCII
many = T + "/many"
random_model(many, 100, experts=40, top_k=7, d=16, ffn=8)
commands = "/route", "/route * --layer 2", "/route --tokens", "/route --list 3 --layer 1"
for command, out in zip(commands, all_seen(commands, "-m", many, cols=80)):
    flat = [ESC.sub("", l) for l in out]
    ok(max(map(len, flat)) <= 80 and len(flat) > 2, "100 layers of 40 experts at 80 columns: " + command, flat)
s = Shell("-b", BACKEND, "-s", "max_tokens=1", *lines("日本語 é \t 한국어\nzwei", "/route *  --tokens", "/route * --layer 1", "/route"), cols=40)
code = s.wait()
ok(code == 0 and "entropy 0 to 4" in s.all.decode("utf-8", "replace"), "text that is no ASCII at 40 columns", code, s.all[-500:])
finish()
