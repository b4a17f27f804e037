"""Checkpoints: those of the tree by name, broken copies, and any shape made of noise."""
import json
import os
import shutil
import struct

from common import SRC


def checkpoint(name):
    return os.path.join(SRC, "tests/data", name)


def with_nan_router(to, layer):
    """A copy of tiny-bf16 whose router at that layer is no number."""
    shutil.copytree(checkpoint("tiny-bf16"), to)
    path = os.path.join(to, "model.safetensors")
    os.chmod(to, 0o755)
    os.chmod(path, 0o644)
    data = bytearray(open(path, "rb").read())
    n = struct.unpack("<Q", data[:8])[0]
    head = json.loads(data[8:8 + n])
    begin, end = head["transformer.blocks.%d.ffn.router.layer.weight" % layer]["data_offsets"]
    for i in range(8 + n + begin, 8 + n + end, 2):
        data[i:i + 2] = b"\xc0\x7f"
    open(path, "wb").write(data)


def random_model(to, layers, experts=16, top_k=4, d=32, ffn=16, ctx=2048):
    """A checkpoint of any shape with nano's vocabulary, whose weights are noise."""
    import numpy as np
    nano = os.path.join(SRC, "models/nano")
    os.mkdir(to)
    for name in "tokenizer.json", "tokenizer_config.json", "generation_config.json":
        shutil.copyfile(os.path.join(nano, name), os.path.join(to, name))
    config = json.load(open(os.path.join(nano, "config.json")))
    config.update(d_model=d, n_layers=layers, n_heads=4, max_seq_len=ctx)
    config["attn_config"]["kv_n_heads"] = 2
    config["ffn_config"].update(ffn_hidden_size=ffn, moe_num_experts=experts, moe_top_k=top_k)
    json.dump(config, open(os.path.join(to, "config.json"), "w"))
    v, tensors = config["vocab_size"], {}
    tensors.update({"transformer.wte.weight": (v, d), "transformer.norm_f.weight": (d,), "lm_head.weight": (v, d)})
    for l in range(layers):
        b = "transformer.blocks.%d." % l
        tensors.update({b + "norm_attn_norm.norm_1.weight": (d,), b + "norm_attn_norm.norm_2.weight": (d,),
                        b + "norm_attn_norm.attn.Wqkv.weight": (2 * d, d), b + "norm_attn_norm.attn.out_proj.weight": (d, d),
                        b + "ffn.router.layer.weight": (experts, d), b + "ffn.experts.mlp.w1": (experts * ffn, d),
                        b + "ffn.experts.mlp.v1": (experts * ffn, d), b + "ffn.experts.mlp.w2": (experts * ffn, d)})
    rng, head, data = np.random.default_rng(1), {}, b""
    for name, shape in tensors.items():
        x = np.ones(shape) if "norm_" in name.split(".")[-2] else rng.normal(0, 0.3, shape)
        part = x.astype("<f2").tobytes()
        head[name] = {"dtype": "F16", "shape": shape, "data_offsets": [len(data), len(data) + len(part)]}
        data += part
    text = json.dumps(head).encode()
    text += b" " * (-len(text) % 8)
    open(os.path.join(to, "model.safetensors"), "wb").write(struct.pack("<Q", len(text)) + text + data)
