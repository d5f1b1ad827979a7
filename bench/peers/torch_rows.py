"""RMS norm (alone and with the residual add), layer norm and softmax in PyTorch, eagerly and compiled, on one GPU.

The cells, bytes and sets of tensors are those of bench/gpu/row_bench, which says what they mean. All launches of a
cell are captured as one graph. Prints a table or, with --json, an object a line. --device cpu shows that the program
runs, nothing else: there are no graphs there.
"""

import argparse
import functools
import statistics
import time

import torch
import torch._functorch.config
import torch.nn.functional as F
from record import each_cell, print_record
from torch_lora_linear import captured as gpu_captured
from torch_lora_linear import times_in_turn as gpu_times_in_turn

EPS = 1e-5
LAUNCHES_IN_CACHE = 64
LEAST_LAUNCHES = 8
MOST_SETS = 512
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}


def rms_norm(x, weight, bias, residual):
    return F.rms_norm(x, weight.shape, weight, EPS)


def rms_norm_residual(x, weight, bias, residual):
    total = x + residual
    return total, F.rms_norm(total, weight.shape, weight, EPS)


def layer_norm(x, weight, bias, residual):
    return F.layer_norm(x, weight.shape, weight, bias, EPS)


def softmax(x, weight, bias, residual):
    return torch.softmax(x, -1)


# Matrices read or written forward and backward, vectors likewise, float32 numbers of a row that row_bench counts.
OPS = {f.__name__: (f, *counts) for f, *counts in (
    (rms_norm, (2, 3), (1, 1), 1), (rms_norm_residual, (4, 4), (1, 1), 1), (layer_norm, (2, 3), (2, 1), 2),
    (softmax, (2, 3), (0, 0), 0))}


def times_in_turn(functions, repeats, rounds, device):
    """Microseconds of each function, run in turn: (median, least, most)."""
    if device == "cuda":
        return gpu_times_in_turn(functions, repeats, rounds)
    results = {name: [] for name in functions}
    for _ in range(repeats):
        for name, fn in functions.items():
            begin = time.perf_counter()
            fn()
            results[name].append((time.perf_counter() - begin) * 1e6)
    return {name: (statistics.median(t), min(t), max(t)) for name, t in results.items()}


def captured(make, device):
    if device == "cuda":
        return gpu_captured(make)
    fn = make()
    fn()
    return fn


def as_tuple(value):
    return value if isinstance(value, tuple) else (value,)


def forward_of(fn, sets, weight, bias, launches):
    kept = [None] * len(sets)  # so that each set has results of its own

    def run():
        with torch.no_grad():
            for i in range(launches):
                x, residual, _, _ = sets[i % len(sets)]
                kept[i % len(sets)] = fn(x, weight, bias, residual)
    return run


def backward_of(fn, sets, weight, bias, launches):
    kept = [None] * len(sets)
    graphs = []
    for x, residual, dy, dsum in sets:
        leaf = x.detach().requires_grad_()
        y = as_tuple(fn(leaf, weight, bias, residual))
        graphs.append((leaf, y, (dsum, dy) if len(y) == 2 else (dy,)))

    def run():
        for i in range(launches):
            leaf, y, dy = graphs[i % len(sets)]
            kept[i % len(sets)] = torch.autograd.grad(y, leaf, dy, retain_graph=True)
    return run


@functools.cache
def copy_rate(device, repeats):
    x = torch.randn(2**30 if device == "cuda" else 2**20, device=device, dtype=torch.bfloat16)
    y = torch.empty_like(x)
    us = times_in_turn({"copy": lambda: y.copy_(x)}, repeats, 3, device)["copy"][0]
    return 2e-3 * x.numel() * x.element_size() / us


def measure(op, direction, rows, columns, dtype_name, options):
    dtype = DTYPES[dtype_name]
    copy = copy_rate(options.device, options.repeats)

    def random(*shape):
        return torch.randn(*shape, device=options.device, dtype=dtype)

    torch.manual_seed(0)
    torch._dynamo.reset()  # no shape counts as another's recompilation
    cache = torch.cuda.get_device_properties(0).L2_cache_size if options.device == "cuda" else 2**20
    matrix = rows * columns * dtype.itemsize
    count = min(MOST_SETS, max(1, -(-4 * cache // (2 * matrix))))
    sets = [tuple(random(rows, columns) for _ in range(4)) for _ in range(count)]
    weight, bias = random(columns), random(columns)
    fn, matrices, vectors, numbers = OPS[op]
    back = direction == "backward"
    make = backward_of if back else forward_of
    functions = {}
    for mode, f in (("eager", fn), ("compiled", torch.compile(fn, dynamic=False))):
        for source in ("memory", "cache"):
            if source == "cache" and count == 1:
                continue
            used = sets if source == "memory" else sets[:1]
            launches = max(count, LEAST_LAUNCHES) if source == "memory" else LAUNCHES_IN_CACHE
            functions[mode, source, launches] = captured(
                lambda: make(f, used, weight, bias, launches), options.device)
    times = times_in_turn(functions, options.repeats, 3, options.device)
    size = (matrices[back] * rows + vectors[back]) * columns * dtype.itemsize + numbers * rows * 4
    for (mode, source, launches), spread in times.items():
        us = [t / launches for t in spread]
        rate = size / us[0] / 1e3
        if options.json:
            print_record(f"torch {mode}", f"{op} {direction}".replace("_", " "),
                         {"rows": rows, "columns": columns, "dtype": dtype_name, "from": source}, us, "us",
                         gb_s=rate, share=rate / copy)
            continue
        shape = f"{rows}x{columns}"
        print(f"{op:18} {direction:8} {shape:>15} {dtype_name:4} {source:6} {mode:8} {us[0]:9.2f} "
              f"[{us[1]:9.2f}, {us[2]:9.2f}] {rate:7.0f} {100 * rate / copy:6.1f}%", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--elements", type=int, default=2**27)
    parser.add_argument("--repeats", type=int, default=11)
    parser.add_argument("--op", action="append", choices=OPS)
    parser.add_argument("--shape", action="append", help="ROWSxCOLUMNS:DTYPE")
    options = parser.parse_args()
    shapes = options.shape or (["1024x1024:f32", "64x1024:f32", "1x4096:bf16"] +
                               [f"{max(1, options.elements >> k)}x{1 << k}:bf16" for k in range(10, 18)])
    torch._functorch.config.donated_buffer = False  # a compiled backward is run more than once

    def measure_cell(*cell):
        measure(*cell, options)

    def extents(shape):
        size, dtype = shape.split(":")
        return *map(int, size.split("x")), dtype

    each_cell([(op, direction, *extents(shape)) for shape in shapes for op in options.op or OPS
               for direction in ("forward", "backward")], measure_cell)


if __name__ == "__main__":
    main()
