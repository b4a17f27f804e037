"""Modules from nowhere: every .so that is none, or a bad one, is refused in a sentence, and the
shell goes on with those that are good.

Run by modules.sh; speaks TAP.  Modules are built with $CC."""
import os
import re
import shutil
import subprocess
import tempfile

from checkpoints import checkpoint
from common import DBRX, SRC, finish, lines, ok, outcome, skip

CC, MODULES = os.environ.get("CC", "cc"), os.environ["MODULES"]
T = tempfile.mkdtemp(prefix="dbrx-modules-")
HOME = os.path.join(T, "home")
os.mkdir(HOME)
ENV = {k: v for k, v in os.environ.items() if not k.startswith(("XDG_", "DBRX_MODULE"))}
ENV["HOME"] = HOME
KNOWN = os.path.join(HOME, ".local/state/dbrx/modules")
GOOD = r"""
#include "plugins/abi.h"
#include "backends/backend.h"
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
static dbrx_status probe(const struct dbrx_host *h, struct dbrx_probe *p, struct dbrx_error *e)
{ (void)h; (void)e; BODY; snprintf(p->reason, sizeof p->reason, "it is only here to be looked at"); p->score = 0; return DBRX_OK; }
static dbrx_status none() { return DBRX_E_UNSUPPORTED; }
static const struct dbrx_backend table = { .struct_size = sizeof table, .probe = probe, .model_open = (void *)none,
  .session_open = (void *)none, .eval = (void *)none, .truncate = (void *)none };
static const void *get(const char *id) { GET; return id[5] == 'b' ? &table : 0; }
DBRX_EXPORT const struct dbrx_module_info dbrx_module = { sizeof dbrx_module, DBRX_ABI_MAJOR, 0, "NAME", "1", "a test", get };
"""


def folder(name, mode=0o755):
    path = os.path.join(T, name)
    os.mkdir(path)
    os.chmod(path, mode)
    return path


