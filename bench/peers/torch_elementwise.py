"""SwiGLU, GELU, RoPE, the embedding and the cross-entropy of the head in PyTorch on a GPU: peers of bench/gpu/elementwise_bench
and cross_entropy_bench, on their shapes.

    python bench/peers/torch_elementwise.py [--only swiglu gelu rope embedding cross-entropy] [--device cpu]

SwiGLU: silu(gate) * up of the halves of the rows of one buffer. RoPE: as transformers turns pairs, by cosines and sines in
the dtype of what is turned. Each eagerly and compiled, but GELU, which is one kernel either way. As many sets of tensors as
together pass the L2 cache four times, as one CUDA graph. Cross-entropy: the mean loss of hidden states through a head, with
the gradient of the hidden states and without it, all logits at once; and the loss of bf16 logits, with their gradient and
without it. One JSON object a line, as bench/README.md describes. --device cpu shows that the program runs, nothing else.
"""
import argparse
import functools

import torch
import torch._functorch.config
import torch.nn.functional as F
from record import each_cell, print_record
from torch_lora_linear import captured, times_in_turn

DTYPES = {"bf16": torch.bfloat16, "f32": torch.float32}
SWIGLU = [(8192, 4864), (8192, 8192), (4096, 14336)]
GELU = [(8192, 3072)]
ROPE = [(8192, 14, 64), (8192, 32, 128)]
EMBEDDING = [(32000, 1024, 8192)]
HEADS = [("Qwen2.5-0.5B", 8192, 896, 151936), ("Llama-3.2-1B", 8192, 2048, 128256), ("Llama-3.1-8B", 4096, 4096, 128256)]


def swiglu(both):
    gate, up = both.chunk(2, -1)
    return F.silu(gate) * up


def rope(x, cos, sin):
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat((-second, first), -1) * sin


def embedding(table, ids):
    return F.embedding(ids, table)


def loss_of_logits(logits, labels):
    return F.cross_entropy(logits.float(), labels)


def loss_of(x, weight, labels):
    return loss_of_logits(F.linear(x, weight), labels)


def in_mode(fn, mode):
    torch._dynamo.reset()  # no shape counts as another's recompilation
    return fn if mode == "eager" else torch.compile(fn, dynamic=False)


def cache_bytes(device):
    return torch.cuda.get_device_properties(0).L2_cache_size if device == "cuda" else 1


