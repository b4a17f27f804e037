"""/watch on a pseudo-terminal whose screen is kept here: the reply is whole, the panel stays at
the bottom, and both are gone when they should be.  Run by watching.sh; speaks TAP."""
import re
import shutil
import subprocess
import termios

from common import BACKEND, DBRX, finish, ok, skip
from screen import Shell


class Screen:
    """As much of a VT100 as is used: what scrolled off stays in `gone`."""

    def __init__(self, rows=24, cols=80):
        self.rows, self.cols = rows, cols
        self.line = [[" "] * cols for _ in range(rows)]
        self.y = self.x = 0
        self.top, self.bottom = 0, rows - 1
        self.saved, self.wrap, self.gone, self.unknown = (0, 0, False), False, [], set()

    def down(self):
        if self.y == self.bottom:
            old = self.line.pop(self.top)
            if self.top == 0:
                self.gone.append("".join(old).rstrip())
            self.line.insert(self.bottom, [" "] * self.cols)
        elif self.y < self.rows - 1:
            self.y += 1

    def put(self, c):
        if self.wrap:
            self.x, self.wrap = 0, False
            self.down()
        self.line[self.y][self.x] = c
        self.wrap = self.x == self.cols - 1
        self.x += not self.wrap

    def feed(self, data):
        for m in re.finditer(r"\x1b\[([?0-9;]*)([A-Za-z])|\x1b([78D])|(.)", data, re.S):
            arg, csi, esc, c = m.groups()
            n = [int(x) for x in re.findall("[0-9]+", arg or "")]
            if csi == "A":
                self.y, self.wrap = max(0, self.y - (n or [1])[0]), False
            elif csi == "H":
                self.y, self.x = (n + [1, 1])[0] - 1, (n + [1, 1])[1] - 1
                self.wrap = False
            elif csi == "r":
                self.top, self.bottom = (n[0] - 1, n[1] - 1) if n else (0, self.rows - 1)
                self.y = self.x = 0
                self.wrap = False
            elif csi == "K":
                for i in range(0 if n == [2] else self.x, self.cols):
                    self.line[self.y][i] = " "
            elif csi == "J":
                self.line[self.y][self.x:] = [" "] * (self.cols - self.x)
                self.line[self.y + 1:] = [[" "] * self.cols for _ in range(self.rows - self.y - 1)]
            elif csi in ("m", "h", "l"):
                pass
            elif csi:
                self.unknown.add(m.group(0))
            elif esc == "7":
                self.saved = self.y, self.x, self.wrap
            elif esc == "8":
                self.y, self.x, self.wrap = self.saved
            elif esc == "D":
                self.down()
            elif c == "\n":
                self.wrap = False
                self.down()
            elif c == "\r":
                self.x, self.wrap = 0, False
            elif c == "\b":
                self.x, self.wrap = max(0, self.x - 1), False
            elif c >= " ":
                self.put(c)

    def text(self):
        return ["".join(x).rstrip() for x in self.line]


def watched(rows, cols, *args, stop=None, resize=None):
    """The screen during the reply, after it, and what it was told."""
    s = Shell("-b", BACKEND, "--no-rc", "--seed", "3", "-s", "max_tokens=120", "-s", "timing=off", *args, rows=rows, cols=cols)
    s.prompt()
    s.send("/watch on\r")
    s.expect("watch is on", "/watch on")
    s.prompt()
    s.send("Once upon a time\r")
    s.read("time\r\n")
    start = s.at
    s.read(r"(?s)\x1b8.*\x1b8.*\x1b8")
    if stop:
        s.send(stop)
    s.read("dbrx> ")
    data = s.all[start:s.at].decode("utf-8", "replace")
    return s, data


