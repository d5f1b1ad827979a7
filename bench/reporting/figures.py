"""What was measured: the lines of a results file as figures, and the ceilings that they are a share of."""

import dataclasses
import json
import pathlib
import statistics

SHAPES = pathlib.Path(__file__).resolve().parent.parent / "shapes"
HIGHER_IS_BETTER = {"tokens/s", "sentences/s", "TFLOP/s", "GB/s"}
SAME_MACHINE = ("gpu", "driver", "torch")  # facts that files of one machine have in common


@dataclasses.dataclass
class Figure:
    """`by` is who did it: "wick", another way of ours ("wick, own kernel"), or a peer's name. The same work and case by a
    peer is what it is compared with."""
    by: str
    work: str
    case: dict
    value: float
    unit: str
    low: float
    high: float
    gb_s: float = None
    tflops: float = None
    share: float = None  # of the ceiling

    @property
    def key(self):
        return self.work, json.dumps(self.case, sort_keys=True)


def figure(record, work, case, value, unit, low=None, high=None):
    if "model" in case:
        case = case | {"model": case["model"].lower()}  # as bench/shapes spells it
    low, high = (value, value) if low is None else (low, high)
    return Figure(record.get("by", "wick"), work, case, value, unit, low, high, record.get("gb_s"),
                  record.get("tflops"), record.get("share"))


def of_wick_bench(record):
    """The object that `wick bench --json` prints."""
    case = {"model": pathlib.Path(record["shape"]).stem, "dtype": record["dtype"]}
    if record["work"] == "train":
        case |= {name: record[name] for name in ("sequences", "length", "rank")}
        if record.get("batches", 1) > 1:
            case["batches"] = record["batches"]
        tokens = record["tokens_per_second"] * record["step_ms"]
        yield figure(record, "train", case, record["tokens_per_second"], "tokens/s", tokens / record["step_ms_high"],
                     tokens / record["step_ms_low"])
        yield figure(record, "train, memory", case, record["peak_gib"], "GiB")
        return
    if record["work"] == "embed":
        case |= {name: record[name] for name in ("length", "batch_tokens")}
        name = "sentences_per_second"
        yield figure(record, "embed", case, record[name], "sentences/s", record[name + "_low"], record[name + "_high"])
        return
    case["prompt"] = record["prompt"]
    name = "ms"
    if record["work"] == "decode":
        case["tokens"] = record["tokens"]
        name = "token_ms"
    yield figure(record, record["work"], case, record[name], "ms", record[name + "_low"], record[name + "_high"])


def figures_of(record):
    """The figures of one line that a benchmark printed."""
    if "case" in record:  # the form that bench/README.md describes
        yield figure(record, record["work"], record["case"], record["value"], record["unit"], record.get("low"),
                     record.get("high"))
    elif "shape" in record:
        yield from of_wick_bench(record)
    else:
        raise ValueError("neither a record of a benchmark nor one of wick bench")


def merged(figures):
    """One figure of several runs of the same: the median of the medians, the ends of all."""
    middle = statistics.median_low([f.value for f in figures])
    chosen = next(f for f in figures if f.value == middle)
    return dataclasses.replace(chosen, low=min(f.low for f in figures), high=max(f.high for f in figures))


