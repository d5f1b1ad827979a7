"""Prints what compare_cpu.sh measured: table.py FOLDER BATCH_SIZE"""

import json
import pathlib
import statistics
import sys

WARM_UP = 4  # steps that are not counted


def wick_record(folder, rows, batch_size):
    """metrics.jsonl as peft_cpu.py writes its steps. With a report at each step, tokens_per_second is that step's."""
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    steps = []
    total = 0
    for i, line in enumerate(metrics):
        trained = line["trained_tokens"] - total
        total = line["trained_tokens"]
        batch = [rows[(i * batch_size + k) % len(rows)] for k in range(batch_size)]
        steps.append(
            {
                "seconds": trained / line["tokens_per_second"],
                "trained_tokens": trained,
                "computed_tokens": sum(len(row["input_ids"]) for row in batch),
                "loss": line["loss"],
            }
        )
    return {"steps": steps, "peak_memory_bytes": metrics[-1]["peak_memory_bytes"]}


def check_same_work(dtype, ours, theirs):
    if [s["trained_tokens"] for s in ours["steps"]] != [s["trained_tokens"] for s in theirs["steps"]]:
        sys.exit(f"{dtype}: the two sides did not train on the same tokens")
    # Both start with B = 0: the first loss is the base model's.
    a, b = ours["steps"][0]["loss"], theirs["steps"][0]["loss"]
    if abs(a - b) > (1e-4 if dtype == "f32" else 2e-2) * b:
        sys.exit(f"{dtype}: the first losses are {a} and {b}")


def spread(values, digits):
    return f"{statistics.median(values):,.{digits}f} ({min(values):,.{digits}f} to {max(values):,.{digits}f})"


def main():
    folder = pathlib.Path(sys.argv[1])
    batch_size = int(sys.argv[2])
    rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    print("| dtype | | trained tokens/s: median (lowest to highest) | peak memory, MiB | tokens computed for 1 trained |")
    print("|---|---|---|---|---|")
    for dtype in ("f32", "bf16"):
        rates = {}
        for side in ("wick", "PEFT"):
            records = []
            for i in range(1, 1 + len(list(folder.glob(f"peft-{dtype}-*.json")))):
                ours = wick_record(folder / f"wick-{dtype}-{i}", rows, batch_size)
                theirs = json.loads((folder / f"peft-{dtype}-{i}.json").read_text())
                check_same_work(dtype, ours, theirs)
                records.append(ours if side == "wick" else theirs)
            counted = [r["steps"][WARM_UP:] for r in records]
            rates[side] = [sum(s["trained_tokens"] for s in c) / sum(s["seconds"] for s in c) for c in counted]
            memory = [r["peak_memory_bytes"] / 2**20 for r in records]
            computed = sum(s["computed_tokens"] for s in counted[0]) / sum(s["trained_tokens"] for s in counted[0])
            print(f"| {dtype} | {side} | {spread(rates[side], 0)} | {spread(memory, 0)} | {computed:.2f} |")
        ratios = [a / b for a, b in zip(rates["wick"], rates["PEFT"])]
        print(f"| {dtype} | wick over PEFT, pair by pair | {spread(ratios, 2)} | | |")


if __name__ == "__main__":
    main()
