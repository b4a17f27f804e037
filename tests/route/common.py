"""What files.py and views.py share: TAP, runs of the program, checkpoints that are broken."""
import json
import os
import shutil
import struct
import subprocess
import sys

DBRX, SRC = os.environ["DBRX"], os.environ["srcdir"]
LILY = "Once upon a time, there was a little girl named Lily."
count = failed = 0


def ok(good, name, *seen):
    global count, failed
    count += 1
    failed += not good
    print("%sok %d - %s" % ("" if good else "not ", count, name))
    for s in seen if not good else ():
        print("# %s" % str(s)[:2000].replace("\n", "\n# "))
    sys.stdout.flush()
    return good


def finish():
    print("1..%d" % count)
    sys.exit(failed != 0)


def run(*args, **kw):
    """Exit code, stdout, stderr."""
    p = subprocess.run([DBRX, *args], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                       timeout=600, **kw)
    return p.returncode, p.stdout.decode("utf-8", "replace"), p.stderr.decode("utf-8", "replace")


def lines(*commands):
    return [x for c in commands for x in ("-c", c)]


def events(*args, **kw):
    return [json.loads(line) for line in run("--json", *args, **kw)[1].splitlines()]


def checkpoint(name):
    return os.path.join(SRC, "tests/data", name)


def with_nan_router(to, layer):
    """A copy of tiny-bf16 whose router at that layer is no number."""
    shutil.copytree(checkpoint("tiny-bf16"), to)
    path = os.path.join(to, "model.safetensors")
    os.chmod(to, 0o755)
    os.chmod(path, 0o644)
    data = bytearray(open(path, "rb").read())
    n = struct.unpack("<Q", data[:8])[0]
    head = json.loads(data[8:8 + n])
    begin, end = head["transformer.blocks.%d.ffn.router.layer.weight" % layer]["data_offsets"]
    for i in range(8 + n + begin, 8 + n + end, 2):
        data[i:i + 2] = b"\xc0\x7f"
    open(path, "wb").write(data)
