#!/usr/bin/env python3
"""Records how the `gguf` package (pip install gguf) dequantises blocks of every type that
dbrx reads: one line a type, its name, the blocks and the float32 values, both in hex.

    python3 vectors.py > vectors.txt

Blocks are random but for their binary16 scales, which are moderate, negative or subnormal."""
import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType as T
from gguf.quants import dequantize

SCALES = {T.Q8_0: [0], T.Q4_0: [0], T.Q4_1: [0, 2], T.Q5_0: [0], T.Q5_1: [0, 2], T.IQ4_NL: [0],
          T.IQ4_XS: [0], T.Q2_K: [80, 82], T.Q3_K: [108], T.Q4_K: [0, 2], T.Q5_K: [0, 2],
          T.Q6_K: [208], T.F16: [0], T.BF16: [], T.F32: []}
rng = np.random.default_rng(1)

for t, places in SCALES.items():
    block, size = GGML_QUANT_SIZES[t]
    n = 64 if block == 1 else 4 if block == 32 else 2
    raw = rng.integers(0, 256, (n, size), dtype=np.uint8)
    if t in (T.BF16, T.F32):            # any bits but NaN and infinity
        raw[:, -1] &= 0xbf
    for at in places:
        scale = rng.normal(0, 0.1, n).astype(np.float16)
        scale[-1] = np.float16(3e-6)    # subnormal
        raw[:, at:at + 2] = scale.view(np.uint8).reshape(n, 2)
    values = dequantize(raw.reshape(1, -1) if block > 1 else raw.reshape(-1).view(
        {T.F16: np.float16, T.BF16: np.uint8, T.F32: np.float32}[t]), t)
    print(t.name, raw.tobytes().hex(), np.asarray(values, dtype="<f4").tobytes().hex())
