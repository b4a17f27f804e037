"""What the tests in Python share: TAP, and runs of the program that end by themselves (screen.py
has those on a terminal).  Knows nothing of what is tested."""
import json
import os
import subprocess
import sys

DBRX, SRC = os.environ["DBRX"], os.environ["srcdir"]
BACKEND = os.environ.get("BACKEND", "ref")            # what the suite runs on (each.sh); a script that
OTHER = "cpu-blas" if BACKEND == "ref" else "ref"     # names another has a reason, and says so
LILY = "Once upon a time, there was a little girl named Lily."
count = failed = 0


def ok(good, name, *seen):
    """One check; what was seen is shown when it fails, of a long text both ends.  Returns good."""
    global count, failed
    count += 1
    failed += not good
    print("%sok %d - %s" % ("" if good else "not ", count, name))
    for s in map(str, () if good else seen):
        s = s if len(s) <= 2000 else s[:1000] + " [...] " + s[-1000:]
        print("# " + s.replace("\n", "\n# "))
    sys.stdout.flush()
    return good


def skip(name):
    global count
    count += 1
    print("ok %d # SKIP %s" % (count, name))


def finish():
    print("1..%d" % count)
    sys.exit(failed != 0)


def run(*args, **kw):
    """The ended process, its output in bytes."""
    return subprocess.run([DBRX, *map(str, args)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, timeout=900, **kw)


def outcome(*args, **kw):
    """Exit code, stdout, stderr, whatever bytes there are."""
    p = run(*args, **kw)
    return p.returncode, p.stdout.decode("utf-8", "replace"), p.stderr.decode("utf-8", "replace")


def events(*args, **kw):
    """The objects of a --json run; strict about lines and UTF-8."""
    return [json.loads(line) for line in run(*args, "--json", **kw).stdout.decode("utf-8").splitlines()]


def lines(*commands):
    return [x for c in commands for x in ("-c", c)]
