"""Steering, /ablate and /lens as people see them: views at 80 and 200 columns, with and without
colour; the mark in the prompt; a sweep that is interrupted and goes on; a damaged router.

Run by steering.sh; speaks TAP."""
import os
import re
import tempfile

from checkpoints import with_nan_router
from common import BACKEND, LILY, events, finish, lines, ok, outcome
from screen import Shell

tmp = tempfile.TemporaryDirectory()
T = tmp.name
os.environ["XDG_STATE_HOME"] = os.environ["XDG_CONFIG_HOME"] = T
ESC = re.compile(r"\x1b\[[?0-9;]*[a-zA-Z]")
EMULATED = BACKEND == "cuda-emu"           # and with fewer tokens
PLAIN = ["-b", BACKEND, "-s", "max_tokens=%d" % (2 if EMULATED else 3), "--seed", "3"]

# ---- views
VIEWS = {"/ban 3,7@0..2 12,13@-1 --omit": "steering: omit 3,7@0..2 12,13@5", "/bias 1@* +0.5": "bias 1@* +0.5",
         "/steer": "added to the router logit", "/ablate 10@3 --control 2": "KL(with || without)",
         "/ablate 1..3@1 --ban": "likeliest next", "/ablate --sweep": "routing shifted", "/lens": "likeliest",
         "/lens 4": "rank", "/lens --experts": "attention", "/help ablate": "--control N", "/help lens": "--experts"}
if EMULATED:                               # 96 experts once, as JSON below, are enough
    del VIEWS["/ablate --sweep"]
for cols in 80, 200:
    for name, env in {"colour": {}, "NO_COLOR": {"NO_COLOR": "1"}, "TERM=dumb": {"TERM": "dumb"}, "no UTF-8": {"LC_ALL": "C"}}.items():
        if (cols == 200 and name not in ("colour", "NO_COLOR")) or ((BACKEND == "ref" or EMULATED) and (cols, name) != (80, "NO_COLOR")):
            continue                       # these take their time
        s = Shell(*PLAIN, *lines("Once upon a time" if EMULATED else LILY, *[x for c in VIEWS for x in ("/echo <<<", c)]), cols=cols, **env)
        s.wait()
        text = re.sub("\r[^\r\n]*(?=\r[^\n])", "", s.all.decode("utf-8", "replace"))
        shown, bad = text.split("<<<\r\n")[1:], []
        for (command, want), out in zip(VIEWS.items(), shown):
            rows = [ESC.sub("", l).split("\r")[-1] for l in out.split("\r\n")]     # what a bar leaves
            wide = max(len(r) for r in rows if not r.startswith("control: "))
            # a sentence is not broken into lines, a table is
            if want not in "\n".join(rows) or (wide > cols and not command.startswith(("/ban", "/bias"))):
                bad.append((command, "wants " + want, [r for r in rows if len(r) > cols]))
            if "\x1b" in "".join(rows) or (name == "no UTF-8" and not out.isascii()):
                bad.append((command, "escapes or no ASCII", [r for r in rows if "\x1b" in r or not r.isascii()]))
        ok(len(shown) == len(VIEWS) and not bad, "%d columns, %s: all views" % (cols, name), bad)

# ---- the prompt says that something is on, and the status line what
s = Shell(*PLAIN)
s.expect("dbrx> $", "nothing is on: the plain prompt")
s.send("/ban 3@0\r")
s.expect(r"dbrx\*> $", "something is on: the prompt has a mark")
s.send("Lily\r")
s.expect(r"\| steered: ban 3@0 \|", "... and the status line says what")
s.expect(r"dbrx\*> $", "... and it stays")
s.send("/steer off\r")
s.expect("dbrx> $", "off: the plain prompt")

# ---- completion of sets
s.send("/ban 15@")
s.send("\t\t")
s.expect(r"15@0.*15@5", "layers are completed behind an @")
s.send("\x03")
s.expect("dbrx> $", "...")

# ---- a sweep is interrupted, and goes on
if not EMULATED:                           # it is on ref all the same, which takes its time
    s.send("/backend ref\r")
    s.expect(r"dbrx> $", "...")
    s.send("/ablate --sweep\r")
    s.expect(r"\[#*\.*\] [1-9][0-9]*/96", "a sweep has a bar")
    s.send("\x03")
    s.expect(r"interrupted: (\d+) of 96 experts are done", "Ctrl-C stops it")
    s.expect("dbrx> $", "... and the prompt is back")
    s.send("/ablate --sweep\r")
    s.expect(r"96 of 96 experts[\s\S]*dbrx> $", "it goes on to the end")
    s.quit("...")