for rows, cols in (24, 80), (60, 200), (24, 40):
    s, data = watched(rows, cols)
    scr, during = Screen(rows, cols), None
    cut = [m.end() for m in re.finditer("\x1b8", data)]
    scr.feed(data[:cut[-2]])               # the last one belongs to the end
    during = scr.text()
    reply = "".join(re.split("\x1b7.*?\x1b8", data, flags=re.S)[1:])
    scr.feed(data[cut[-2]:])
    after = scr.text()
    ok(not scr.unknown, "%dx%d: nothing but what any terminal knows" % (cols, rows), scr.unknown)
    panel = [i for i, x in enumerate(during) if re.match("e[0-9]+ ", x + " ")]
    ok(len(panel) == 16 and panel == list(range(rows - 16, rows)), "... the panel is at the bottom", during)
    ok(during[panel[0] - 1].split() == list("012345") and all(during[panel[0] - 1][5 + 2 * l] == str(l) for l in range(6)),
       "... its columns have the layers' numbers", during[panel[0] - 1])
    ok(not any(re.match("e[0-9]+ +[^ ]", x) for x in after), "... and gone after", after)
    ok(scr.top == 0 and scr.bottom == rows - 1, "... the whole screen scrolls again")
    plain = subprocess.run([DBRX, "-b", BACKEND, "--seed", "3", "-s", "max_tokens=120", "-c", "Once upon a time"],
                           stdout=subprocess.PIPE, check=True).stdout.decode()
    seen = re.sub(r"\s", "", "".join(scr.gone + after))
    ok(re.sub(r"\s", "", plain) in seen, "... the reply is whole", plain, )
    ok(after[scr.y].startswith("dbrx>"), "... the prompt follows", after)
    if (rows, cols) == (24, 80):
        s.send("/watch off\r")
        s.expect("watch is off", "/watch off")
        s.prompt()
        s.send("Then\r")
        s.read("Then\r\n")
        start = s.at
        s.read("dbrx> ")
        ok(b"\x1b7" not in s.all[start:], "... is off")
    s.quit("it ends")

# ---- interrupted, a small screen, no colour, one layer
s, data = watched(24, 80, "-s", "max_tokens=400", stop="\x03")
scr = Screen()
scr.feed(data)
ok((scr.top, scr.bottom) == (0, 23) and scr.text()[scr.y].startswith("dbrx>"), "Ctrl-C gives the screen back", scr.text())
s.send("/watch on --layer 2\r")
s.expect("watch is on: layer 2", "--layer")
s.prompt()
s.send("And\r")
s.read("And\r\n")
s.expect("experts \\(down\\) at layer 2|e15 ", "... shows")
s.prompt()
s.quit("... and ends")

# ---- Ctrl-Z: the shell that dbrx was started from gets all of the screen, and its modes; fg brings the panel back
s = Shell("--norc", "--noprofile", "--noediting", "-i", program="bash", PS1="out$ ", TERM="xterm-256color") if shutil.which("bash") else None
if s:
    s.read(r"out\$ ")
    cooked = termios.tcgetattr(s.fd)[3]
    s.send("$DBRX -b %s --no-rc --seed 3 -s max_tokens=480 -s min_new_tokens=480 -s timing=off\r" % BACKEND)
    s.prompt()
    s.send("/watch on\r")
    s.prompt()
    s.send("Once upon a time\r")
    s.read("time\r\n")
    start = s.at
    s.read(r"(?s)\x1b8.*\x1b8")
    s.send("\x1a")
    s.expect(r"(?s)Stopped.*out\$ ", "Ctrl-Z stops it")
    scr = Screen()
    scr.feed(s.all[start:s.at].decode("utf-8", "replace"))
    ok((scr.top, scr.bottom) == (0, 23) and not any(re.match("e[0-9]+ ", x) for x in scr.text()), "... the screen is whole", scr.text())
    ok(termios.tcgetattr(s.fd)[3] == cooked, "... and the terminal as it was")
    start = s.at
    s.send("fg\r")
    s.expect(r"(?s)\x1b\[1;[0-9]+r.*\x1b8", "fg brings the panel back")
    s.read("dbrx> ")
    scr.feed(s.all[start:s.at].decode("utf-8", "replace"))
    ok((scr.top, scr.bottom) == (0, 23) and scr.text()[scr.y].startswith("dbrx>"), "... and at the end it goes", scr.text())
    s.send("\x04")
    s.expect(r"out\$ ", "... it ends")
    s.send("exit\r")
    s.wait()
else:
    skip("no bash")

s = Shell("-b", BACKEND, "--no-rc", "-s", "max_tokens=5", rows=7)
s.prompt()
s.send("/watch on\r")
s.prompt()
s.send("Once\r")
s.read("Once\r\n")
start = s.at
s.prompt()
ok(b"\x1b7" not in s.all[start:], "a screen too small for it has none")
s.quit("... and works")
out = subprocess.run([DBRX, "-b", BACKEND, "-s", "max_tokens=5", "-c", "/watch on", "-c", "Once", "-c", "/watch frobnicate"],
                     stdout=subprocess.PIPE, stderr=subprocess.PIPE)
ok(b"\x1b" not in out.stdout + out.stderr, "a pipe sees nothing of it", out)
ok(b"on or off, not \"frobnicate\"" in out.stderr, "... and hears what is wrong", out)
finish()
