"""SwiGLU and the cross-entropy of the head in PyTorch on a GPU, eagerly and compiled: peers of bench/gpu/elementwise_bench
and cross_entropy_bench, on their shapes.

    python bench/peers/torch_elementwise.py [--device cpu]

SwiGLU: silu(gate) * up of the halves of the rows of one buffer, forward and backward, as many sets of tensors as together
pass the L2 cache four times, as one CUDA graph. Cross-entropy: the mean loss of hidden states through a head, with the
gradient of the hidden states; all logits at once. One JSON object a line, as bench/README.md describes. --device cpu shows
that the program runs, nothing else.
"""
import argparse

import torch
import torch._functorch.config
import torch.nn.functional as F
from record import each_cell, print_record
from torch_lora_linear import captured, times_in_turn

SWIGLU = [(8192, 4864), (8192, 8192), (4096, 14336)]
HEADS = [("Qwen2.5-0.5B", 8192, 896, 151936), ("Llama-3.2-1B", 8192, 2048, 128256), ("Llama-3.1-8B", 4096, 4096, 128256)]


def swiglu(both):
    gate, up = both.chunk(2, -1)
    return F.silu(gate) * up


def loss_of(x, weight, labels):
    return F.cross_entropy(F.linear(x, weight).float(), labels)


def in_mode(fn, mode):
    torch._dynamo.reset()  # no shape counts as another's recompilation
    return fn if mode == "eager" else torch.compile(fn, dynamic=False)


def time_all(functions, device):
    """Microseconds (median, least, most) by name of what each makes; nothing on the CPU, where they only run."""
    if device == "cpu":
        for make in functions.values():
            make()()
        return {}
    return times_in_turn({name: captured(make) for name, make in functions.items()}, 11, 1)


def measure_swiglu(tokens, n, mode, device):
    cache = torch.cuda.get_device_properties(0).L2_cache_size if device == "cuda" else 1
    matrix = 2 * tokens * n
    sets = min(64, max(2, 4 * cache // (6 * matrix) + 1))
    inputs = [torch.randn(tokens, 2 * n, device=device, dtype=torch.bfloat16).requires_grad_() for _ in range(sets)]
    dys = [torch.randn(tokens, n, device=device, dtype=torch.bfloat16) for _ in range(sets)]
    kept = [None] * sets  # so that each set has results of its own

    def forward(fn):
        def run():
            with torch.no_grad():
                for i, both in enumerate(inputs):
                    kept[i] = fn(both)
        return run

    def backward(fn):
        outputs = [fn(both) for both in inputs]

        def run():
            for i, both in enumerate(inputs):
                kept[i] = torch.autograd.grad(outputs[i], both, dys[i], retain_graph=True)
        return run

    fn = in_mode(swiglu, mode)
    times = time_all({"swiglu": lambda: forward(fn), "swiglu backward": lambda: backward(fn)}, device)
    for (work, us), matrices in zip(times.items(), (3, 5)):
        us = [t / sets for t in us]
        print_record(f"torch {mode}", work, {"shape": f"{tokens} x {n}", "dtype": "bf16"}, us, "us",
                     gb_s=matrices * matrix / us[0] / 1e3)


def measure_loss(model, tokens, width, vocabulary, mode, device):
    x = torch.randn(tokens, width, device=device, dtype=torch.bfloat16).requires_grad_()
    weight = 0.05 * torch.randn(vocabulary, width, device=device, dtype=torch.bfloat16)
    labels = torch.randint(0, vocabulary, (tokens,), device=device)
    fn = in_mode(loss_of, mode)
    times = time_all({"with dx": lambda: lambda: torch.autograd.grad(fn(x, weight, labels), x)}, device)
    for name, us in times.items():
        print_record(f"torch {mode}", f"linear cross-entropy, {name}", {"model": model}, us, "us",
                     tflops=4 * tokens * width * vocabulary / us[0] / 1e6)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    options = parser.parse_args()
    torch._functorch.config.donated_buffer = False  # a compiled backward is run more than once
    small = options.device == "cpu"
    cells = [("swiglu", *shape) for shape in ([(64, 32)] if small else SWIGLU)]
    cells += [("cross-entropy", *head) for head in ([("tiny", 64, 32, 128)] if small else HEADS)]

    def measure(work, *shape):
        torch.manual_seed(0)
        (measure_swiglu if work == "swiglu" else measure_loss)(*shape, options.device)

    each_cell([(*cell, mode) for cell in cells for mode in ("eager", "compiled")], measure)


if __name__ == "__main__":
    main()