whole = events(*PLAIN, *lines("Lily", "/ablate --sweep"))[-1]["rows"]
ok(len(whole) == 96 and [r["rank"] for r in whole] == list(range(1, 97)) and
   all(a["kl"] >= b["kl"] for a, b in zip(whole, whole[1:])), "96 experts, ranked")
alone = events(*PLAIN, *lines("Lily", "/ablate %d@%d" % (whole[5]["expert"], whole[5]["layer"])))[-2]["rows"]
figures = {r["name"]: r["value"] for r in alone}
ok(all((r["routing_shifted"] is None) == (r["layer"] == 5) for r in whole), "those of the last layer shift nothing: null")
ok(all(figures[k] == whole[5][k] for k in ("kl", "logprob_change", "used", "argmax_changed", "routing_shifted")),
   "one of them alone says the same", (figures, whole[5]))
idle = [r for r in whole if r["used"] == 0]
ok(idle and all(r["kl"] == r["logprob_change"] == r["argmax_changed"] == 0 == (r["routing_shifted"] or 0) for r in idle),
   "an expert that contributes nothing reports exactly 0 (%d of them)" % len(idle))

# ---- its arguments
with open(T + "/two.jsonl", "w") as f:
    f.write('{"text": "Once upon a time"}\n\n{"prompt": "there was   a dog"}\n')
code, out, err = outcome(*PLAIN, *lines("/ablate 3@-1 --zero --against %s/two.jsonl" % T))
ok(code == 0 and "of %s/two.jsonl" % T in out and "control" not in out and re.search(r"later layers, of choices +none\n", out),
   "texts of a .jsonl; --zero may be said; no controls, no column for them; the last layer shifts none", code, out, err)
rows = events(*PLAIN, *lines("/ablate 3@-1 10@3 --against %s/two.jsonl" % T))
texts = []
for text in "Once upon a time", "there was   a dog":
    with open(T + "/one.txt", "w") as f:
        f.write(text)
    texts.append(events(*PLAIN, *lines("/ablate 3@-1 10@3 --against %s/one.txt" % T)))
ok(rows[-2]["texts"] == 2 and all({k: v for k, v in r.items() if k != "in_text"} == {k: v for k, v in t.items() if k != "in_text"}
                                  for r, t in zip(rows[-1]["rows"], texts[0][-1]["rows"] + texts[1][-1]["rows"], strict=True)),
   "the texts of a .jsonl are contexts of their own", rows, texts)
ok([r["in_text"] for r in rows[-1]["rows"]] == [0] * texts[0][-2]["tokens"] + [1] * texts[1][-2]["tokens"], "... and each token says whose it is")
last = events(*PLAIN, *lines("Lily", "/ablate 3@-1 --control 2"))[-2]
none = [r for r in last["rows"] if r["name"] == "routing_shifted"][0]
ok(none["value"] is None is none["control_mean"] is none["control_sd"] and last["shifted"] == [None] * 6,
   "behind the last layer there is nothing to shift: null", last)
shift = events(*PLAIN, *lines(LILY, "/ablate 10,7,8@1"))[-2]["shifted"]
ok(shift[:2] == [None] * 2 and None not in shift[2:] and max(shift[2:]) > 0, "... nor up to the first ablated one", shift)
code, out, err = outcome(*PLAIN, *lines("/ablate 3@1 --zero --omit --against %s/two.jsonl" % T))
ok(code == 3 and "choose one" in err, "two meanings of without are refused", err)
code, out, err = outcome(*PLAIN, *lines("/feed 1 2", "/route -1 --load --list"))
ok(code == 3 and "--load is of the map" in err, "/route --load has no list", err)

# ---- the lens, as JSON
lens = events(*PLAIN, *lines(LILY, "/lens 5", "/lens 5 --experts --top 4"))
layers, shares = lens[-2], lens[-1]
ok([r["layer"] for r in layers["rows"]] == list(range(-1, 6)) and layers["rows"][-1]["rank"] == 1 and
   layers["rows"][-1]["top"][0]["id"] == layers["final"]["id"], "a row for each layer, the last is the model's")
total = [sum(r["share"][k] for r in shares["rows"][:-1]) for k in range(4)]
ok(shares["rows"][-1]["part"] == "sum" and all(abs(a - b) < 1e-3 for a, b in zip(total, shares["rows"][-1]["share"])),
   "the shares add up", (total, shares["rows"][-1]))

# ---- a router that gives no number
with_nan_router(T + "/nan", 1)
code, out, err = outcome("-m", T + "/nan", "-b", BACKEND, "-s", "on_error=continue",
                         *lines("/feed 5 6 7", "/ban 3@0", "/feed 5 6 7", "/ablate 3@0", "/steer"))
ok(code == 3 and "no number" in err and "router of layer 1" in err and "ban 3@0" in out,
   "a damaged router is an error in a sentence, and the steering stays", (code, out, err))
finish()
