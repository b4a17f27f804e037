"""kill -9 at random moments: of a save, of quantize, of a batch.  What was there is there, whole;
the same command again gives what an undisturbed run gives.

    kill.py [TIMES [SEED]]      (make check: few)

Run by kill.sh; speaks TAP."""
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time

from checkpoints import checkpoint
from common import DBRX, SRC, finish, ok, outcome, run

TIMES = int(sys.argv[1]) if len(sys.argv) > 1 else 400 if os.environ.get("DBRX_LONG") else 6
random.seed(int(sys.argv[2]) if len(sys.argv) > 2 else 1)
T = tempfile.mkdtemp(prefix="dbrx-kill-")
NANO, TINY = os.path.join(SRC, "models/nano"), checkpoint("tiny-bf16")


def killed(args, most):
    """Starts it, kills it within `most` seconds; was it still there?"""
    p = subprocess.Popen([DBRX, *map(str, args)], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(random.random() * most)
    p.kill()
    return p.wait() == -9


def took(args):
    t = time.time()
    p = run(*args)
    return time.time() - t, p.returncode


# a session saved over another, again and again in one process
save = T + "/s"
one = ["-m", TINY, "-b", "ref", "--ctx", "256"]
many = [x for i in range(40) for x in ("-c", "/feed %d" % (i + 10), "-c", "/save %s --kv" % save)]
most, code = took([*one, "-c", "/feed 1 2 3", *many])
ok(code == 0, "a session is saved 40 times", code)
hit, bad = 0, []
for i in range(TIMES):
    hit += killed([*one, "-c", "/feed 1 2 3", *many], most)
    code, out, err = outcome(*one, "-c", "/load " + save, "-c", "/tokens")
    ids = [x.split()[1] for x in out.splitlines() if x.split() and x.split()[0].isdigit()]
    if code or len(ids) < 3 or ids[:3] != ["1", "2", "3"]:
        bad.append((code, out[-200:], err[-200:]))
ok(not bad and hit, "%d of %d killed while they saved: the file loads every time" % (hit, TIMES), *bad[:3])

# quantize over a good file
os.mkdir(T + "/good")
good, out = T + "/good/q.gguf", T + "/q.gguf"      # the name is in the file
args = ["quantize", "--type", "q8_0", NANO]
most, code = took([*args, good])
shutil.copyfile(good, out)
want = open(good, "rb").read()
hit = 0
for i in range(TIMES):
    hit += killed([*args, out], most)
    bad += [] if open(out, "rb").read() == want else [i]
code = run(*args, out).returncode
ok(code == 0 and not bad and hit and open(out, "rb").read() == want, "%d of %d killed while they quantised: the older file is whole, again gives the same" % (hit, TIMES),
   code, bad)
os.mkdir(T + "/fresh")
fresh = T + "/fresh/q.gguf"
for i in range(TIMES):
    hit += killed([*args, fresh], most)
    if os.path.exists(fresh):
        bad += [] if open(fresh, "rb").read() == want else [i]
        os.unlink(fresh)
ok(not bad, "... a new one is there whole or not at all", bad)

# a batch goes on where it was killed
prompts, results, clean = T + "/p.jsonl", T + "/r.jsonl", T + "/c.jsonl"
with open(prompts, "w") as f:
    for i in range(20):
        f.write(json.dumps({"id": "p%d" % i, "prompt": "Once upon a time, number %d" % i}) + "\n")
args = ["-m", NANO, "-b", "cpu-blas", "-s", "max_tokens=12", "--seed", "5", "--threads", "1", "--prompts", prompts, "--out"]
most, code = took([*args, clean])
want = sorted(open(clean).read().splitlines())
hit = lost = 0
before = set()
for i in range(TIMES):
    hit += killed([*args, results], most / 3)
    now = set(open(results).read().split("\n")[:-1]) if os.path.exists(results) else set()
    lost += not before <= now
    before = now
    if len(now) >= 20:
        os.unlink(results)
        before = set()
code = run(*args, results).returncode
got = sorted(open(results).read().splitlines())
keep = lambda rows: [{k: v for k, v in json.loads(r).items() if k in ("id", "text", "tokens", "finish_reason")} for r in rows]
ok(code == 0 and not lost and hit and keep(got) == keep(want), "%d of %d batches killed: no whole line lost, the end is that of an undisturbed run" % (hit, TIMES),
   code, lost, got[:1], want[:1])
left = [x for x in os.listdir(T) if not x.startswith((".", "s.", "q.gguf."))]
ok(set(left) <= {"s", "good", "fresh", "q.gguf", "p.jsonl", "r.jsonl", "c.jsonl"}, "nothing else stays but temporary files of who was killed", left)
print("# kills: %d" % hit)
shutil.rmtree(T, ignore_errors=True)
finish()
