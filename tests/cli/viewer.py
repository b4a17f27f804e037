"""What people see: the shell on a real (pseudo-)terminal.

Run by terminal.sh; speaks TAP.  Nothing is timed: every step waits for what must appear."""
import os
import re
import signal
import stat
import tempfile
import termios

from common import BACKEND, finish, ok
from screen import LIBEDIT, WILD, Shell

tmp = tempfile.TemporaryDirectory()
os.environ["XDG_STATE_HOME"] = os.environ["XDG_CONFIG_HOME"] = tmp.name
history = os.path.join(tmp.name, "dbrx", "history")

# ---- a first visit
s = Shell("-b", BACKEND, "-s", "temperature=0", "-s", "max_tokens=12")
s.expect(r"nano.*experts.*\r\n.*%s.*\r\n.*/help" % BACKEND, "a banner says what is open and where help is")
s.expect("dbrx> ", "then the prompt")
s.send("/ro\t")
s.expect("/route |ute ", "Tab completes a command")
s.send("\r")
s.expect("no token yet", "which then runs")
s.send("/set te\t 0.5\r")
s.expect("temperature = 0.5", "Tab completes a setting")
s.send("/set mode ch\t\r")
s.expect("mode = chat", "... and a value")
s.send("/set mode base\r/set temperature 0\r")
s.expect("temperature = 0\r", "lines typed ahead are taken one by one")
s.send("/set suppress_tokens 5\r/set suppress_tokens 9999\r/set suppress_tokens\r/set suppress_tokens default\r")
s.expect(r"outside the vocabulary[^$]*suppress_tokens +5 +session", "a refused list leaves the one before")
s.send("/backend cp\t --rep\t\r")
s.expect("now on cpu-blas", "... a backend and an option")
s.send("/hel\t temp\t\r")
s.expect("how freely", "... and a topic")
s.prompt()
s.send("/dump %s/dbr\t" % tmp.name)
s.expect("dbrx/|x ", "... and a file name")
s.send("\x03")
s.expect(r"\^C(?s:.*)dbrx> ", "Ctrl-C clears the line")
s.send("/stat\r")
s.expect("memory +[0-9.]+ MiB", "a prefix of a command is enough here")
s.send("/s\r")
s.expect("/s could be /set", "... but not when there are several")
s.send("Once upon a time, there was a little girl named Lily.\r")
s.expect("She loved to play outside in the sunshine", "a prompt is answered")
s.expect(r"\[12 tokens, [0-9]+ tok/s \| prompt 13, [0-9]+ tok/s \| cpu-blas \| context 25/512 \| cut", "a status line")
s.send("/route\r")
s.expect(r"e15 .*\x1b\[38;5;[0-9]+;48;5;[0-9]+m", "/route draws a map")
s.send("/route --list\r")
s.expect("L5 .*█", "... and bars")
s.send("\r")
s.expect(r"\[12 tokens.*context 37/512", "Enter alone goes on")
s.send("/new\r")
s.expect("new conversation", "/new")
s.prompt()
if not LIBEDIT:
    s.send("\x1b[200~line one\nline two\x1b[201~")
    s.expect("line two", "a paste of two lines waits for Enter")
    s.send("\r")
    s.expect(r"\[12 tokens", "... and is one prompt")
    s.send("/tokens\r")
    s.expect(r'(?s)0 .*" one".*"\\n".*"line".*" two"', "... with its newline")
    s.prompt()
s.quit("Ctrl-D leaves")
ok(stat.S_IMODE(os.stat(history).st_mode) == 0o600, "the history is the user's alone", oct(os.stat(history).st_mode))
text = open(history).read()
ok("/stat" in text and (LIBEDIT or "line one\nline two\n" in text), "... and has the lines", text)

# ---- the history comes back; Ctrl-C in a reply keeps what was said
s = Shell(*WILD)
s.prompt()
s.send("\x1b[A")
s.expect("/new" if LIBEDIT else "/tokens", "the last line comes back with the up arrow")
if not LIBEDIT:
    s.send("\x1b[A")
    s.expect("(?s)line one.*line two", "a pasted prompt comes back whole")
s.send("\x03")
s.expect(r"\^C", "and Ctrl-C drops it")
s.send("Once upon a time\r")
s.read("time\r\n")
s.expect("[^\r\n]{40}", "a long reply streams")
s.send("\x03")
s.expect(r"\[[0-9]+ tokens, [^]]*interrupted\]", "Ctrl-C stops it")
s.expect("dbrx> ", "the prompt is back")
s.send("/tokens\r")
s.expect("(?s)0 +930 .*1 +739.*2 +259.*3 .*4 +[0-9]+ ", "what was said is kept")
s.prompt()
s.send("/new\r/feed 1 2 3 4 5 6\r")
s.expect("fed 6 tokens", "/feed")
s.prompt()
s.send("/backend ref\r")                   # which takes its time
for line, note in ("/feed " + "930 " * 440, "nothing was fed"), ("once " * 400, "it was not added"):
    s.prompt()
    s.send(line + "\r")
    s.expect("prompt: +[0-9]+%", "many tokens: the screen shows how far it is")
    s.send("\x03")
    s.expect("interrupted.*; " + note, "... and Ctrl-C stops that")
    s.send("/route 6\r")
    s.expect("conversation has tokens 0 to 5", "... as if nothing had been typed")
