#!/usr/bin/env python3
"""Records the sessions in the README: types their lines at a real (pseudo-)terminal, and puts what
such a terminal of 80 columns then shows between the README's markers, a session a pair.

    docs/record.py build/dbrx README.md

In a document without markers, such as grammar.md, runs the examples that begin with "$ dbrx" again,
each with the file that the block of text before it holds.

Speeds are those of the machine and of the moment; the words depend on the seed alone."""
import os
import pty
import re
import select
import shlex
import subprocess
import sys
import fcntl
import struct
import tempfile
import termios

COLS = 80
FOX = "Once upon a time, there was a fox who"
SESSIONS = [                               # in the README's order: arguments, lines typed
    (["--seed", "7", "-s", "max_tokens=60"], [FOX, "/route", "/backend ref", " One day", "/quit"]),
    (["--seed", "7", "-s", "max_tokens=40"],
     ["/backend cpu-blas precision=fast kv=q8_0", FOX, "/compare ref --list 3", "/backend ref --keep", " One day",
      "/backend cpu-blas", "/continue", "/transcript --tokens", "/quit"]),
]
BEGIN, END = "<!-- session: made by docs/record.py -->\n", "<!-- end of session -->\n"


def screen(raw):
    """The lines that a terminal shows which never scrolls."""
    rows, y, x = [[]], 0, 0
    for m in re.finditer(r"\x1b\[([?0-9;]*)([A-Za-z])|\x1b[=>()][0-9A-Z]?|([\r\n\b\a])|(.)", raw, re.S):
        args, what, control, char = m.groups()
        n = int(args) if args and args.isdigit() else 1
        if char:
            if x == COLS:
                y, x = y + 1, 0
            while len(rows) <= y:
                rows.append([])
            rows[y] += [" "] * (x - len(rows[y]))
            rows[y][x:x + 1] = [char]
            x += 1
        elif control == "\r":
            x = 0
        elif control == "\n":
            y += 1
        elif control == "\b":
            x = max(0, x - 1)
        elif what == "K" and y < len(rows):
            del rows[y][x:]
        elif what in "ABCD" if what else False:
            y += {"A": -n, "B": n}.get(what, 0)
            x += {"C": n, "D": -n}.get(what, 0)
        while len(rows) <= y:
            rows.append([])
    return ["".join(r).rstrip() for r in rows]


def record(dbrx, args, typed):
    home = tempfile.TemporaryDirectory()
    pid, fd = pty.fork()
    if not pid:
        os.environ.update({"HOME": home.name, "XDG_STATE_HOME": home.name, "XDG_CONFIG_HOME": home.name,
                           "TERM": "xterm", "NO_COLOR": "1", "LC_ALL": "C.UTF-8", "INPUTRC": "/dev/null"})
        os.execv(dbrx, [dbrx, *args])
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", 60, COLS, 0, 0))
    raw = b""
    for line in [None, *typed]:
        if line is not None:
            os.write(fd, line.encode() + b"\r")
        seen = len(raw)
        while line != "/quit" and not re.search(rb"dbrx> $", re.sub(rb"\x1b\[[?0-9;]*[a-zA-Z]", b"", raw[seen:])):
            if not select.select([fd], [], [], 300)[0]:
                sys.exit("record.py: no prompt after %s" % line)
            raw += os.read(fd, 65536)
    try:
        while select.select([fd], [], [], 10)[0]:
            more = os.read(fd, 65536)
            if not more:
                break
            raw += more
    except OSError:
        pass
    os.waitpid(pid, 0)
    return raw.decode(errors="replace")


def shortened(lines, head, tail):
    """A long table by its ends."""
    out, table = [], []
    for line in lines + ["dbrx> "]:
        if table and line.startswith("dbrx> "):
            out += table if len(table) <= head + tail + 1 else table[:head] + ["..."] + table[-tail:]
            table = []
        if table or line.startswith("turn  part"):
            table.append(line)
        else:
            out.append(line)
    return out[:-1]


def examples(dbrx, text):
    """The text with the output of its commands as it is today."""
    before, parts = "", re.split(r"(?sm)^(```.*?\n```\n)", text)
    for i, part in enumerate(parts):
        if not part.startswith("```"):
            continue
        head, body = part[:-4].split("\n", 1)
        if body.startswith("$ dbrx "):
            args = shlex.split(body.split("\n")[0][len("$ dbrx "):])
            with tempfile.TemporaryDirectory() as cwd:
                for name in re.findall(r"(?:grammar|schema)=([^ ]+)", " ".join(args)):
                    with open(os.path.join(cwd, name), "w", encoding="utf-8") as f:
                        f.write(before)
                out = subprocess.run([dbrx, *args], cwd=cwd, stdout=subprocess.PIPE, check=True).stdout.decode()
            parts[i] = "%s\n%s\n%s```\n" % (head, body.split("\n")[0], out)
        before = body
    return "".join(parts)


def main():
    dbrx, readme = sys.argv[1:]
    with open(readme, encoding="utf-8") as f:
        whole = f.read()
    if BEGIN not in whole:
        with open(readme, "w", encoding="utf-8") as f:
            f.write(examples(os.path.abspath(dbrx), whole))
        return
    parts = whole.split(BEGIN)
    if len(parts) != len(SESSIONS) + 1:
        sys.exit("record.py: %s has %d places for %d sessions" % (readme, len(parts) - 1, len(SESSIONS)))
    for i, (args, typed) in enumerate(SESSIONS, 1):
        lines = shortened([l for l in screen(record(os.path.abspath(dbrx), args, typed)) if l], 3, 6)
        lines = lines[:lines.index("dbrx> /quit") + 1]     # what follows names a folder of this machine
        block = "".join("    %s\n" % l for l in ["$ ./quickstart " + " ".join(args)] + lines)
        parts[i] = "\n" + block + "\n" + END + parts[i].split(END)[1]
    with open(readme, "w", encoding="utf-8") as f:
        f.write(BEGIN.join(parts))


main()
