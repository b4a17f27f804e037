"""Every example of /help does what its help says: run as it stands on the bundled model, after a
short conversation and whatever else the sentence before it takes for granted.

Run by examples.sh; speaks TAP."""
import os
import tempfile

from common import events, finish, lines, ok, outcome

# what there must be before, for those that go on with something
BEFORE = {"redo": ["/undo"], "load": ["/save story.dbrx --kv", "/new"], "switch": ["/branch other"],
          "pick": ["/logits 5"], "undo": ["And"], "top": ["/set max_tokens 60", "And then"]}
# None needs a person: the editor of /edit can be a program, /watch waits for the next reply, /quit is the last
FILES = {"question.txt": "What is the capital of France?\n", "setup.dbrx": "/set temperature 0\nOnce\n",
         "stories.txt": "Once upon a time there was a dog. " * 80, "code.txt": "int main(void) { return 0; }\n" * 80}
# what comes of it, where that is a file
MADE = {"save": "story.dbrx", "export": "story.npz", "steer": "quiet.json", "atlas": "atlas.html", "dump": "out/logits.npy",
        "output": "log.txt"}

table = events("-c", "/help")[-1]["rows"]
ok(len(table) > 50, "the table has the commands", table)
for c in table:
    name, example = c["name"], c["example"]
    if not ok(example.split()[0] == "/" + name, "/%s has an example of itself" % name, example):
        continue
    with tempfile.TemporaryDirectory() as cwd:
        for file, text in FILES.items():
            with open(os.path.join(cwd, file), "w") as f:
                f.write(text)
        code, out, err = outcome("-b", "cpu-blas", "-s", "max_tokens=6", "--seed", "1",
                                 *lines("Once upon a time", *BEFORE.get(name, []), "/echo <<<", example, "/echo >>>"), cwd=cwd,
                                 env={**os.environ, "VISUAL": "cp question.txt", "XDG_STATE_HOME": cwd, "XDG_CONFIG_HOME": cwd})
        ok(code == 0 and "<<<\n" in out and (">>>\n" in out or name in ("quit", "output")), example, *BEFORE.get(name, []), code, out, err)
        if name in MADE:
            ok(os.path.getsize(os.path.join(cwd, MADE[name])) > 0, "... made " + MADE[name])
        ok("Example: " + example in outcome("-c", "/help " + name)[1], "... and is what /help %s shows" % name)
finish()
