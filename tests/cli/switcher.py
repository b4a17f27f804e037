"""Switching backends by hand: completion, Ctrl-C in a reply and in a switch, and who made what.

Run by switching.sh; speaks TAP.  Nothing is timed."""
import os
import tempfile

from common import finish
from screen import Shell

tmp = tempfile.TemporaryDirectory()
os.environ["XDG_STATE_HOME"] = os.environ["XDG_CONFIG_HOME"] = tmp.name
ARGS = ["--module-path", os.environ["SHIMS"], "-b", "ref", "-s", "temperature=0", "-s", "max_tokens=0"]
s = Shell(*ARGS)
s.prompt()
s.send("/backend cpu-blas deterministic=\t")
s.read("deterministic=")
s.send("1\t kv=bf\t\r")
s.expect("now on cpu-blas deterministic=1 kv=bf16; kv", "Tab completes the values of an option")
s.prompt()
s.send("/backend ref --ke\t\r")
s.expect("kept open: cpu-blas deterministic=1 kv=bf16", "... and --keep")
s.prompt()
s.send("Once upon a time\r")
s.read("time\r\n")
s.read("[^\r\n]{40}")
s.send("\x03")
s.expect(r"\| ref.*interrupted", "Ctrl-C in a reply")
s.prompt()
s.send("/feed " + "930 " * 400 + "\r")
s.read("fed 400")
s.prompt()
s.send("/backend shim inject=slow --replay\r")
s.expect("prompt: +[0-9]+%", "a switch that recomputes shows how far it is")
s.send("\x03")
s.expect("interrupted; still on ref", "... and Ctrl-C leaves the old backend")
s.prompt()
s.send("/backend\r")
s.expect(r"\* +ref", "... which is the current one")
s.prompt()
s.send("/undo\r/backend cpu-blas\r")
s.expect(r"now on cpu-blas deterministic=1 kv=bf16, as it was kept; kv: copied from ref \([0-9]+ tokens\)", "on to the one kept open")
s.prompt()
s.send("/set max_tokens 3\r/continue\r")
s.expect(r"\| cpu-blas deterministic=1 kv=bf16, kv [0-9]+ copied, [0-9]+ computed", "/continue goes on there, and the status line says so")
s.prompt()
s.send("/compare a\t --tokens 1\r")
s.expect("KL in nats from the row", "Tab completes all")
s.prompt()
s.send("/set handover 1=ref,2=cpu-b\t\r/continue\r")
s.expect(r"\| cpu-blas deterministic=1 kv=bf16 1, ref 1, cpu-blas 1", "a reply that changes hands: the status line counts for each")
s.prompt()
s.send("/backend ref --keep\r")
s.read("kept open")
s.prompt()
s.send("/backend --drop c\t\r")
s.expect("closed 1 backend", "Tab completes what is kept open")
s.prompt()
s.quit("... and leaves")
finish()
