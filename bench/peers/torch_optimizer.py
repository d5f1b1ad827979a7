"""The gradient's norm and AdamW in PyTorch on a GPU: peers of bench/gpu/elementwise_bench's, on flat float32 buffers of its
lengths.

    python bench/peers/torch_optimizer.py [--device cpu]

Eager: torch.linalg.vector_norm, torch.optim.AdamW with fused=True, and that after torch.nn.utils.clip_grad_norm_. Compiled:
the step of one buffer written down and given to torch.compile. As many sets of buffers as together pass the L2 cache four
times, as one CUDA graph. One JSON object a line, as bench/README.md describes. --device cpu shows that the program runs,
nothing else.
"""
import argparse

import torch
from record import each_cell, print_record
from torch_elementwise import in_mode, sets_for, time_all

COUNTS = [4399104, 11272192, 67108864]
BETA1, BETA2, EPS, WEIGHT_DECAY, MAX_NORM = 0.9, 0.999, 1e-8, 0.01, 1.0


def adamw(p, g, m, v, schedule):
    """schedule: the learning rate and the corrections of the bias of m and v."""
    rate, correction1, correction2 = schedule
    m.lerp_(g, 1 - BETA1)
    v.mul_(BETA2).add_((1 - BETA2) * g * g)
    p.mul_(1 - rate * WEIGHT_DECAY).sub_(rate * (m / correction1) / ((v / correction2).sqrt() + EPS))


def clipped_adamw(p, g, m, v, schedule):
    norm = torch.linalg.vector_norm(g)
    adamw(p, g * (MAX_NORM / (norm + 1e-6)).clamp(max=1.0), m, v, schedule)
    return norm


def measure(count, mode, device):
    def buffer(value=None):
        if value is None:
            return torch.randn(count, device=device)
        return torch.full((count,), value, device=device)

    size = 4 * count
    sets = sets_for(4 * size, device)
    norms = [None] * sets
    parameters = [buffer() for _ in range(sets)]
    gradients = [buffer() for _ in range(sets)]

    def each(fn):
        def run():
            for i in range(sets):
                norms[i] = fn(i)
        return lambda: run

    if mode == "eager":
        for p, g in zip(parameters, gradients):
            p.grad = g
        optimizers = [torch.optim.AdamW([p], lr=1e-4, fused=True, capturable=device == "cuda") for p in parameters]

        def clipped_step(i):
            norm = torch.nn.utils.clip_grad_norm_(parameters[i], MAX_NORM)
            optimizers[i].step()
            return norm

        functions = {"gradient norm": lambda i: torch.linalg.vector_norm(gradients[i]),
                     "adamw": lambda i: optimizers[i].step(), "clipped adamw": clipped_step}
    else:
        moments = [(0.1 * buffer(), buffer(0.5)) for _ in range(sets)]
        schedule = torch.tensor([1e-4, 0.4, 0.1], device=device)
        compiled = {"adamw": in_mode(adamw, mode), "clipped adamw": in_mode(clipped_adamw, mode)}
        functions = {work: lambda i, fn=fn: fn(parameters[i], gradients[i], *moments[i], schedule)
                     for work, fn in compiled.items()}
    times = time_all({work: each(fn) for work, fn in functions.items()}, device)
    for work, us in times.items():
        us = [t / sets for t in us]
        moved = {"gradient norm": 1, "adamw": 7, "clipped adamw": 8}[work] * size
        print_record(f"torch {mode}", work, {"shape": str(count), "dtype": "f32"}, us, "us", gb_s=moved / us[0] / 1e3)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    options = parser.parse_args()
    counts = COUNTS if options.device == "cuda" else [1000]
    each_cell([(count, mode, options.device) for count in counts for mode in ("eager", "compiled")], measure)


if __name__ == "__main__":
    main()