class Model:
    """Operations and bytes of a model of one of bench/shapes."""

    def __init__(self, name):
        c = json.loads((SHAPES / f"{name}.json").read_text())
        hidden, heads = c["hidden_size"], c["num_attention_heads"]
        d = c.get("head_dim", hidden // heads)
        q, kv, inner = heads * d, c["num_key_value_heads"] * d, c["intermediate_size"]
        self.layers = c["num_hidden_layers"]
        self.projections = [(hidden, q), (hidden, kv), (hidden, kv), (q, hidden), (hidden, inner), (hidden, inner),
                            (inner, hidden)]
        self.linear = self.layers * sum(k * n for k, n in self.projections)
        self.head = hidden * c["vocab_size"]
        self.attention = self.layers * q  # times the keys that a token sees: multiplications of one product

    def training_operations(self, length, rank):
        """Of a token: the frozen weights forward and for the gradient of their input, attention's two products forward
        and four backward over the keys that a causal mask leaves, the adapters forward and backward."""
        adapters = self.layers * sum(rank * (k + n) for k, n in self.projections)
        return 4 * (self.linear + self.head) + 12 * self.attention * (length + 1) / 2 + 6 * adapters

    def decoding_bytes(self):
        """Of a token in bf16: each weight once."""
        return 2 * (self.linear + self.head)


class Results:
    """What results files of one machine and one version of the sources hold: machine, figures by work and case, the
    commands that ran and those that did not end well. The lines count as if they were in one file."""

    def __init__(self, *paths):
        self.machines, self.ran, self.failures, all_figures = [], set(), {}, {}
        self.files = {}  # key: the files that have figures of it
        if len(set(map(pathlib.Path.resolve, paths))) < len(paths):
            raise SystemExit("a results file is named twice")
        for path in paths:
            self.machines.append({})
            for number, text in enumerate(path.read_text().splitlines(), 1):
                try:
                    line = json.loads(text)
                    for f in figures_of(line["record"]) if "record" in line else ():
                        all_figures.setdefault((f.key, f.by), []).append(f)
                        self.files.setdefault(f.key, set()).add(path)
                except ValueError as error:
                    raise SystemExit(f"{path}:{number}: {error}") from None
                if "machine" in line:
                    self.machines[-1] = line["machine"]
                elif "ran" in line:
                    self.ran.add(line["ran"])
                    self.failures.pop(line["ran"], None)
                    if line["rc"] != 0:
                        self.failures[line["ran"]] = line
            self.check_same(paths[0], path)
        self.machine = self.machines[0]
        self.cases = {}  # key: {by: figure}
        for (key, by), same in all_figures.items():
            self.cases.setdefault(key, {})[by] = merged(same)
        for by in self.cases.values():  # where there is but another way of ours, it is what is used
            others = [name for name in by if is_ours(name)]
            if "wick" not in by and others:
                by["wick"] = dataclasses.replace(by.pop(others[0]), by="wick")
        self.copy = self.copy_ceiling()
        self.fastest = self.fastest_product()
        self.gemm = self.fastest.tflops if self.fastest else None
        for f in self.all():
            f.share = self.share_of(f)

    def check_same(self, first, path):
        """Files of two machines or two versions of the sources would be compared with each other."""
        for name in (*SAME_MACHINE, "commit"):
            expected, found = self.machines[0].get(name), self.machines[-1].get(name)
            if found != expected:
                raise SystemExit(f"{path}: {name} {found}, but {expected} in {first}")

    def all(self):
        return [f for by in self.cases.values() for f in by.values()]

    def copy_ceiling(self):
        """GB/s of a copy of memory, as the benchmarks of kernels measured it beside their own figures."""
        found = [f.gb_s for f in self.all() if f.work == "copy" and f.gb_s]
        found = found or [f.gb_s / f.share for f in self.all() if f.by == "wick" and f.gb_s and f.share]
        return statistics.median(found) if found else None

    def fastest_product(self):
        """The bf16 product of matrices with the most TFLOP/s, ours or a peer's: the ceiling of operations."""
        found = [f for f in self.all()
                 if f.work.split(" ")[0] == "gemm" and f.tflops and f.case.get("dtype", "bf16") == "bf16"]
        return max(found, key=lambda f: f.tflops, default=None)

    def share_of(self, f):
        if f.share is not None:
            return f.share
        if f.work == "lora linear over base":
            return 1 / f.value
        bf16 = f.case.get("dtype", "bf16") == "bf16"
        if bf16 and f.work in ("train", "decode", "prefill") and (SHAPES / f"{f.case['model']}.json").exists():
            model = Model(f.case["model"])
            if f.work == "train" and self.gemm:
                operations = model.training_operations(f.case["length"], f.case["rank"])
                return f.value * operations / self.gemm / 1e12
            if f.work == "prefill" and self.gemm:
                return 2 * model.linear * f.case["prompt"] / (1e-3 * f.value) / self.gemm / 1e12
            if f.work == "decode" and self.copy:
                return model.decoding_bytes() / (1e-3 * f.value) / self.copy / 1e9
        if f.gb_s and self.copy:
            return f.gb_s / self.copy
        return f.tflops / self.gemm if bf16 and f.tflops and self.gemm else None


def is_ours(name):
    return name.split(",")[0] == "wick"


def better(a, b):
    """How many times a is as good as b."""
    return a.value / b.value if a.unit in HIGHER_IS_BETTER else b.value / a.value


def best_peer(by):
    """The peer whose figure is the best, or None."""
    best = None
    for f in (f for name, f in by.items() if not is_ours(name)):
        if best is None or better(f, best) > 1:
            best = f
    return best
