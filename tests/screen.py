"""A shell on a pseudo-terminal."""
import fcntl
import os
import pty
import re
import select
import signal
import struct
import termios
import time

from common import BACKEND, DBRX, ok

WAIT = int(os.environ.get("WAIT", 60))
try:                                   # it pastes no newlines and redraws in its own way
    LIBEDIT = "#define USE_LIBEDIT 1" in open(os.environ["builddir"] + "/config.h").read()
except (KeyError, OSError):
    LIBEDIT = False
# replies without an end; where something else has to take long it is ref that takes its time
WILD = ["-b", BACKEND, "-s", "max_tokens=1000000", "-s", "min_new_tokens=100000", "-s", "overflow=shift", "-s", "temperature=90", "-s", "top_p=1", "--seed", "1"]
SLOW = ["-b", "ref"] + WILD[2:]


class Shell:
    def __init__(self, *args, rows=24, cols=80, program=DBRX, **env):
        self.all, self.at, self.code = b"", 0, None
        self.pid, self.fd = pty.fork()
        if not self.pid:
            os.environ.pop("NO_COLOR", None)
            os.environ.update({"TERM": "xterm-256color", "INPUTRC": "/dev/null", **env})
            os.execvp(program, [program, *args])
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))

    def send(self, text):
        os.write(self.fd, text.encode())

    def read(self, until):
        """Reads until the regex occurs after what was seen so far; False at the end or after WAIT.
        A blank in it may be where a line was wrapped."""
        end = time.monotonic() + WAIT
        until = until and until.replace(" ", r"(?: |\r\n)")
        while True:
            m = re.search(until.encode(), self.all[self.at:]) if until else None
            if m:
                self.at += m.end()
                return True
            if not select.select([self.fd], [], [], max(0, end - time.monotonic()))[0]:
                return False
            try:
                more = os.read(self.fd, 65536)
            except OSError:
                more = b""
            if not more:
                return False
            self.all += more

    def expect(self, until, name):
        start = self.at
        ok(self.read(until), name, self.all[start:])

    def wait(self):
        """To the end; the exit code as a shell sees it."""
        self.read(None)
        end = time.monotonic() + WAIT
        while time.monotonic() < end:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
            time.sleep(0.01)
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        return None

    def prompt(self):
        """Keys that mean something else to a terminal without an editor wait for this."""
        self.read("dbrx> ")

    def quit(self, name):
        self.send("\x04")
        code = self.wait()
        ok(code == 0, name, (code, self.all[-300:]))