s.prompt()
s.send("/backend nosuch\r")
s.expect("still on ref", "an error leaves the conversation")
s.send("/route 4\r")
s.expect("token 4 of", "... whole")
s.prompt()
old = termios.tcgetattr(s.fd)
os.kill(s.pid, signal.SIGTERM)
ok(s.wait() == 143, "SIGTERM ends with 143")
ok(not old[3] & termios.ICANON, "the editor had the terminal")

# ---- Ctrl-Z and fg: a shell sets the terminal's mode to its own meanwhile
s = Shell("-b", BACKEND)
cooked = termios.tcgetattr(s.fd)
s.prompt()
s.send("/nonse")
s.read("/nonse")
os.kill(s.pid, signal.SIGSTOP)
os.waitpid(s.pid, os.WUNTRACED)
termios.tcsetattr(s.fd, termios.TCSANOW, cooked)
os.kill(s.pid, signal.SIGCONT)
s.expect("dbrx> /nonse", "after Ctrl-Z and fg the line is back")
ok(not termios.tcgetattr(s.fd)[3] & termios.ICANON, "... and the editor has the terminal")
s.send("nse\r")
s.expect("no command /nonsense", "... and goes on")
s.prompt()
s.quit("... and quits")

# ---- the terminal is given back
s = Shell("-b", BACKEND)
before = termios.tcgetattr(s.fd)[3]
s.prompt()
s.send("half a li")
s.read("half a li")
os.kill(s.pid, signal.SIGTERM)
code = s.wait()
after = termios.tcgetattr(s.fd)[3]
flags = termios.ICANON | termios.ECHO | termios.ISIG
ok(code == 143 and before & flags == after & flags, "SIGTERM in mid-line gives the terminal back", (code, before, after))

# ---- plain terminals
s = Shell("-b", BACKEND, "-s", "max_tokens=4", TERM="dumb")
s.prompt()
s.send("Once\r")
s.prompt()
s.send("/route\r/nonsense\r")
s.read("no command")
s.prompt()
s.quit("TERM=dumb: works")
ok(b"\x1b" not in s.all, "... without a single escape sequence", s.all)
s = Shell("-b", BACKEND, "-s", "max_tokens=4", NO_COLOR="1")
s.prompt()
s.send("Once\r")
s.read("context")
s.send("/nonsense\r")
s.read("no command")
s.prompt()
s.quit("NO_COLOR: works")
ok(not re.search(rb"\x1b\[[0-9;]*m", s.all), "... without colours", s.all)

# ---- hostile bytes
s = Shell("-b", BACKEND, "-c", "/\x1b[31mred\x9b31m\x07")
ok(s.wait() == 3 and b"/^[[31mred" in s.all and b"\x07" not in s.all and b"\xc2\x9b" not in s.all,
   "control characters are shown, not obeyed", s.all)

# ---- narrow and wide
for cols in 40, 200:
    s = Shell("-b", BACKEND, "-s", "max_tokens=1", cols=cols)
    s.prompt()
    s.send("Once\r")
    s.read("context")
    s.at = len(s.all)
    s.send("/help\r/route\r")
    s.read("entropy 0 to 4\r\n")
    s.prompt()
    lines = s.all.decode().split("/help\r\n")[-1]
    lines = [re.sub(r"\x1b\[[?0-9;]*[a-zA-Z]", "", l).strip("\r") for l in lines.split("\r\n")]
    ok(max(map(len, lines)) <= cols, "nothing is wider than %d columns" % cols, max(lines, key=len))
    s.quit("... and quits")

# ---- a grammar
good, wrong = os.path.join(tmp.name, "good.gbnf"), os.path.join(tmp.name, "wrong.gbnf")
with open(good, "w") as f:
    f.write('root ::= "abc" | "abd"\n')
with open(wrong, "w") as f:
    f.write('root ::= "abc" |)\n')
s = Shell("-b", BACKEND, cols=200)
s.read("dbrx> ")
s.send("/set grammar %s/goo\t\r" % tmp.name)
s.expect("replies match it from now on", "Tab completes the name of a grammar's file")
s.send("/set grammar %s\r" % wrong)
s.expect(r"wrong.gbnf:1:17: ", "a malformed one is refused with its place")
s.send("/set grammar\r")
s.expect(r"good.gbnf", "... and the one before stays")
s.send("Lily\r")
s.expect(r"ab[cd]\r?\n.*\| by grammar\]", "the status line says that it is on")
s.send("/set grammar default\r")
s.expect(r"grammar = \(empty\)", "... and off")
s.quit("then the end")

finish()
