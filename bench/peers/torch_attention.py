"""Attention in PyTorch on a GPU: the peer of bench/gpu/attention_bench, on its shapes and with its count of operations.

    python bench/peers/torch_attention.py [--device cpu]

scaled_dot_product_attention, causal, on dense batches whose memory is laid out as [sequences, length, heads, d]; forward
and backward each as one CUDA graph, with PyTorch's flash attention and with cuDNN's. Operations: 4 d for each pair of a
query head and a key it sees in forward, 10 d in backward. One JSON object a line, as bench/README.md describes. --device
cpu shows that the program runs, nothing else.
"""
import argparse
import math

import torch
import torch.nn.functional as F
from record import each_cell, print_record
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch_lora_linear import captured, times_in_turn

# Query heads, key heads, d, sequences, length.
SHAPES = [(14, 2, 64, 4, 2048), (32, 8, 64, 4, 2048), (32, 8, 128, 2, 2048), (32, 8, 64, 1, 8192), (32, 8, 128, 1, 8192)]
BACKENDS = {"torch flash": SDPBackend.FLASH_ATTENTION, "torch cuDNN": SDPBackend.CUDNN_ATTENTION,
            "torch": SDPBackend.MATH}  # which the CPU has


def measure(by, heads, kv_heads, d, sequences, length, device):
    def random(count):
        return torch.randn(sequences, length, count, d, device=device, dtype=torch.bfloat16).transpose(1, 2)

    q, k, v = (random(count).requires_grad_() for count in (heads, kv_heads, kv_heads))
    dy = random(heads)

    def forward():
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=1 / math.sqrt(d), enable_gqa=True)

    def only_forward():
        with torch.no_grad():
            forward()

    def make_backward():
        y = forward()
        return lambda: torch.autograd.grad(y, (q, k, v), dy, retain_graph=True)

    with sdpa_kernel(BACKENDS[by]):
        if device == "cpu":
            only_forward(), make_backward()()
            return
        functions = {"forward": captured(lambda: only_forward), "backward": captured(make_backward)}
    times = times_in_turn(functions, 5, 20)
    case = {"heads": heads, "kv_heads": kv_heads, "d": d, "sequences": sequences, "length": length, "dtype": "bf16"}
    pairs = heads * sequences * length * (length + 1) / 2
    for direction, operations in (("forward", 4), ("backward", 10)):
        print_record(by, f"attention {direction}", case, times[direction], "us",
                     tflops=operations * pairs * d / times[direction][0] / 1e6)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    options = parser.parse_args()
    if options.device == "cpu":
        measure("torch", 4, 2, 16, 2, 32, "cpu")
        return
    each_cell([(by, *shape, options.device) for by in ("torch flash", "torch cuDNN") for shape in SHAPES], measure)


if __name__ == "__main__":
    main()
