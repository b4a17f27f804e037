"""Every event of --json against docs/events.schema.json, whatever command made it.

Run by json.sh; speaks TAP.  A few dozen lines understand the part of JSON Schema that the
file uses.  With --markdown prints docs/json.md, which is made of the schema."""
import json
import os
import sys
import tempfile

SRC = os.environ.get("srcdir") or os.path.join(os.path.dirname(os.path.abspath(__file__)), "../..")
SCHEMA = json.load(open(os.path.join(SRC, "docs/events.schema.json"), encoding="utf-8"))
EVENTS = SCHEMA["oneOf"]
TYPES = {"string": str, "integer": int, "number": (int, float), "boolean": bool, "array": list, "object": dict,
         "null": type(None)}
KNOWN = {"$schema", "title", "description", "type", "const", "enum", "minimum", "properties", "required",
         "additionalProperties", "items", "oneOf"}


def check(v, s, where):
    """What is wrong with the value, as sentences."""
    assert set(s) <= KNOWN, "the validator does not know %s" % (set(s) - KNOWN)
    if "const" in s:
        return [] if v == s["const"] else ["%s is not %r" % (where, s["const"])]
    kinds = s.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if kinds and not any(isinstance(v, TYPES[k]) and (k == "boolean") == isinstance(v, bool) for k in kinds):
        return ["%s is no %s: %r" % (where, " or ".join(kinds), v)]
    bad = []
    if "enum" in s and v not in s["enum"]:
        bad.append("%s is none of %s: %r" % (where, s["enum"], v))
    if isinstance(v, (int, float)) and v < s.get("minimum", v):
        bad.append("%s is below %s" % (where, s["minimum"]))
    if isinstance(v, list):
        for i, item in enumerate(v):
            bad += check(item, s.get("items", {}), "%s[%d]" % (where, i))
    if isinstance(v, dict):
        props, more = s.get("properties", {}), s.get("additionalProperties", True)
        bad += ["%s has no %s" % (where, k) for k in s.get("required", []) if k not in v]
        for k, item in v.items():
            if k in props:
                bad += check(item, props[k], "%s.%s" % (where, k))
            elif more is False:
                bad.append("%s.%s is not in the schema" % (where, k))
            elif more is not True:
                bad += check(item, more, "%s.%s" % (where, k))
    return bad


def kind(e):
    return (e.get("type"), e.get("of"))


BY_KIND = {tuple(s["properties"].get(k, {}).get("const") for k in ("type", "of")): s for s in EVENTS}


def validate_result(e):
    """A line of --prompts' output."""
    return check(e, SCHEMA["$defs"]["failure" if "error" in e else "result"], "result")


def validate(e):
    s = BY_KIND.get(kind(e))
    return check(e, s, e["type"]) if s else ["no such event in docs/events.schema.json: %s %s" % kind(e)]


# ---- docs/json.md

def of_type(s):
    if "enum" in s:
        return " or ".join("`%s`" % v for v in s["enum"])
    t = s.get("type", "")
    return " or ".join(t) if isinstance(t, list) else t


def fields(s, indent=""):
    for name, f in s["properties"].items():
        if "const" in f:
            continue
        note = "" if name in s["required"] else ", not always"
        yield "%s- `%s` (%s%s): %s" % (indent, name, of_type(f), note, f["description"])
        inner = f.get("items", {})
        if "properties" in inner:
            yield from fields(inner, indent + "  ")


def markdown():
    yield "# JSON Lines\n"
    yield "<!-- made of events.schema.json by tests/cli/events.py --markdown -->\n"
    yield ("With `--json` every event is one object on one line of stdout, with a `type`.  Errors are also said on\n"
           "stderr.  Fields may be added; those here keep their meaning.  Text is valid UTF-8 whatever the bytes\n"
           "were (U+FFFD instead of what is not).  Probabilities, weights and speeds have nine digits.\n"
           "`/output FILE` sends the events that follow to a file.  The same as a JSON Schema:\n"
           "[events.schema.json](events.schema.json).")
    for s in EVENTS:
        t, of = (s["properties"].get(k, {}).get("const") for k in ("type", "of"))
        yield '\n## `"type":"%s"%s`\n\n%s.\n' % (t, ',"of":"%s"' % of if of else "", s["title"])
        yield from fields(s)
    yield "\n## Results of `--prompts`\n"
    yield ("One object a line, without a `type`, in the order of the input (`$defs` of the schema).  A run that was\n"
           "killed or had failures goes on when the same command runs again: what is answered stays as it is,\n"
           "the rest comes behind it.")
    for s in SCHEMA["$defs"].values():
        yield "\n### %s\n" % s["title"]
        yield from fields(s)


# ---- a run of all commands


def run(*args, cwd):
    """The events of a run, those that /output took away included."""
    import common                          # which a look at the schema does without
    env = {**os.environ, "EDITOR": "cp question.txt", "VISUAL": ""}
    given = [] if args[0][0] != "-" else ["--json", "-b", common.BACKEND, "-s", "max_tokens=3"]
    text = common.run(*given, *args, cwd=cwd, env=env).stdout.decode("utf-8")
    if os.path.exists(cwd + "/log.txt"):
        text += open(cwd + "/log.txt", encoding="utf-8").read()
    return [json.loads(line) for line in text.splitlines()]


