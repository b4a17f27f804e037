#!/usr/bin/env python3
"""The table of docs/testing.md, from what the last runs in a build folder left there.

    docs/testing.py BUILD [--write | --coverage]

Reads BUILD/fuzz/log (make check-fuzz), the logs of tests/hostile (make check) and what gcov finds in
BUILD/coverage (make check-coverage); prints the table, or puts it into docs/testing.md.  With
--coverage only that is printed, with the lines of parsers that nothing ran."""
import json
import os
import re
import subprocess
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
    for good, name, n, anyway in re.findall(r"^(not ok|ok) \d+ - ([\w-]+): (\d+) faults, (\d+) of them", read(build + "/tests/hostile/faults.log"), re.M):
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
    yield ""
    for text in re.findall(r"^# for long: (.*)", read(build + "/tests/hostile/abuse.log"), re.M):
        yield "- " + text


# what reads strangers' bytes
PARSERS = [("checkpoints", "backends/model", "safetensors gguf gguf_model json config shards imatrix"),
           ("vocabularies, text, chat template", "tokenizer", "vocab vocab_hf vocab_tiktoken vocab_list files pretok stream chat"),
           ("grammars, schemas", "repl/grammar", "charset grammar rules schema schema_combine schema_object schema_regex schema_text"),
           ("saved sessions", "repl", "load"), ("commands, words, typed lines", "repl", "commands words input sets idlist stops steer_text options"),
           ("scripts, batches, texts", "repl", "script prompts corpus"), ("`.npy` files", "repl", "npy")]
FOLDERS = ("plugins", "tokenizer", "repl", "repl/grammar", "backends/model", "backends/graph", "backends/ref", "backends/cpu-blas", "backends/cuda")


def lines_run(build):
    """{file: {line: times}} over every object that was compiled of it."""
    top = os.path.dirname(HERE)
    notes = [os.path.join(root, n) for root, _, names in os.walk(build + "/coverage") for n in names if n.endswith(".gcno")]
    files = {}
    for i in range(0, len(notes), 50):
        out = subprocess.run(["gcov", "--json-format", "--stdout", *map(os.path.abspath, notes[i:i + 50])], cwd=build + "/coverage",
                             stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout
        for text in out.splitlines():
            for f in json.loads(text)["files"] if text.startswith(b"{") else []:
                path = os.path.relpath(os.path.realpath(os.path.join(build, "coverage", f["file"])), os.path.realpath(top))
                if os.path.dirname(path) in FOLDERS or path.split("/")[0] == "plugins":
                    seen = files.setdefault(path, {})
                    for l in f["lines"]:
                        seen[l["line_number"]] = max(seen.get(l["line_number"], 0), l["count"])
    return files


def coverage(build):
    files = lines_run(build)
    if not files:
        return

    def share(paths):
        counts = [c for p in paths for c in files.get(p, {}).values()]
        return len(counts), sum(c > 0 for c in counts)
    yield "| lines of code, by folder | lines | run by tests | |"
    yield "|---|---:|---:|---:|"
    for folder in FOLDERS:
        n, hit = share([p for p in files if os.path.dirname(p) == folder or (folder == "plugins" and p.startswith("plugins/"))])
        if n:
            yield "| `%s` | %d | %d | %.1f%% |" % (folder, n, hit, 100 * hit / n)
    yield ""
    yield "| lines of parsers | lines | run by tests | |"
    yield "|---|---:|---:|---:|"
    for what, folder, names in PARSERS:
        for name in names.split():
            n, hit = share(["%s/%s.c" % (folder, name)])
            yield "| %s: `%s.c` | %d | %d | %.1f%% |" % (what, name, n, hit, 100 * hit / n if n else 0)
            if "--coverage" in sys.argv and hit < n:
                lines = files["%s/%s.c" % (folder, name)]
                print("not run in %s/%s.c: %s" % (folder, name, " ".join(str(l) for l in sorted(lines) if not lines[l])))


def main():
    build = sys.argv[1] if len(sys.argv) > 1 else "build"
    parts = (coverage,) if "--coverage" in sys.argv else (fuzz, faults, hostile, coverage)
    text = "\n".join("\n".join(part(build)) + "\n" for part in parts)
    if "--write" not in sys.argv:
        print(text)
        return
    path = os.path.join(HERE, "testing.md")
    page = open(path, encoding="utf-8").read()
    head, rest = page.split(BEGIN)
    open(path, "w", encoding="utf-8").write(head + BEGIN + "\n" + text + "\n" + END + rest.split(END)[1])


main()