def build(where, name, source=GOOD, body="", get="", flags=()):
    c = os.path.join(T, name + ".c")
    open(c, "w").write(source.replace("BODY", body).replace("GET", get).replace("NAME", name))
    p = subprocess.run([*CC.split(), "-w", "-shared", "-fPIC", "-O1", *flags, "-I" + SRC, "-o", "%s/%s.so" % (where, name), c],
                       stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if p.returncode:
        print("# " + p.stdout.decode("utf-8", "replace").replace("\n", "\n# "))
    return os.path.join(where, name + ".so")


def listed(where, *more, env=ENV, cwd="/"):
    """Exit code, all of /backend's text on one line."""
    code, out, err = outcome("-m", checkpoint("tiny-bf16"), "-b", "ref", *(("--module-path", where) if where else ()), *more,
                             "-c", "/backend", "-c", "/feed 1", env=env, cwd=cwd)
    return code, re.sub(r"\s+", " ", out + err)


# those that never come back: waited for while all else is tried
hanging = []
for name, body in (("asleep", "for (;;) pause()"), ("busy", "for (volatile int i = 0;; i++) ;"), ("deaf", "signal(SIGALRM, SIG_IGN); for (;;) pause()")):
    d = folder(name)
    build(d, name, source="#include <signal.h>\n" + GOOD, body=body)
    hanging.append((name, subprocess.Popen(
        [DBRX, "-m", checkpoint("tiny-bf16"), "-b", "ref", "--module-path", d, "-c", "/backend", "-c", "/feed 1"], env=ENV, cwd="/",
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)))


def refused(name, where, word, **kw):
    code, text = listed(where, **kw)
    return ok(code == 0 and re.search(word, text) and "fed 1 token" in text, name, code, text)


d = folder("files")
open(d + "/text.so", "w").write("I am a module, trust me.\n" * 100)
open(d + "/empty.so", "w")
open(d + "/magic.so", "wb").write(b"\x7fELG" + open(MODULES + "/ref.so", "rb").read()[4:])
os.mkdir(d + "/folder.so")
os.mkfifo(d + "/pipe.so")
os.symlink("/nowhere/at/all.so", d + "/link.so")
code, text = listed(d)
for name in "text", "empty", "magic", "folder", "pipe", "link":
    ok(code == 0 and "%s.so cannot be loaded" % name in text, "%s.so is none, which is said" % name, code, text)

ref = open(MODULES + "/ref.so", "rb").read()
d = folder("cut")
for k in range(1, 16):
    open(d + "/cut%d.so" % k, "wb").write(ref[:len(ref) * k // 16])
code, text = listed(d)
ok(code == 0 and len(re.findall(r"cut\d+.so (?:cannot be loaded|calls itself)", text)) == 15 and text.count("truncated") > 3, "a module cut off at any of 15 places", code, text)
d = folder("changed")
for k in range(24):
    data = bytearray(ref)
    for i in range(8):
        data[(k * 7919 + i * 104729) % 4096 if k % 2 else (k * 7919 + i * 104729) % len(ref)] ^= 1 << i
    open(d + "/changed%d.so" % k, "wb").write(data)
code, text = listed(d)
ok(code == 0 and "fed 1 token" in text, "24 modules with eight bits wrong", code, text)

plain = '#include "plugins/abi.h"\n'
d = folder("tables")
build(d, "nothing", "int x;")
build(d, "code", "__attribute__((visibility(\"default\"))) int dbrx_module(void) { return 1; }")
build(d, "short", "__attribute__((visibility(\"default\"))) const unsigned dbrx_module = 48;")
build(d, "long", GOOD.replace("{ sizeof dbrx_module, DBRX", "{ 1u << 31, DBRX"))
build(d, "old", GOOD.replace("DBRX_ABI_MAJOR", "77"))
build(d, "lost", GOOD.replace('"1", "a test"', '(char *)1, "a test"'))
build(d, "other", GOOD.replace('"NAME"', '"another"'))
build(d, "null", GOOD.replace('"a test", get', '"a test", 0'))
build(d, "needs", GOOD.replace("BODY", "extern int nobody_has_this(void); nobody_has_this()"))
code, text = listed(d)
for name, word in (("nothing", "exports no dbrx_module"), ("code", "is not data"), ("short", "has 4 bytes"), ("long", "says that it has"),
                   ("old", "speaks module ABI 77"), ("lost", "crashed when it was tried"), ("other", "calls itself"), ("null", "incomplete"),
                   ("needs", "undefined symbol")):
    ok(code == 0 and re.search(r"%s\.so [^|]*?%s" % (name, word), text), "%s.so: %s" % (name, word), code, text)

for name, body, get, word in (("crash", "*(volatile int *)8 = 1", "", "crashed when it was tried .Segm"), ("abort", "abort()", "", "crashed when it was tried .Abort"),
                              ("leave", "exit(7)", "", r"ended the process that tried it .exit code 7"),
                              ("ask", "", "*(volatile int *)8 = 1", "crashed when it was tried .Segm")):
    d = folder(name)
    build(d, name, body=body, get=get)
    refused("a module that does %s when it is asked" % name, d, word)
    again = listed(d)[1]
    ok(re.search(word, again), "... and so it does the next time", again)
d = folder("begin")
build(d, "begin", "__attribute__((constructor)) static void f(void) { *(volatile int *)8 = 1; }\n" + GOOD)
refused("a module that crashes before it is asked anything", d, "crashed when it was tried")
d = folder("loud")
build(d, "loud", body='write(1, "\\033[31mhello", 10)')
code, text = listed(d)
ok(text.count("hello") <= 1, "a module that writes when it is tried is not heard", text)

# tried once, remembered by its content
if os.path.exists(KNOWN):
    os.unlink(KNOWN)                       # changed.so: those that still are modules
d = folder("good")
count = os.path.join(T, "count")
build(d, "good", body='FILE *f = fopen("%s", "a"); if (f) { fputs("x", f); fclose(f); }' % count)
runs = []
for i in range(3):
    code, text = listed(d)
    runs.append(len(open(count).read()))
ok(code == 0 and "only here to be looked at" in text, "a good one is listed", text)
ok(runs[0] - (runs[2] - runs[1]) == 1 and runs[1] - runs[0] == runs[2] - runs[1], "... and tried once", runs)
ok(os.stat(KNOWN).st_mode & 0o777 == 0o600 and re.fullmatch(r"[0-9a-f]{16} \d+\n", open(KNOWN).read()), "... which is kept, for us alone",
   open(KNOWN).read())
build(d, "good", body='FILE *f = fopen("%s", "a"); if (f) { fputs("y", f); fclose(f); }' % count)
listed(d)
ok(open(KNOWN).read().count("\n") == 2, "another build is another module")
code, text = listed(d, env={k: v for k, v in ENV.items() if k != "HOME"})
ok(code == 0 and "only here to be looked at" in text, "without a home nothing is remembered, and all works", code, text)

# who may write where modules are
d = folder("open", 0o777)
build(d, "good")
refused("a folder that anybody can write to", d, "anybody can write to its folder; chmod o-w, or dbrx --allow-insecure-modules")
code, text = listed(d, "--allow-insecure-modules")
ok(code == 0 and "only here to be looked at" in text, "... unless it is insisted", code, text)
os.chmod(d, 0o1777)
refused("... sticky or not", d, "anybody can write to its folder")
linked = folder("linked")
os.symlink(os.path.join(d, "good.so"), linked + "/good.so")
refused("a link to where anybody can write", linked, "anybody can write to the folder that it is a link to")
d = folder("shut")
os.chmod(build(d, "good"), 0o666)
refused("a file that anybody can write to", d, "anybody can write to it")

# every program within the program
prompts = os.path.join(T, "prompts")
open(prompts, "w").write('{"tokens":[1,2]}\n')
for tool in ["bench", "good", "--prompt", "2", "--gen", "1"], ["trace", "-b", "good", "--prompts", prompts, "--out", T + "/traced"], ["perplexity", "-b", "good", prompts], \
        ["compare", "--prompts", prompts, "ref", "good"], ["inspect", "--plan", "good", checkpoint("tiny-bf16")]:
    where = {**ENV, "DBRX_MODULE_PATH": T + "/open"}
    model = ["-m", checkpoint("tiny-bf16")] if tool[0] != "inspect" else []
    code, out, err = outcome(*tool, *model, env=where)
    ok(code in (1, 2, 3, 5) and "only here to be looked at" not in out + err, "dbrx %s takes none either" % tool[0], code, out, err)
    if model:
        code, out, err = outcome(*tool, *model, "--allow-insecure-modules", env=where)
        ok(code in (1, 3, 5) and "was not loaded" not in err, "... unless it is insisted", code, out, err)

for name, p in hanging:
    try:
        text = re.sub(r"\s+", " ", p.communicate(timeout=300)[0])
    except subprocess.TimeoutExpired:
        p.kill()
        text = "it hangs: " + p.communicate()[0]
    ok(p.returncode == 0 and re.search(r"%s\.so was not loaded: it did not come back within 30 seconds" % name, text) and "fed 1 token" in text,
       "a module that hangs when it is asked (%s)" % name, p.returncode, text)

# never from where we are
d = folder("here")
build(d, "intruder")
code, text = listed(None, cwd=d)
ok(code == 0 and "intruder" not in text, "nothing is taken from the current folder", text)
code, text = listed(None, cwd=d, env={**ENV, "DBRX_MODULE_PATH": "."})
ok(code == 0 and "intruder" not in text, "... not even if the environment says so", text)
code, out, err = outcome("-m", checkpoint("tiny-bf16"), "-b", "./intruder.so", "-c", "/feed 1", env=ENV, cwd=d)
ok(code == 5 and "there is no backend" in err, "... nor by its path", code, err)

shutil.rmtree(T, ignore_errors=True)
finish()
