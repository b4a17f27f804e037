#!/usr/bin/env python3
"""The table of docs/testing.md, from what the last runs in a build folder left there.

    docs/testing.py BUILD [--write]

Reads BUILD/fuzz/log (make check-fuzz) and the logs of tests/hostile (make check); prints the
table, or puts it into docs/testing.md."""
import os
import re
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
BEGIN, END = "<!-- table: made by docs/testing.py -->\n", "<!-- end of table -->\n"


def read(path):
    try:
        return open(path, encoding="utf-8", errors="replace").read()
    except OSError:
        return ""


def fuzz(build):
    sums = {}
    for line in read(build + "/fuzz/log").splitlines():
        _, target, seconds, runs, bad = line.split()
        s = sums.setdefault(target, [0, 0, 0])
        s[0] += int(runs)
        s[1] += int(seconds)
        s[2] += int(bad)
    yield "| fuzz target | executions | seconds | crashes |"
    yield "|---|---:|---:|---:|"
    for target in sorted(sums):
        yield "| %s | %s | %d | %d |" % (target, format(sums[target][0], ","), *sums[target][1:])
    yield "| **all** | %s | %d | %d |" % (format(sum(s[0] for s in sums.values()), ","), sum(s[1] for s in sums.values()),
                                          sum(s[2] for s in sums.values()))


def faults(build):
    yield "| operation | calls failed | done all the same | checks failed |"
    yield "|---|---:|---:|---:|"
    total = [0, 0, 0]
    for good, name, n, anyway in re.findall(r"^(not ok|ok) \d+ - (\w+): (\d+) faults, (\d+) of them", read(build + "/tests/hostile/faults.log"), re.M):
        row = [int(n), int(anyway), good != "ok"]
        total = [a + b for a, b in zip(total, row)]
        yield "| %s | %d | %d | %d |" % (name, *row)
    yield "| **all** | %d | %d | %d |" % tuple(total)


def hostile(build):
    yield "| from outside | checks | failed | |"
    yield "|---|---:|---:|---|"
    for name in "abuse", "modules", "kill", "terminal":
        log = read("%s/tests/hostile/%s.log" % (build, name))
        more = re.findall(r"^# ((?:hostile inputs tried|kills): \d+)", log, re.M)
        yield "| `tests/hostile/%s` | %d | %d | %s |" % (name, len(re.findall(r"^(?:not )?ok ", log, re.M)), len(re.findall(r"^not ok ", log, re.M)),
                                                         more[0] if more else "")


def main():
    build = sys.argv[1] if len(sys.argv) > 1 else "build"
    text = "\n".join("\n".join(part(build)) + "\n" for part in (fuzz, faults, hostile))
    if "--write" not in sys.argv:
        print(text)
        return
    path = os.path.join(HERE, "testing.md")
    page = open(path, encoding="utf-8").read()
    head, rest = page.split(BEGIN)
    open(path, "w", encoding="utf-8").write(head + BEGIN + "\n" + text + "\n" + END + rest.split(END)[1])


main()
