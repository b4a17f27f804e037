"""Instruments that get things wrong: each is said in a sentence, and the conversation goes on.

Run by misfits.sh; speaks TAP."""
import json
import os
import re
import subprocess
import tempfile

import common
from common import BACKEND, finish, ok


def build(to, name, how):
    subprocess.run([*os.environ["CC"].split(), "-std=c11", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC",
                    "-I" + os.environ["srcdir"], '-DMISFIT="%s"' % name, "-D" + how, "-o", "%s/%s.so" % (to, name),
                    os.environ["srcdir"] + "/tests/instruments/misfit.c"], check=True)


# what the command says; what /instruments says of it; what else is said; does the command work?
CASES = {
    "MANY_ROWS": (r"/misfit-cmd: it handed over more than 200000 cells", "on .*wrong", None),
    "MANY_TABLES": (r"/misfit-cmd: it handed over more than 200000 cells", "on .*wrong", None),
    "MANY_NOTES": (r"/misfit-cmd: it handed over more than 200000 cells", "on .*wrong", None),
    "LONG_TEXTS": (r"/misfit-cmd: it handed over more than 200000 cells", "on .*wrong", None),
    "NOTHING_THERE": (None, "on .*wrong", "handed over rows that are wrong: a table without a proper name or columns"),
    "SILENT": (r"/misfit-cmd does not work: .* has failed: it does not say why", "failed .*not say why",
               "the instrument misfit has failed and is told nothing more: it does not say why"),
    "ODD_STATUS": (r"/misfit-cmd: it does not say why", "on .*wrong", None),
    "ENDLESS_SENTENCE": (r"/misfit-cmd: x{200}", "on .*wrong", None),
    "WRONG_ABI": (r"there is no command /misfit-cmd", None, None),
    "FAILS_TO_OPEN": (r"/misfit-cmd does not work: .* could not be opened: the moon is not full", "not usable .*moon", None),
    "FAILS_LATER": (r"/misfit-cmd does not work: .* has failed: three are enough", "failed .*three",
                    "the instrument misfit has failed and is told nothing more: three are enough"),
    "HUGE_ROWS": (r"/misfit-cmd: it handed over more than 200000 cells", "on .*wrong", None),
    "HUGE_STRIP": (r"/misfit-cmd: it handed over more than 200000 cells", "on .*wrong", None),
    "NOT_NUMBERS": (None, "on .*wrong", None),
    "LOST_CELLS": (None, "on .*wrong", "handed over rows that are wrong: a cell without a table"),
    "TAKES_A_NAME": (r"there is no command /misfit-cmd", "not usable .*there is a command /route already", None),
    "NO_HELP": (r"there is no command /misfit-cmd", "not usable .*commands is incomplete", None),
    "SHORT_TABLE": (r"there is no command /misfit-cmd", "not usable .*observer table is incomplete", None)}


def run(tmp, *args):
    return common.run("--module-path", tmp, "-b", BACKEND, "-s", "on_error=continue", *args)


for how, (error, state, also) in CASES.items():
    with tempfile.TemporaryDirectory() as tmp:
        build(tmp, "misfit", how)
        p = run(tmp, "-c", "/feed 930 739 259 559 14", "-c", "/misfit-cmd", "-c", "/instruments", "-c", "/experts", "-c",
                "/route", "-c", "/feed 1")
        out, err = p.stdout.decode(), p.stderr.decode()
        ok(p.returncode == (3 if error else 0), how + ": dbrx ends as it should", p.returncode, err)
        ok(not error or re.search(error, err), "... and says what is wrong", err)
        ok(not also or err.count(also) == 1, "... once", err)
        text = " ".join(out.split())
        ok(re.search("misfit .*" + state, text) if state else "misfit" not in text, "... /instruments knows", out)
        ok("5 tokens, 0 of them generated" in text and "token 4 of 5" in text and "fed 1 token;" in err,
           "... others and the conversation go on", out, err)
        j = [json.loads(x) for x in run(tmp, "--json", "-c", "/feed 930", "-c", "/misfit-cmd").stdout.splitlines()]
        tables = [e for e in j if e["type"] == "instrument"]
        if how == "NOTHING_THERE":
            ok([t["rows"] for t in tables] == [[{"a": None, "b": "", "c": []}]], "only what has a place is shown", tables)
        elif how == "NOT_NUMBERS":
            ok("bell^G \ufffd\ufffd escape^[[31m" in out or r"bell\x07" in out or "bell\a" in out, "text is made harmless", out)
            ok(tables == [{"type": "instrument", "instrument": "misfit", "table": "odd", "facts": {"nothing": None},
                           "notes": [], "rows": [{"a": None, "b": "bell\a \ufffd\ufffd escape\033[31m", "c": [None, None, 1]},
                                                 {"a": None}, {"a": 1}]}], "what is no number is null", tables)
        elif how == "LOST_CELLS":
            ok([t["rows"] for t in tables] == [[{"b": "", "c": []}]], "only what has a place is shown", tables)
        else:
            ok(not tables, "no table of it is shown", tables)
        ok("takes" not in err or error, "usage is no option of ours", err)
finish()
