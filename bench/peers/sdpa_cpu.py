"""Our attention beside torch.nn.functional.scaled_dot_product_attention, on the CPU, on the shapes of op_bench.

sdpa_cpu.py OP_BENCH [--repetitions N]

Each repetition runs op_bench on all shapes, then PyTorch on all shapes. Both read q, k and v as [tokens, heads, d] and
allocate their results; PyTorch sees a batch of sequences where ours are packed end to end.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import time

import torch
from torch.nn.functional import scaled_dot_product_attention

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}
# attention/[4 x 512, 14/2, 64]/bf16/fused/forward+backward/real_time
NAME = re.compile(
    r"attention/(?P<decode>decode )?\[(?:(?P<rows>\d+) x )?(?P<tokens>\d+), (?P<heads>\d+)/(?P<kv>\d+), (?P<d>\d+)\]"
    r"/(?P<dtype>\w+)/fused/(?P<what>forward(?:\+backward)?)/real_time"
)


def run_ours(op_bench, min_time):
    command = [op_bench, "--benchmark_filter=^attention/.*/fused/", f"--benchmark_min_time={min_time}"]
    output = subprocess.run(command + ["--benchmark_format=json"], check=True, stdout=subprocess.PIPE).stdout
    # real_time is in microseconds.
    return {b["name"]: b["real_time"] / 1e3 for b in json.loads(output)["benchmarks"]}


def timed(run, min_time):
    """Milliseconds a call, as the benchmark library counts: the mean of as many as fill min_time, after one."""
    run()
    calls = 0
    start = time.perf_counter()
    while True:
        run()
        calls += 1
        seconds = time.perf_counter() - start
        if seconds >= min_time:
            return seconds * 1e3 / calls


def peer(shape):
    """{variant: call} on the shape of one benchmark."""
    rows, tokens = int(shape["rows"] or 1), int(shape["tokens"])
    heads, kv, d = int(shape["heads"]), int(shape["kv"]), int(shape["d"])
    grads = shape["what"] != "forward"
    torch.manual_seed(0)

    def drawn(length, count):
        x = torch.randn(rows, length, count, d).to(DTYPES[shape["dtype"]])
        return x.transpose(1, 2).requires_grad_(grads)

    queries = 1 if shape["decode"] else tokens
    q, k, v = drawn(queries, heads), drawn(tokens, kv), drawn(tokens, kv)
    seed = torch.ones_like(q)

    def call(attend):
        def run():
            with torch.set_grad_enabled(grads):
                y = attend()
            if grads:
                torch.autograd.grad(y, (q, k, v), seed)

        return run

    causal = not shape["decode"]
    group = heads // kv
    wide = lambda x: x.repeat_interleave(group, 1)  # noqa: E731
    return {
        "enable_gqa": call(lambda: scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=True)),
        "repeated": call(lambda: scaled_dot_product_attention(q, wide(k), wide(v), is_causal=causal)),
    }


def spread(values):
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("op_bench")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--min-time", type=float, default=0.2, help="seconds for each figure")
    options = parser.parse_args()
    threads = int(os.environ.get("OMP_NUM_THREADS", os.cpu_count()))
    torch.set_num_threads(threads)

    ours, theirs = {}, {}
    for _ in range(options.repetitions):
        for name, milliseconds in run_ours(options.op_bench, options.min_time).items():
            ours.setdefault(name, []).append(milliseconds)
        for name in ours:
            for variant, run in peer(NAME.fullmatch(name)).items():
                theirs.setdefault(name, {}).setdefault(variant, []).append(timed(run, options.min_time))

    load = " ".join(f"{value:.2f}" for value in os.getloadavg())
    print(f"load average {load}; {threads} threads; milliseconds: median (fastest to slowest) of {options.repetitions}")
    print("| attention [sequences x tokens, heads/KV heads, d] | wick | PyTorch, the faster variant | | PyTorch over wick |")
    print("|---|---|---|---|---|")
    for name, times in ours.items():
        variant, best = min(theirs[name].items(), key=lambda item: statistics.median(item[1]))
        ratio = statistics.median(best) / statistics.median(times)
        label = name.removeprefix("attention/").removesuffix("/real_time").replace("/fused", "")
        print(f"| {label} | {spread(times)} | {spread(best)} | {variant} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