def sets_for(size, device):
    """Sets of so many bytes that pass the L2 cache four times, as elementwise_bench has them."""
    return min(64, max(2, 4 * cache_bytes(device) // size + 1))


def time_all(functions, device):
    """Microseconds (median, least, most) by name of what each makes; nothing on the CPU, where they only run."""
    if device == "cpu":
        for make in functions.values():
            make()()
        return {}
    return times_in_turn({name: captured(make) for name, make in functions.items()}, 11, 1)


def measure_op(fn, mode, sets, works, case, device):
    """Times fn(*arguments) of each of the sets, (arguments, dy), and the gradient of the first argument where works, the
    bytes by what is done, has a second entry."""
    fn = in_mode(fn, mode)
    kept = [None] * len(sets)  # so that each set has results of its own

    def make_forward():
        def run():
            with torch.no_grad():
                for i, (arguments, _) in enumerate(sets):
                    kept[i] = fn(*arguments)
        return run

    def make_backward():
        outputs = [fn(*arguments) for arguments, _ in sets]

        def run():
            for i, (arguments, dy) in enumerate(sets):
                kept[i] = torch.autograd.grad(outputs[i], arguments[0], dy, retain_graph=True)
        return run

    times = time_all(dict(zip(works, (make_forward, make_backward))), device)
    for work, us in times.items():
        us = [t / len(sets) for t in us]
        print_record(f"torch {mode}", work, case, us, "us", gb_s=works[work] / us[0] / 1e3)


def measure_swiglu(tokens, n, dtype, mode, device):
    def random(*shape):
        return torch.randn(*shape, device=device, dtype=DTYPES[dtype])

    matrix = tokens * n * DTYPES[dtype].itemsize
    sets = [((random(tokens, 2 * n).requires_grad_(),), random(tokens, n)) for _ in range(sets_for(6 * matrix, device))]
    measure_op(swiglu, mode, sets, {"swiglu": 3 * matrix, "swiglu backward": 5 * matrix},
               {"shape": f"{tokens} x {n}", "dtype": dtype}, device)


def measure_gelu(tokens, n, dtype, mode, device):
    def random():
        return torch.randn(tokens, n, device=device, dtype=DTYPES[dtype])

    matrix = tokens * n * DTYPES[dtype].itemsize
    sets = [((random().requires_grad_(),), random()) for _ in range(sets_for(3 * matrix, device))]
    for name, approximate in (("gelu exact", "none"), ("gelu tanh", "tanh")):
        measure_op(functools.partial(F.gelu, approximate=approximate), mode, sets,
                   {name: 2 * matrix, f"{name} backward": 3 * matrix}, {"shape": f"{tokens} x {n}", "dtype": dtype}, device)


def measure_rope(tokens, heads, d, dtype, mode, device):
    def random(*shape):
        return torch.randn(*shape, device=device, dtype=DTYPES[dtype])

    matrix = tokens * heads * d * DTYPES[dtype].itemsize
    cos, sin = random(tokens, 1, d), random(tokens, 1, d)
    sets = [((random(tokens, heads, d), cos, sin), None) for _ in range(sets_for(2 * matrix, device))]
    measure_op(rope, mode, sets, {"rope": 2 * matrix + 2 * tokens * d // 2 * 4},
               {"shape": f"{tokens} x {heads} x {d}", "dtype": dtype}, device)


def measure_embedding(vocabulary, d, tokens, dtype, mode, device):
    def random(*shape):
        return torch.randn(*shape, device=device, dtype=DTYPES[dtype])

    matrix = tokens * d * DTYPES[dtype].itemsize
    table, ids = random(vocabulary, d).requires_grad_(), torch.randint(0, vocabulary, (tokens,), device=device)
    sets = [((table, ids.clone()), random(tokens, d)) for _ in range(sets_for(2 * matrix, device))]
    table_bytes = vocabulary * d * DTYPES[dtype].itemsize
    measure_op(embedding, mode, sets, {"embedding": 2 * matrix, "embedding backward": matrix + table_bytes},
               {"shape": f"{tokens} x {d}", "dtype": dtype, "vocabulary": vocabulary}, device)


def with_and_without_gradient(fn, x, *others):
    """What time_all() takes: fn(x, *others) with the gradient of x, and alone."""
    def alone():
        with torch.no_grad():
            return fn(x, *others)
    return {"with dx": lambda: lambda: torch.autograd.grad(fn(x, *others), x), "loss alone": lambda: alone}


def measure_loss(model, tokens, width, vocabulary, mode, device):
    x = torch.randn(tokens, width, device=device, dtype=torch.bfloat16).requires_grad_()
    weight = 0.05 * torch.randn(vocabulary, width, device=device, dtype=torch.bfloat16)
    labels = torch.randint(0, vocabulary, (tokens,), device=device)
    times = time_all(with_and_without_gradient(in_mode(loss_of, mode), x, weight, labels), device)
    for part, us in times.items():
        operations = (4 if part == "with dx" else 2) * tokens * width * vocabulary
        print_record(f"torch {mode}", f"linear cross-entropy, {part}", {"model": model}, us, "us",
                     tflops=operations / us[0] / 1e6)


def measure_loss_of_logits(model, tokens, width, vocabulary, mode, device):
    logits = torch.randn(tokens, vocabulary, device=device, dtype=torch.bfloat16).requires_grad_()
    labels = torch.randint(0, vocabulary, (tokens,), device=device)
    times = time_all(with_and_without_gradient(in_mode(loss_of_logits, mode), logits, labels), device)
    for part, us in times.items():
        print_record(f"torch {mode}", "cross-entropy", {"model": model, "part of": part}, us, "us")


# By name of --only: what measures it, its shapes, and those of --device cpu.
WORKS = {"swiglu": (measure_swiglu, SWIGLU, [(64, 32)]), "gelu": (measure_gelu, GELU, [(64, 32)]),
         "rope": (measure_rope, ROPE, [(64, 2, 32)]), "embedding": (measure_embedding, EMBEDDING, [(50, 32, 64)]),
         "cross-entropy": (measure_loss, HEADS, [("tiny", 64, 32, 128)]),
         "cross-entropy of logits": (measure_loss_of_logits, HEADS, [("tiny", 64, 32, 128)])}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=["swiglu", "gelu", "rope", "embedding", "cross-entropy"])
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    options = parser.parse_args()
    torch._functorch.config.donated_buffer = False  # a compiled backward is run more than once
    cells = []
    for work, (_, shapes, small) in WORKS.items():
        if options.only and work.removesuffix(" of logits") not in options.only:
            continue
        dtypes = [()] if work.startswith("cross-entropy") else [(dtype,) for dtype in DTYPES]
        modes = ["eager"] if work == "gelu" else ["eager", "compiled"]
        cells += [(work, *shape, *dtype, mode) for dtype in dtypes for shape in (small if options.device == "cpu" else shapes)
                  for mode in modes]

    def measure(work, *cell):
        torch.manual_seed(0)
        WORKS[work][0](*cell, options.device)

    each_cell(cells, measure)


if __name__ == "__main__":
    main()
