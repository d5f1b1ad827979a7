"""sentence-transformers on the texts of embedding_bench, tokenizing included.

sentence_transformers_bench.py texts MODEL OUT        writes the texts, of exact numbers of tokens, that both sides embed
sentence_transformers_bench.py run MODEL TEXTS [...]  prints a record for each kind of text, as embedding_bench does
sentence_transformers_bench.py table FILE...          prints what several runs of both sides measured
"""

import argparse
import json
import pathlib
import random
import resource
import statistics
import time

from record import print_record, spread_of

KINDS = {"16": (1000, 16, 16), "10 to 200": (400, 10, 200), "256": (160, 256, 256)}  # texts, fewest and most tokens


def write_texts(model, out, share):
    """Pieces of the books in data/, cut by the model's own tokenizer; [CLS] and [SEP] count."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(pathlib.Path(model) / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    data = pathlib.Path(__file__).parents[2] / "data"
    rows = [json.loads(line)["text"] for book in ("alice", "sherlock") for line in open(data / book / "train.jsonl")]
    words = " ".join(rows).split()
    draw = random.Random(1)
    texts = {}
    for kind, (count, low, high) in KINDS.items():
        texts[kind] = []
        while len(texts[kind]) < count * share:
            length = draw.randint(low, high)
            begin = draw.randrange(len(words) - high)
            piece = " ".join(words[begin : begin + high])
            end = tokenizer.encode(piece, add_special_tokens=False).offsets[length - 3][1]
            if len(tokenizer.encode(piece[:end]).ids) == length:  # a cut within a word may give more
                texts[kind].append(piece[:end])
    pathlib.Path(out).write_text(json.dumps(texts))


def cpu_seconds():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def run(options):
    import torch
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(options.model, device="cpu", backend=options.backend)
    if options.dtype == "bf16":
        model = model.to(torch.bfloat16)
    texts = json.loads(pathlib.Path(options.texts).read_text())
    by = f"sentence-transformers, {options.backend} {options.dtype}"

    def encode(batch):
        return model.encode(batch, batch_size=options.batch_size, show_progress_bar=False)

    for kind, batch in texts.items():
        encode(batch[: len(batch) // 4])
        rates, cpu = [], cpu_seconds()
        for _ in range(options.repetitions):
            start = time.perf_counter()
            encode(batch)
            rates.append(len(batch) / (time.perf_counter() - start))
        cpu = (cpu_seconds() - cpu) / (options.repetitions * len(batch))
        print_record(by, "embeddings", {"tokens": kind}, spread_of(rates), "sentences/s", cpu_ms=cpu * 1e3)
    for kind, batch in texts.items():
        batch = batch[: options.single]
        for text in batch[:10]:
            encode([text])
        times, cpu = [], cpu_seconds()
        for text in batch:
            start = time.perf_counter()
            encode([text])
            times.append((time.perf_counter() - start) * 1e3)
        cpu = (cpu_seconds() - cpu) / len(batch)
        print_record(by, "one embedding", {"tokens": kind}, spread_of(times), "ms", cpu_ms=cpu * 1e3)


def table(files):
    """Medians over the runs of their medians, with the lowest and highest of these; CPU time a sentence beside them."""
    found = {}
    for file in files:
        for line in pathlib.Path(file).read_text().splitlines():
            r = json.loads(line)
            found.setdefault((r["work"], r["case"]["tokens"], r["unit"]), {}).setdefault(r["by"], []).append(r)
    print("| | tokens | | median (lowest to highest) | CPU ms a sentence |")
    print("|---|---|---|---|---|")
    for (work, tokens, unit), sides in found.items():
        for by, records in sides.items():
            values = [r["value"] for r in records]
            cpu = statistics.median(r["cpu_ms"] for r in records)
            median = statistics.median(values)
            print(f"| {work} | {tokens} | {by} | {median:,.4g} ({min(values):,.4g} to {max(values):,.4g}) {unit} | {cpu:.2f} |")


def main():
    parser = argparse.ArgumentParser()
    verbs = parser.add_subparsers(dest="verb", required=True)
    verb = verbs.add_parser("texts")
    verb.add_argument("model")
    verb.add_argument("out")
    verb.add_argument("--share", type=float, default=1, help="of the texts: fewer for a slow machine")
    verb = verbs.add_parser("run")
    verb.add_argument("model")
    verb.add_argument("texts")
    verb.add_argument("--backend", choices=["torch", "onnx"], default="torch")
    verb.add_argument("--dtype", choices=["f32", "bf16"], default="f32")
    verb.add_argument("--batch-size", type=int, default=32)
    verb.add_argument("--repetitions", type=int, default=3)
    verb.add_argument("--single", type=int, default=100, help="texts that are embedded one by one")
    verb = verbs.add_parser("table")
    verb.add_argument("files", nargs="+")
    options = parser.parse_args()
    if options.verb == "texts":
        write_texts(options.model, options.out, options.share)
    elif options.verb == "run":
        run(options)
    else:
        table(options.files)


if __name__ == "__main__":
    main()
