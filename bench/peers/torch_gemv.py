"""Products of few rows in PyTorch on a GPU: the peer of bench/gpu/gemv_bench, on its shapes.

    python bench/peers/torch_gemv.py [--device cpu]

torch.nn.functional.linear in bf16, which calls cuBLAS: each product of a layer and the head by itself, and the chain of
those of 16 layers, each as one CUDA graph. Every product has a weight of its own, as many as together pass the L2 cache four
times. It is the product alone, without the SwiGLU or the residual that gemv_bench's products have in them, and its logits
are bf16. GB/s counts each weight once. One JSON object a line, as bench/README.md describes. --device cpu shows that the
program runs, nothing else.
"""
import argparse

import torch
import torch.nn.functional as F
from record import each_cell, print_record
from torch_elementwise import cache_bytes
from torch_lora_linear import captured, times_in_turn

LAYERS = 16
ROWS = [1, 4, 8]
HEAD = "head"
# Products by name: n, k.
MODELS = {"Llama-3.2-1B": {"qkv": (3072, 2048), "o": (2048, 2048), "gate_up": (16384, 2048), "down": (2048, 8192),
                           HEAD: (128256, 2048)},
          "Qwen2.5-0.5B": {"qkv": (1152, 896), "o": (896, 896), "gate_up": (9728, 896), "down": (896, 4864),
                           HEAD: (151936, 896)}}
TINY = {"tiny": {"qkv": (48, 32), "o": (32, 32), HEAD: (64, 32)}}


def measure(model, products, rows, device):
    def placed(n, k):
        x = torch.randn(rows, k, device=device, dtype=torch.bfloat16)
        return x, 0.02 * torch.randn(n, k, device=device, dtype=torch.bfloat16)

    def make(group):
        def run():
            with torch.no_grad():
                for x, weight in group:
                    F.linear(x, weight)
        return run

    groups = {name: [placed(n, k) for _ in range(max(4, 4 * cache_bytes(device) // (2 * n * k) + 1))]
              for name, (n, k) in products.items()}
    chain = f"{LAYERS} layers"
    groups[chain] = [placed(n, k) for _ in range(LAYERS) for name, (n, k) in products.items() if name != HEAD]
    if device == "cpu":
        for group in groups.values():
            make(group)()
        return
    functions = {name: captured(lambda: make(group)) for name, group in groups.items()}
    for name, spread in times_in_turn(functions, 21).items():
        count = 1 if name == chain else len(groups[name])
        us = [t / count for t in spread]
        size = sum(2 * weight.numel() for _, weight in groups[name]) / count
        print_record("torch", "gemv", {"model": model, "product": name, "rows": rows, "dtype": "bf16"}, us, "us",
                     gb_s=size / us[0] / 1e3)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    options = parser.parse_args()
    models = MODELS if options.device == "cuda" else TINY

    def measure_cell(model, rows):
        measure(model, models[model], rows, options.device)

    each_cell([(model, rows) for model in models for rows in ROWS], measure_cell)


if __name__ == "__main__":
    main()