def main():
    import common
    from common import finish, ok
    seen = set()

    def runs(name, *args):
        with tempfile.TemporaryDirectory() as cwd:
            open(cwd + "/question.txt", "w").write("What is the capital of France?\n")
            open(cwd + "/setup.dbrx", "w").write("/set temperature 0\n/nonsense\n")
            evs = run(*args, cwd=cwd)
        bad = [(e, w) for e in evs for w in validate(e)]
        ok(evs and not bad, name, *bad)
        seen.update(map(kind, evs))
        return evs

    base = ["-c", "Once upon", "-s", "on_error=continue"]
    commands = runs("/help", "-c", "/help")[-1]["rows"]
    for c in commands:
        runs(c["example"], *base, "-c", c["example"], "-c", "/" + c["name"], "-c", "/" + c["name"] + " no such thing")
    runs("settings, probabilities", "-s", "show=probs", "-c", "Once", "-c", "/logits 4096", "-c", "/help likely",
         "-c", "/help keys")
    runs("an end of text", "-s", "mode=chat", "-s", "temperature=0", "-s", "max_tokens=0", "-c",
         "What is the capital of France?")
    runs("an ablation sweep, lenses", "-c", "Lily", "-c", "/ablate --sweep --omit", "-c", "/lens 0", "-c", "/lens 0 --experts --top 5",
         "-c", "/lens")
    runs("a full context", "--ctx", "4", "-c", "Once upon", "-c", "x")
    runs("other experts, other tokens", "-c", "/feed 930 739 259 559 11 5 77 4000", "-c", "/force 3@1", "-c",
         "/compare cpu-blas --tokens 3 --top 2", "-c", "/compare all", "-c", "/bench ref --gen 0 --prompt 2 --reps 1")
    runs("a plan", "--module-path", os.environ["EMULATED"], "-c", "/backend cuda-emu")
    runs("dbrx compare", "compare", "--json", "ref", "cpu-blas", "--against", "question.txt", "--max-kl", "0")
    nano = os.path.join(os.path.abspath(SRC), "models/nano")
    runs("dbrx quantize", "quantize", "--json", "--type", "q8_0", nano, "q.gguf")
    runs("dbrx convert", "convert", "--json", nano, "c.gguf")
    runs("dbrx imatrix", "imatrix", "--json", "--text", "question.txt", "--out", "i.gguf")
    runs("dbrx perplexity", "perplexity", "--json", "--window", "4", "--reference", nano, "question.txt")
    with tempfile.TemporaryDirectory() as cwd:
        open(cwd + "/batch", "w").write('{"prompt":"Once"}\n{"id":"x","messages":[{"role":"user","content":"Hi"}]}\nnonsense\n'
                                        '{"id":1.5,"prompt":"a","settings":{"top_p":7}}\n{"id":[],"prompt":"a"}\n')
        text = common.run("-b", "ref", "-s", "max_tokens=3", "-s", "handover=1=cpu-blas", "--prompts", "batch", cwd=cwd).stdout.decode("utf-8")
        results = [json.loads(line) for line in text.splitlines()]
    ok([r["id"] for r in results] == [1, "x", 3, 1.5, 5] and ["error" in r for r in results] == [False, False, True, True, True] and
       not any(map(validate_result, results)), "--prompts", results, [validate_result(r) for r in results])
    ok(all(validate_result({k: v for k, v in r.items() if k != cut}) for r in (results[0], results[2]) for cut in r if cut != "error"),
       "... every field is wanted")
    ok(set(BY_KIND) <= seen, "every kind of event was made", set(BY_KIND) - seen)

    # the validator itself
    good = {"type": "token", "pos": 0, "id": 1, "text": ""}
    for name, e in {"a missing field": {"type": "token", "pos": 0, "id": 1}, "another type": {**good, "id": "1"},
                    "a boolean for a number": {**good, "id": True}, "an unknown field": {**good, "x": 1},
                    "below the minimum": {**good, "pos": -1}, "an unknown event": {"type": "toke"},
                    "an unknown table": {"type": "rows", "of": "x", "rows": []},
                    "a wrong row": {"type": "rows", "of": "tokens", "rows": [{"pos": 1}]}}.items():
        ok(validate(e) and not validate(good), "the schema refuses " + name)
    ok(open(os.path.join(SRC, "docs/json.md"), encoding="utf-8").read() == "\n".join(markdown()) + "\n",
       "docs/json.md is what the schema says (tests/cli/events.py --markdown)")
    finish()


if __name__ == "__main__":
    if sys.argv[1:] == ["--markdown"]:
        print("\n".join(markdown()))
    elif sys.argv[1:2] == ["--check"]:     # a file of events; what is wrong with them, as a comment
        wrong = [w for line in open(sys.argv[2], encoding="utf-8") for w in validate(json.loads(line))]
        print("".join("# %s\n" % w for w in wrong[:20]), end="")
        sys.exit(bool(wrong))
    else:
        main()
