#!/usr/bin/env python3
"""Writes tests/data/sampling/golden.jsonl: what transformers' own logits processors and
warpers, in the order in which its generate() lines them up, make of recorded logits.

Run with Python 3.11, torch 1.13.1, transformers 4.41.2 and numpy 1.24.2; not needed to
build or test, its output is committed:   python3 tests/sampling/golden.py

Processors run in float32, as the logits come; warpers in float64, so that a set's border is
where the definition puts it and not where a float32 sum does.  OpenAI's frequency and
presence penalties, which transformers does not have, are handed to it as a custom processor
and so land where generate() puts those: behind its own.

The first line names the versions, then come rows of logits {"row", "logits"} and cases
{"row", "history", "n_prompt", "eos", "params", "p": [[id, probability], ...]}; a case
without survivors has an empty p.
"""
import json
import os
import warnings

import numpy as np
import torch
import transformers
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList
from transformers.generation.utils import GenerationMixin

warnings.filterwarnings("ignore")
OUT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "data", "sampling", "golden.jsonl")
rng = np.random.default_rng(20240501)


class OpenAIPenalties(LogitsProcessor):
    """logit -= count * frequency_penalty + (count > 0) * presence_penalty, of sampled tokens"""
    def __init__(self, n_prompt, frequency, presence):
        self.n_prompt, self.frequency, self.presence = n_prompt, frequency, presence

    def __call__(self, ids, scores):
        count = torch.bincount(ids[0, self.n_prompt:], minlength=scores.shape[-1])[None]
        return scores - (count * self.frequency + (count > 0) * self.presence).float()


WARPERS = ("temperature", "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff")


def generate_p(logits, history, n_prompt, eos, params):
    given = {k: v for k, v in params.items() if k not in ("frequency_penalty", "presence_penalty", "logit_bias")}
    greedy = given.get("temperature") == 0
    if greedy:
        given = {k: v for k, v in given.items() if k not in WARPERS}
    if params.get("logit_bias"):
        given["sequence_bias"] = {(i,): float(b) for i, b in params["logit_bias"]}
    given.setdefault("top_k", 0)           # GenerationConfig's own default is 50
    config = GenerationConfig(do_sample=not greedy, eos_token_id=eos, **given)
    custom = LogitsProcessorList()
    if params.get("frequency_penalty") or params.get("presence_penalty"):
        custom.append(OpenAIPenalties(n_prompt, params.get("frequency_penalty", 0),
                                      params.get("presence_penalty", 0)))
    mixin = GenerationMixin()
    ids = torch.tensor([history], dtype=torch.long)
    processors = mixin._get_logits_processor(config, n_prompt, ids[:, :n_prompt], None, custom, model_kwargs={})
    scores = processors(ids, torch.tensor(logits, dtype=torch.float32)[None])
    assert scores.dtype == torch.float32
    if not torch.isfinite(scores).any():
        return []
    if greedy:
        return [[int(scores[0].argmax()), 1.0]]
    scores = mixin._get_logits_warper(config)(ids, scores.double())
    p = scores[0].softmax(-1).tolist()
    return [[i, round(p[i], 8)] for i in range(len(p)) if scores[0, i] > -np.inf]


def make_rows():
    rows = []
    for v in (64, 97, 130):
        for kind in range(4):
            x = rng.normal(0, 3, v)
            if kind == 1:                  # a peak and a long tail
                x = -np.sort(rng.exponential(2.0, v))
                rng.shuffle(x)
                x[rng.integers(v)] += 3
            if kind == 2:                  # few values, many ties
                x = np.round(x / 2) * 2
            if kind == 3:                  # nearly flat
                x = rng.normal(0, 0.2, v)
            rows.append([float("%.6g" % f) for f in x])
            rows[-1] = [float(np.float32(f)) for f in rows[-1]]
            rows[-1] = [float("%.9g" % f) for f in rows[-1]]
    rows.append([1.0] * 64)                # all the same
    rows.append([float(i % 2) for i in range(64)])
    return rows


def make_history(v):
    n = int(rng.integers(2, 40))
    few = rng.integers(0, v, 8)            # so that n-grams come back
    return [int(i) for i in rng.choice(few, n)], int(rng.integers(1, n + 1))


ONE = [("temperature", [0, 0.1, 0.7, 1.0, 1.5, 5.0]), ("top_k", [1, 2, 7, 50, 500]),
       ("top_p", [0.0, 0.1, 0.5, 0.9, 0.95, 0.999]), ("min_p", [0.0, 0.02, 0.2, 0.7, 1.0]),
       ("typical_p", [0.05, 0.3, 0.6, 0.9, 0.99]), ("epsilon_cutoff", [0.0003, 0.005, 0.03, 0.5]),
       ("eta_cutoff", [0.0003, 0.004, 0.05, 0.6]), ("repetition_penalty", [0.5, 1.1, 1.3, 4.0]),
       ("no_repeat_ngram_size", [1, 2, 3, 5, 61]), ("frequency_penalty", [-0.5, 0.3, 2.0]),
       ("presence_penalty", [-1.0, 0.6, 2.0]), ("min_new_tokens", [1, 10, 100])]


def one_value(name):
    values = dict(ONE)[name]
    return values[int(rng.integers(len(values)))]


def make_cases(rows):
    for row, logits in enumerate(rows):    # each parameter alone
        for name, values in ONE:
            value = values[(row + int(rng.integers(2))) % len(values)]
            yield row, {name: value}
        yield row, {}
        yield row, {"suppress_tokens": [int(i) for i in rng.choice(len(logits), 9, replace=False)]}
        yield row, {"logit_bias": [[int(i), float(b)] for i, b in
                                   zip(rng.choice(len(logits), 5, replace=False), (-100, -2.5, .5, 3, 7))]}
    yield len(rows) - 1, {"suppress_tokens": list(range(64))}
    for n in range(300):                   # combined
        row = int(rng.integers(len(rows)))
        v = len(rows[row])
        params = {name: one_value(name) for name, _ in ONE if rng.random() < 0.4}
        if params.get("temperature") == 0 and n % 5:
            del params["temperature"]
        if rng.random() < 0.3:
            params["suppress_tokens"] = [int(i) for i in rng.choice(v, 5, replace=False)]
        if rng.random() < 0.3:
            params["logit_bias"] = [[int(i), float(b)] for i, b in zip(rng.choice(v, 3, replace=False), (-3, 1, 4))]
        yield row, params


def main():
    rows = make_rows()
    os.makedirs(os.path.dirname(OUT), exist_ok=True)
    with open(OUT, "w") as f:
        dump = lambda o: f.write(json.dumps(o, separators=(",", ":")) + "\n")
        dump({"made_by": "tests/sampling/golden.py", "torch": torch.__version__,
              "transformers": transformers.__version__, "numpy": np.__version__})
        for i, r in enumerate(rows):
            dump({"row": i, "logits": r})
        for row, params in make_cases(rows):
            v = len(rows[row])
            history, n_prompt = make_history(v)
            eos = [int(i) for i in rng.choice(v, 2, replace=False)]
            dump({"row": row, "history": history, "n_prompt": n_prompt, "eos": eos, "params": params,
                  "p": generate_p(rows[row], history, n_prompt, eos, params)})


main()
