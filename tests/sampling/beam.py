#!/usr/bin/env python3
"""Writes tests/data/sampling/beam.jsonl: transformers' beam search on checkpoints of this tree.

Run with Python 3.11, torch 1.13.1, transformers 4.41.2; not needed to build or test, its
output is committed:   python3 tests/sampling/beam.py

The model is transformers' DbrxForCausalLM in float64, so that what is compared is the search
and not the rounding.  Each line: checkpoint, prompt, eos, what generate() was given, and of
the reply its tokens without the eos at its end, whether it has one, and its score.
"""
import json
import os
import warnings

import numpy as np
import torch
import transformers

warnings.filterwarnings("ignore")
transformers.logging.set_verbosity_error()
ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
OUT = os.path.join(ROOT, "tests", "data", "sampling", "beam.jsonl")
rng = np.random.default_rng(7)


class LayerNorm(torch.nn.LayerNorm):       # torch 1.13's cannot go without a bias
    def __init__(self, n, bias=True, **other):
        super().__init__(n, **other)
        if not bias:
            self.register_parameter("bias", None)


torch.nn.LayerNorm = LayerNorm
from transformers import DbrxForCausalLM  # noqa: E402


def cases(count):
    for n in range(count):
        given = {"num_beams": int(rng.integers(2, 5)), "max_new_tokens": int(rng.integers(1, 18)),
                 "length_penalty": float(rng.choice([-1.0, 0.0, 0.5, 1.0, 2.0])),
                 "early_stopping": [False, True, "never"][n % 3]}
        if n % 8 == 1:
            given["repetition_penalty"] = 1.3
        if n % 8 == 3:
            given["no_repeat_ngram_size"] = 2
        if n % 8 == 5:
            given["min_new_tokens"] = 4
        yield given


def main():
    torch.set_num_threads(2)
    with open(OUT, "w") as f:
        dump = lambda o: f.write(json.dumps(o, separators=(",", ":")) + "\n")
        dump({"made_by": "tests/sampling/beam.py", "torch": torch.__version__,
              "transformers": transformers.__version__})
        # in the last pass replies tend to end at every step, so that it counts which are kept
        for name, count, bias in (("tests/data/tiny-bf16", 150, 0), ("models/nano", 20, 0),
                                  ("tests/data/tiny-bf16", 90, 5)):
            model = DbrxForCausalLM.from_pretrained(os.path.join(ROOT, name), torch_dtype=torch.float64).eval()
            vocab = model.config.vocab_size
            for given in cases(count):
                prompt = [int(i) for i in rng.integers(0, vocab - 20, int(rng.integers(2, 9)))]
                with torch.no_grad():
                    # ids that are likely somewhere along the way end a reply
                    ids = torch.tensor([prompt])
                    mask = torch.ones_like(ids)            # 0 in a prompt is a token, no padding
                    free = model.generate(ids, attention_mask=mask, do_sample=False, num_beams=4, max_new_tokens=6,
                                          eos_token_id=None, pad_token_id=0, num_return_sequences=4)
                    eos = sorted({int(free[int(rng.integers(4)), len(prompt) + int(rng.integers(0, 6))])
                                  for _ in range(int(rng.integers(1, 7)))})
                    if bias:
                        given["logit_bias"] = [[i, float("%.3g" % rng.uniform(0, bias))] for i in eos]
                    other = {k: v for k, v in given.items() if k != "logit_bias"}
                    if bias:
                        other["sequence_bias"] = {(i,): b for i, b in given["logit_bias"]}
                    out = model.generate(ids, attention_mask=mask, do_sample=False, eos_token_id=eos, pad_token_id=0,
                                         return_dict_in_generate=True, output_scores=True, **other)
                reply = out.sequences[0, len(prompt):].tolist()
                ended = reply[-1] in eos
                dump({"checkpoint": name, "prompt": prompt, "eos": eos, "given": given,
                      "tokens": reply[:-1] if ended else reply, "ended": ended,
                      "score": float("%.8g" % out.sequences_scores[0])})


main()
