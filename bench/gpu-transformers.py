#!/usr/bin/env python3
"""The reference implementation (PyTorch, Hugging Face transformers) on a shape of bench/shape.c, random weights
in bfloat16, for bench/gpu:  gpu-transformers.py SHAPE [--tokens N] [--prompt N] [--reps N] [--device cuda|cpu]

Prints lines as bench/gpu-speed does, or one sentence that says why there are none."""
import argparse
import statistics
import sys
import time

SHAPES = {"tiny": (2, 256, 4, 2, 512, 1024), "mini": (8, 1024, 8, 2, 1792, 100352), "9b": (24, 2048, 16, 8, 3584, 100352)}


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("shape", choices=SHAPES)
    p.add_argument("--tokens", type=int, default=32)
    p.add_argument("--prompt", type=int, default=2048)
    p.add_argument("--reps", type=int, default=3)
    p.add_argument("--device")
    args = p.parse_args()

    def without(why):
        print(f"transformers, {args.shape}: not measured: {why}")
        sys.exit()
    try:
        import torch
        import transformers
    except Exception as e:
        without(f"this Python cannot load torch and transformers ({e})")
    if not hasattr(transformers, "DbrxForCausalLM"):
        without(f"transformers {transformers.__version__} has no DBRX")
    if not args.device and not torch.cuda.is_available():
        without(f"torch {torch.__version__} has no CUDA here")
    device = args.device or "cuda"
    name = f"transformers {transformers.__version__}, torch {torch.__version__}, {args.shape} bf16"
    layers, d, heads, kv, ffn, vocab = SHAPES[args.shape]
    try:
        config = transformers.DbrxConfig(
            d_model=d, n_heads=heads, n_layers=layers, max_seq_len=32768, vocab_size=vocab,
            attn_config={"clip_qkv": 8.0, "kv_n_heads": kv, "rope_theta": 500000.0},
            ffn_config={"ffn_act_fn": {"name": "silu"}, "ffn_hidden_size": ffn, "moe_num_experts": 16, "moe_top_k": 4,
                        "moe_jitter_eps": None, "moe_normalize_expert_weights": 1.0})
        torch.manual_seed(1)
        torch.set_default_dtype(torch.bfloat16)
        if hasattr(torch, "set_default_device"):        # since 2.0: where the weights are made
            torch.set_default_device(device)
        model = transformers.DbrxForCausalLM(config).eval().to(device)
        wait = torch.cuda.synchronize if device == "cuda" else lambda: None
        ids = torch.tensor([[(i * 2654435761 % 2**32 >> 7) % vocab for i in range(max(args.prompt, args.tokens))]],
                           device=device)

        def prompt():
            return model(ids[:, :args.prompt], use_cache=True)

        def generation():
            cache = None
            for i in range(args.tokens):
                out = model(ids[:, i:i + 1], past_key_values=cache, use_cache=True)
                cache = out.past_key_values
            return out

        for label, run, n in (("at     0  ", generation, args.tokens), (f"prompt {args.prompt:4}", prompt, args.prompt)):
            seconds = []
            with torch.no_grad():
                for rep in range(args.reps + 1):        # the first warms up
                    wait()
                    began = time.perf_counter()
                    out = run()
                    wait()
                    if rep:
                        seconds.append(time.perf_counter() - began)
            if not torch.isfinite(out.logits[0, -1].float()).all():
                without(f"{name}: its logits are not finite")
            print(f"{name}: {label} {n / statistics.median(seconds):.2f} tok/s "
                  f"({n / max(seconds):.2f}-{n / min(seconds):.2f})", flush=True)
    except Exception as e:                              # a version whose DBRX does not work says so here
        without(f"{name}: {type(e).__name__}: {str(e).splitlines()[0] if str(e) else ''}"[:250])


main()
