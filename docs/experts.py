"""Makes docs/experts.md and its pictures by running dbrx on the bundled model:

    python3 docs/experts.py build/dbrx

All figures in the page are what the program says here and now; the sentences around them say
only what the figures decide."""
import json
import os
import subprocess
import sys
import tempfile

DOCS = os.path.dirname(os.path.abspath(__file__))
DBRX = os.path.abspath(sys.argv[1] if len(sys.argv) > 1 else "build/dbrx")
TOPICS = [json.loads(line) for line in open(DOCS + "/topics.jsonl", encoding="utf-8")]
KINDS = [("code", ["c", "python"], "C and Python"), ("arithmetic", ["arithmetic"], "sums"),
         ("dialogue", ["dialogue"], "questions and answers")]
LIMIT = 450                                    # tokens of a text for /ablate: it fits the context


def texts(topics):
    return [x["prompt"] for x in TOPICS if x["topic"] in topics]


def run(tmp, *lines, js=False):
    args = [DBRX, "-b", "cpu-blas", "-s", "max_tokens=1", "-s", "temperature=0", *(["--json"] if js else [])]
    for line in lines:
        args += ["-c", line]
    p = subprocess.run(args, cwd=tmp, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=True)
    return [json.loads(x) for x in p.stdout.splitlines()] if js else p.stdout.decode()


def begin(topics):
    """The first LIMIT tokens or so of a kind of text."""
    text, n = "\n\n".join(texts(topics)), LIMIT + 1
    while n > LIMIT:
        out = subprocess.run([DBRX, "tokenize", "-"], input=text.encode(), stdout=subprocess.PIPE, check=True).stdout
        n = len(out.split())
        text = text[:int(len(text) * min(1, LIMIT / n))] if n > LIMIT else text
    return text


def say(text=""):
    page.append(text)


def block(command, text):
    say("    dbrx> " + command)
    for line in text.rstrip("\n").split("\n"):
        say(("    " + line).rstrip())
    say()


def figures(without, text, events):
    """A row of the table, of what /ablate says."""
    e = next(x for x in events if x.get("of") == "ablation")
    r = {x["name"]: x for x in e["rows"]}
    p, kl = r["logprob_change"], r["kl"]
    return "| %s | %s | %+.3f | %.3f | %+.3f ± %.3f | %.3f ± %.3f | %d of %d |" % (
        without, text, p["value"], kl["value"], p["control_mean"], p["control_sd"], kl["control_mean"], kl["control_sd"],
        e["controls_as_strong"], e["controls"])


def sentence(without, text, events):
    e = next(x for x in events if x.get("of") == "ablation")
    r = {x["name"]: x for x in e["rows"]}
    p, kl = r["logprob_change"], r["kl"]
    if e["controls_as_strong"] > 1:
        return "%s and %s: no more than a random expert of the layer." % (without, text)
    change = "likelier, by" if p["value"] > 0 else "less likely, by"
    return "%s and %s: %.0f times the KL of a random one; what came next gets %s %.3f bits a token%s." % (
        without, text, kl["value"] / kl["control_mean"], change, abs(p["value"]),
        ": on this text the model does better without it" if p["value"] > 2 * p["control_sd"] else "")


page = []
say("""# What are the experts for?

<!-- made by docs/experts.py, which runs all of this; do not edit -->

A worked example with the bundled model: which experts prefer code, sums, dialogue, and what happens to such text,
and to other text, without them. The texts are `topics.jsonl` (see [instruments.md](instruments.md)), which the model
was not trained on. Make it again with `python3 docs/experts.py build/dbrx`.""")
say()
with tempfile.TemporaryDirectory() as tmp:
    def write(name, text):
        open(os.path.join(tmp, name), "w", encoding="utf-8").write(text)

    for kind, topics, _ in KINDS:
        others = [t for t in ("c", "python", "arithmetic", "dialogue", "prose", "dictionary") if t not in topics]
        write(kind + ".jsonl", "".join(json.dumps({"text": t}) + "\n" for t in texts(topics)))
        write("not-%s.jsonl" % kind, "".join(json.dumps({"text": t}) + "\n" for t in texts(others)))
        write(kind + ".txt", begin(topics))
    write("prose.txt", begin(["prose"]))

    best = {}
    for kind, _, words in KINDS:
        command = "/contrast %s.jsonl not-%s.jsonl --top 5" % (kind, kind)
        rows = run(tmp, command.replace("--top 5", "--top 96"), js=True)[-1]["rows"]
        prefer = [r for r in rows if r["difference"] > 0 and r["holds"] == "yes"]
        avoid = [r for r in rows if r["difference"] < 0 and r["holds"] == "yes"]
        best[kind] = "%d@%d" % (prefer[0]["expert"], prefer[0]["layer"])
        say("## %s\n" % kind.capitalize())
        say("%s against all the rest: %d of %d experts are used more for it, %d less, with 95%% for all of them together."
            % (words[0].upper() + words[1:], len(prefer), len(rows), len(avoid)))
        say("The surest is expert %s: %.0f%% of these tokens use it, %.0f%% of the others (its load by chance would be 25%%).\n"
            % (best[kind], 100 * prefer[0]["share_a"], 100 * prefer[0]["share_b"]))
        block(command, run(tmp, command))
        run(tmp, "/read %s.txt" % kind, "/route * --svg map.svg")
        os.replace(os.path.join(tmp, "map.svg"), "%s/experts-%s.svg" % (DOCS, kind))
        say("![experts of %s, by layer](experts-%s.svg)\n" % (words, kind))

    say("## Without them\n")
    say("Each of the three experts banned before the softmax (the router chooses another one), on %d tokens of "
        "its own kind of text and on prose: the change of the log probability of what came next, and how far all "
        "probabilities moved (KL), in bits a token. Beside it the same for 10 random experts of the same layer, mean and "
        "standard deviation, and how many of them moved as much.\n" % LIMIT)
    say("| without | text | log₂ p | KL | control: log₂ p | control: KL | as strong |\n|---|---|---:|---:|---:|---:|---:|")
    shown, told = [], []
    for kind, _, _ in KINDS:
        for text in (kind, "prose"):
            command = "/ablate %s --ban --against %s.txt --control 10" % (best[kind], text)
            events = run(tmp, command, js=True)
            say(figures(best[kind], text, events))
            told.append(sentence(best[kind], text, events))
            if text == kind:
                shown.append((command, run(tmp, command)))
    say()
    for text in told:
        say("- " + text)
    say()
    for command, text in shown:
        block(command, text)
open(DOCS + "/experts.md", "w", encoding="utf-8").write("\n".join(page).rstrip("\n") + "\n")
