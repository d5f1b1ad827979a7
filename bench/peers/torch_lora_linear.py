"""A LoRA linear's forward and backward over its frozen base's two GEMMs, in PyTorch, bf16, on one GPU.

For each shape: the base (y = x Wᵀ, dx = dy W), the adapter as autograd runs it when it is written down as PEFT does,
eagerly and compiled, and the bordered matrices of docs/architecture.md by torch.mm. Times are medians of CUDA events
in captured graphs where capture is possible; as in bench/gpu/lora_bench, inputs come in enough sets to pass the L2
cache. --parts leaves some of the three out. One JSON object a line, as bench/README.md describes.
"""

import argparse
import statistics

import torch
import torch.nn.functional as F
from record import each_cell, print_record

SHAPES = [(896, 896), (896, 4864), (4864, 896), (2048, 2048), (2048, 8192), (8192, 2048), (4096, 4096),
          (4096, 14336), (14336, 4096)]
PARTS = ("bordered", "eager", "compiled")


def captured(make):
    """The function that make() makes, as a graph. All on one stream: autograd runs a backward on its forward's."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        fn = make()
        for _ in range(3):
            fn()
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        fn()

    def replay():
        graph.replay()
    replay.uses = fn  # what it reads and runs has to live as long
    return replay


def times_in_turn(functions, repeats, rounds=4):
    """Microseconds of each function, run in turn: (median, least, most)."""
    results = {name: [] for name in functions}
    for repeat in range(repeats + 1):
        for name, fn in functions.items():
            before, after = torch.cuda.Event(True), torch.cuda.Event(True)
            before.record()
            for _ in range(rounds):
                fn()
            after.record()
            torch.cuda.synchronize()
            if repeat:
                results[name].append(before.elapsed_time(after) * 1e3 / rounds)
    return {name: (statistics.median(t), min(t), max(t)) for name, t in results.items()}


def measure(tokens, k, n, rank, repeats, parts):
    def random(*shape, deviation=1.0):
        return torch.randn(*shape, device="cuda", dtype=torch.bfloat16) * deviation

    scale = 2.0
    cache = torch.cuda.get_device_properties(0).L2_cache_size
    sets = max(1, -(-4 * cache // (2 * tokens * (k + n))))
    w = random(n, k, deviation=0.02)
    a = random(rank, k, deviation=0.02)
    b = random(n, rank, deviation=0.02)
    z = torch.zeros(n + rank, k + rank, device="cuda", dtype=torch.bfloat16)
    z[:n, :k], z[:n, k:], z[n:, :k] = w, b * scale, a
    xs = [random(tokens, k) for _ in range(sets)]
    dys = [random(tokens, n) for _ in range(sets)]
    x_rows = [torch.cat([x, x.new_zeros(tokens, rank)], 1) for x in xs]
    dy_rows = [torch.cat([dy, dy.new_zeros(tokens, rank)], 1) for dy in dys]
    leaves = [x.clone().requires_grad_() for x in xs]
    a_leaf, b_leaf = a.clone().requires_grad_(), b.clone().requires_grad_()
    y, dx = torch.empty_like(dys[0]), torch.empty_like(xs[0])
    da = torch.empty(rank, k, device="cuda", dtype=torch.bfloat16)
    db = torch.empty(n, rank, device="cuda", dtype=torch.bfloat16)

    def base():
        for x in xs:
            torch.mm(x, w.t(), out=y)
        for dy in dys:
            torch.mm(dy, w, out=dx)

    def bordered():
        for x in x_rows:
            torch.mm(x[:, :k], z[n:, :k].t(), out=x[:, k:])
            torch.mm(x, z[:n].t(), out=y)
        for x, dy in zip(x_rows, dy_rows):
            torch.mm(dy[:, :n], z[:n, k:], out=dy[:, n:])
            torch.mm(dy, z[:, :k], out=dx)
            torch.mm(dy[:, n:].t(), x[:, :k], out=da)
            torch.mm(dy[:, :n].t(), x[:, k:], out=db)

    def adapted(x):
        return F.linear(x, w) + F.linear(F.linear(x, a_leaf), b_leaf) * scale

    def autograd(forward):
        def run():
            a_leaf.grad = b_leaf.grad = None
            for x in leaves:
                x.grad = None
            outputs = [forward(x) for x in leaves]
            for out, dy in zip(outputs, dys):
                out.backward(dy)
        return run

    functions = {"base": captured(lambda: base), "base_eager": base}
    if "bordered" in parts:
        functions["bordered"] = captured(lambda: bordered)
    if "eager" in parts:
        functions["autograd_eager"] = autograd(adapted)
    if "compiled" in parts:
        torch._dynamo.reset()
        functions["autograd_compiled"] = autograd(torch.compile(adapted))
    for fn in functions.values():
        fn()
    times = {name: tuple(t / sets for t in spread) for name, spread in times_in_turn(functions, repeats).items()}
    case = {"tokens": tokens, "k": k, "n": n, "rank": rank}
    for by, part, base_part in (("torch bordered", "bordered", "base"),
                                ("torch eager", "autograd_eager", "base_eager"),
                                ("torch compiled", "autograd_compiled", "base_eager")):
        if part in times:
            print_record(by, "lora linear over base", case, [t / times[base_part][0] for t in times[part]], "x")
    for part, us in times.items():
        print_record("torch", "lora linear", {**case, "part": part}, us, "us")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--rank", type=int, nargs="+", default=[16, 64])
    parser.add_argument("--shape", nargs="+", default=[f"{k}x{n}" for k, n in SHAPES], help="KxN")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    options = parser.parse_args()

    def measure_cell(shape, rank):
        torch.manual_seed(0)
        k, n = map(int, shape.split("x"))
        measure(options.tokens, k, n, rank, options.repeats, options.parts)

    each_cell([(shape, rank) for shape in options.shape for rank in options.rank], measure_cell)


if __name__ == "__main__":
    main()
