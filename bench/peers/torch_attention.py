"""Attention in PyTorch on a GPU: the peer of bench/gpu/attention_bench, on its shapes and with its count of operations.

    python bench/peers/torch_attention.py [decode] [--device cpu]

scaled_dot_product_attention, causal, on dense batches whose memory is laid out as [sequences, length, heads, d]; forward
and backward each as one CUDA graph, with PyTorch's flash attention and with cuDNN's, in float32 with the memory-efficient
one, for which keys and values are repeated. The graphs go round as many sets of tensors as pass the L2 cache four times.
Operations: 4 d for each pair of a query head and a key it sees in forward, 10 d in backward.

decode: one query of all keys of a cache, by flash attention and by cuDNN, in graphs that go round as many caches as are
twice the L2 cache together. Bytes are those of keys and values. One that does not take a shape is told on standard error,
and a shape that neither takes has failed. One JSON object a line, as bench/README.md describes. --device cpu shows that
the program runs, nothing else.
"""
import argparse
import math
import sys

import torch
import torch.nn.functional as F
from record import each_cell, print_record
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch_elementwise import DTYPES, cache_bytes
from torch_lora_linear import captured, times_in_turn

# Query heads, key heads, d, sequences, length.
SHAPES = [(14, 2, 64, 4, 2048), (32, 8, 64, 4, 2048), (32, 8, 128, 2, 2048), (32, 8, 64, 1, 8192), (32, 8, 128, 1, 8192)]
F32_SHAPE = (14, 2, 64, 1, 2048)
MODELS = [(14, 2, 64), (32, 8, 64), (32, 8, 128)]
LENGTHS = [128, 256, 512, 2048, 8192, 32768, 131072]
LEAST_CAPACITY = 8192
BACKENDS = {"torch flash": SDPBackend.FLASH_ATTENTION, "torch cuDNN": SDPBackend.CUDNN_ATTENTION,
            "torch efficient": SDPBackend.EFFICIENT_ATTENTION, "torch math": SDPBackend.MATH}  # which the CPU has


def attend(q, k, v, repeat_keys):
    if repeat_keys:  # the memory-efficient one takes as many key heads as query heads
        k, v = (t.unsqueeze(2).expand(-1, -1, q.size(1) // t.size(1), -1, -1).flatten(1, 2) for t in (k, v))
    scale = 1 / math.sqrt(q.size(-1))
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale, enable_gqa=not repeat_keys)


def measure(by, dtype, heads, kv_heads, d, sequences, length, device):
    def random(count):
        return torch.randn(sequences, length, count, d, device=device, dtype=DTYPES[dtype]).transpose(1, 2)

    repeat_keys = by == "torch efficient"
    size = 2 * sequences * length * (heads + kv_heads) * d * DTYPES[dtype].itemsize
    sets = [([random(count).requires_grad_() for count in (heads, kv_heads, kv_heads)], random(heads))
            for _ in range(max(1, math.ceil(4 * cache_bytes(device) / size)))]
    kept = [None] * len(sets)  # so that each set has results of its own

    def forward():
        with torch.no_grad():
            for i, (inputs, _) in enumerate(sets):
                kept[i] = attend(*inputs, repeat_keys)

    def make_backward():
        outputs = [attend(*inputs, repeat_keys) for inputs, _ in sets]

        def backward():
            for i, (inputs, dy) in enumerate(sets):
                kept[i] = torch.autograd.grad(outputs[i], inputs, dy, retain_graph=True)
        return backward

    with sdpa_kernel(BACKENDS[by]):
        if device == "cpu":
            forward(), make_backward()()
            return
        functions = {"forward": captured(lambda: forward), "backward": captured(make_backward)}
    times = times_in_turn(functions, 5, max(1, (3 if dtype == "f32" else 20) // len(sets)))
    case = {"heads": heads, "kv_heads": kv_heads, "d": d, "sequences": sequences, "length": length, "dtype": dtype}
    pairs = heads * sequences * length * (length + 1) / 2
    for direction, operations in (("forward", 4), ("backward", 10)):
        us = [t / len(sets) for t in times[direction]]
        print_record(by, f"attention {direction}", case, us, "us", tflops=operations * pairs * d / us[0] / 1e6)


def measure_decoding(heads, kv_heads, d, length, device):
    row = kv_heads * d
    size = 2 * length * row * 2
    caches = int(2 * cache_bytes(device) / size) + 4
    # Views of two pools, each of which begins where the last one's rows end.
    pools = [torch.randn((caches * length + max(length, LEAST_CAPACITY)) * row, device=device, dtype=torch.bfloat16)
             for _ in range(2)]

    def cache(pool, i):
        rows = pool[i * length * row:(i + 1) * length * row]
        return rows.view(1, length, kv_heads, d).transpose(1, 2)

    views = [tuple(cache(pool, i) for pool in pools) for i in range(caches)]
    q = torch.randn(1, heads, 1, d, device=device, dtype=torch.bfloat16)

    def run():
        with torch.no_grad():
            for k, v in views:
                F.scaled_dot_product_attention(q, k, v, scale=0.1, enable_gqa=True)

    taken = 0
    for by in ("torch math",) if device == "cpu" else ("torch flash", "torch cuDNN"):
        with sdpa_kernel(BACKENDS[by]):
            try:
                F.scaled_dot_product_attention(q, *views[0], scale=0.1, enable_gqa=True)
            except RuntimeError as error:
                print(f"{by} does not take one query of {length} keys, {heads}/{kv_heads} heads of {d}: {error}",
                      file=sys.stderr)
                continue
            taken += 1
            if device == "cpu":
                run()
                continue
            us = [t / caches for t in times_in_turn({by: captured(lambda: run)}, 5, 3)[by]]
        print_record(by, "attention of one query", {"heads": heads, "kv_heads": kv_heads, "d": d, "length": length,
                                                    "dtype": "bf16"}, us, "us", gb_s=size / us[0] / 1e3)
    if not taken:
        raise RuntimeError("no kernel takes it")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=["training", "decode"], default="training")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    options = parser.parse_args()
    if options.what == "decode":
        cells = [(*model, length) for length in LENGTHS for model in MODELS]
        each_cell([(*cell, options.device) for cell in (cells if options.device == "cuda" else [(4, 2, 16, 32)])],
                  measure_decoding)
        return
    cells = [(by, "bf16", *shape) for by in ("torch flash", "torch cuDNN") for shape in SHAPES]
    cells.append(("torch efficient", "f32", *F32_SHAPE))
    if options.device == "cpu":
        cells = [("torch math", dtype, 4, 2, 16, 2, 32) for dtype in ("bf16", "f32")]
    each_cell([(*cell, options.device) for cell in cells], measure)


if __name__ == "__main__":
    main()
