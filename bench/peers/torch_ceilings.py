"""What the device can do, by PyTorch: a bf16 product of square matrices of 8192, and a copy of 2 GiB.

    python bench/peers/torch_ceilings.py

One JSON object a line, as bench/README.md describes.
"""
import torch
from record import print_record
from torch_lora_linear import times_in_turn

SIZE, REPEATS = 8192, 21

a, b = (torch.randn(SIZE, SIZE, device="cuda", dtype=torch.bfloat16) for _ in range(2))
c = torch.empty_like(a)
x = torch.randn(2**30, device="cuda", dtype=torch.bfloat16)
y = torch.empty_like(x)
times = times_in_turn({"gemm": lambda: torch.mm(a, b, out=c), "copy": lambda: y.copy_(x)}, REPEATS)
print_record("torch", "gemm", {"m": SIZE, "n": SIZE, "k": SIZE, "dtype": "bf16"}, times["gemm"], "us",
             tflops=2 * SIZE**3 / times["gemm"][0] / 1e6)
print_record("torch", "copy", {"bytes": 2**31}, times["copy"], "us", gb_s=2 * 2**31 / times["copy"][0] / 1e3)
