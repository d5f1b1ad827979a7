"""The page: what falls short, then a table for each kind of work."""

import fnmatch

from reporting import figures

# Title, what a row's figure and its ceiling are, and the works (as file name patterns) in the order of the tables.
SECTIONS = [
    ("LoRA training steps", "All seven projections, bf16, random weights and tokens, forward to update. Tokens a second, and "
     "memory as the driver counts it (a peer's *allocated*: what PyTorch's tensors took at most). The ceiling is that of the "
     "operations: four for each frozen weight, those of attention and of the adapters, at the rate of the fastest GEMM.",
     ["train", "train, memory"]),
    ("Decoding and reading a prompt", "One sequence, greedily, bf16, random weights. Decoding: milliseconds a token, the "
     "prompt not counted; the ceiling is reading every weight once at the bandwidth of the copy. Reading a prompt: "
     "milliseconds; the ceiling is the operations of the linear layers at the rate of the fastest GEMM.",
     ["decode", "prefill"]),
    ("Sentence embeddings", "From token ids to vectors, both in host memory, random weights, every sentence of one length: "
     "sentences a second. The ceiling is the operations of the linear layers at the rate of the fastest GEMM.", ["embed"]),
    ("The LoRA linear", "Forward and backward over the two GEMMs of the frozen base, which is the ceiling. A peer's is "
     "over its own base, launched as it is itself.", ["lora linear over base"]),
    ("Row kernels", "The share is of the bandwidth of the copy: every input read once, every result written once.",
     [f"{op} {direction}" for op in ("rms norm", "rms norm residual", "layer norm", "softmax")
      for direction in ("forward", "backward")]),
    ("Products of matrices", "The ceiling is the fastest of them.", ["gemm*"]),
    ("Loss and elementwise kernels", "The share is of the bandwidth of the copy; of the whole loss with its products, of the "
     "rate of the fastest GEMM.",
     ["linear cross-entropy, *", "cross-entropy", "swiglu", "swiglu backward", "gelu*", "rope", "embedding*",
      "gradient norm*", "adamw*", "clipped adamw*", "sampling*"]),
    ("Attention", "Of one layer. The ceiling is the fastest GEMM for whole sequences, the copy for one query.",
     ["attention forward", "attention backward", "attention of one query"]),
    ("Products of few rows", "As decoding has them; the share is of the bandwidth of the copy.", ["gemv"]),
]


def number(value):
    """Three digits, and no fewer than the integer has."""
    return f"{value:,.0f}" if value >= 100 else f"{value:#.3g}"


def percent(share):
    return f"{100 * share:.1f} %"


def with_unit(value, unit):
    return f"{number(value)}x" if unit == "x" else f"{number(value)} {unit}"


def times(ratio):
    return f"{ratio:.2f}x" if ratio < 10 else f"{number(ratio)}x"


def spread(figure):
    if figure.low == figure.high:
        return with_unit(figure.value, figure.unit)
    return f"{with_unit(figure.value, figure.unit)} ({number(figure.low)} to {number(figure.high)})"


def describe(figure, without=()):
    """The case in words, less the members that go without saying."""
    case = {name: value for name, value in figure.case.items() if name not in without}
    words = []
    if "model" in case:
        words.append(str(case.pop("model")))
    for parts, form in ((("rows", "columns"), "{} x {}"), (("m", "n", "k"), "{} x {} x {}"), (("k", "n"), "{} x {}"),
                        (("sequences", "length"), "{} x {}"), (("heads", "kv_heads", "d"), "{}/{} heads of {}"),
                        (("shape",), "{}")):
        if all(part in case for part in parts):
            words.append(form.format(*(case.pop(part) for part in parts)))
    if "dtype" in case:
        words.append(case.pop("dtype"))
    if "from" in case:
        words.append(f"from {case.pop('from')}")
    words += [str(value) if name in ("product", "part", "part of") else f"{name.replace('_', ' ')} {value}"
              for name, value in sorted(case.items())]
    return ", ".join(words)


def name_of(figure, without=()):
    return f"{figure.work}: {describe(figure, without)}".removesuffix(": ")


def limit(bar, figure, value):
    """A bar's must or goal in words."""
    if bar["of"] == "share":
        return f"{100 * value:g} %"
    if bar["of"] == "ratio":
        return f"ahead of {bar['peer']}"
    return f"{value:,g}x" if figure.unit == "x" else f"{value:,g} {figure.unit}"


def found(verdict):
    if verdict.bar["of"] == "share":
        return percent(verdict.found)
    return times(verdict.found) if verdict.bar["of"] == "ratio" else with_unit(verdict.found, verdict.figure.unit)


def judgement(verdict):
    words = []
    for name, reached in (("must", verdict.must), ("goal", verdict.goal)):
        if reached is not None:
            said = limit(verdict.bar, verdict.figure, verdict.bar[name])
            words.append(f"{'goal ' if name == 'goal' else ''}{said}: {'met' if reached else '**missed**'}")
    return ", ".join(words)


def short_of(bar, verdicts, name, among, most=None):
    """One line about the verdicts that do not reach the limit called `name`, the furthest first."""
    lower = bar["of"] == "value" and verdicts[0].figure.unit not in figures.HIGHER_IS_BETTER
    verdicts = sorted(verdicts, key=lambda v: v.found, reverse=lower)
    wanted = limit(bar, verdicts[0].figure, bar[name])
    if among == 1:
        return f"- **{bar['title']}**: {found(verdicts[0])}; {'the goal is' if name == 'goal' else 'wanted:'} {wanted}."
    fixed = {key for key in ("dtype", "from", "tokens", "rank") if isinstance(bar["case"].get(key), (str, int))}
    cells = [f"{name_of(v.figure, fixed) if len(bar['work']) > 1 else describe(v.figure, fixed)} ({found(v)})"
             for v in verdicts[:most]]
    cells += [f"and {len(verdicts) - len(cells)} more"] * (len(cells) < len(verdicts))
    how = "not" if bar["of"] == "ratio" else f"{'above' if lower else 'below'}{' the goal of' if name == 'goal' else ''}"
    return f"- **{bar['title']}**: {len(verdicts)} of {among} {how} {wanted}: {'; '.join(cells)}."


def shortfalls(results, bars):
    missed, below, unmeasured = [], [], []
    for bar in bars.all:
        verdicts = bars.of(bar)
        if not verdicts:
            unmeasured.append(bar["title"])
            continue
        if bars.unjudged[bar["title"]]:
            unmeasured.append(f"{bar['title']} ({bars.unjudged[bar['title']]} more)")
        if short := [v for v in verdicts if v.must is False]:
            missed.append(short_of(bar, short, "must", len(verdicts)))
        if short := [v for v in verdicts if v.goal is False and v.must is not False]:
            below.append(short_of(bar, short, "goal", len(verdicts), most=3))
    said = {v.figure.key for group in bars.verdicts.values() for v in group if v.bar["of"] == "ratio" and v.must is False}
    compared = [(by["wick"], best) for by in results.cases.values()
                if "wick" in by and (best := figures.best_peer(by)) and on_page(by["wick"])]
    behind = sorted((figures.better(ours, best), name_of(ours), best.by) for ours, best in compared
                    if figures.better(ours, best) < 1 and ours.key not in said)
    if behind:
        missed.append(f"- **{'Also behind' if said else 'Behind'} a peer** in {len(behind)} of {len(compared)} comparisons: "
                      + "; ".join(f"{name} ({times(ratio)} of {by})" for ratio, name, by in behind) + ".")
    lines = missed or ["Nothing: every bar that was measured is met." if bars.verdicts else "No bar was measured."]
    if below:
        lines += ["", "Over the bar, short of the goal:", "", *below]
    if unmeasured:
        lines += ["", "Not measured here: " + "; ".join(unmeasured) + "."]
    return lines


def on_page(figure):
    return any(fnmatch.fnmatchcase(figure.work, work) for _, _, works in SECTIONS for work in works)


def table(cases, bars):
    others = list(dict.fromkeys(name for by in cases for name in by if name != "wick"))
    peers = any(not figures.is_ours(name) for name in others)
    judged = any(bars.verdicts.get(by["wick"].key) for by in cases)
    shares = any(by["wick"].share is not None for by in cases)
    head = ["work", "wick", *others] + ["over the best peer"] * peers + ["of the ceiling"] * shares + ["bar"] * judged
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for by in cases:
        ours = by["wick"]
        cells = [name_of(ours), spread(ours)]
        cells += [spread(by[name]) if name in by else "" for name in others]
        if peers:
            best = figures.best_peer(by)
            cells.append(times(figures.better(ours, best)) if best else "")
        if shares:
            cells.append(percent(ours.share) if ours.share is not None else "")
        if judged:
            cells.append("; ".join(judgement(v) for v in bars.verdicts.get(ours.key, [])))
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def machine_lines(results):
    m = results.machine
    said = [m[name] for name in ("gpu", "driver", "libraries", "cpu", "torch", "commit") if m.get(name)]
    ceilings = []
    if results.copy:
        ceilings.append(f"a copy of memory moved {number(results.copy)} GB/s")
    if results.gemm:
        ceilings.append(f"the fastest bf16 GEMM did {number(results.gemm)} TFLOP/s")
    text = ["; ".join(said) + "."] if said else []
    if ceilings:
        text.append("Ceilings measured on it: " + ", ".join(ceilings) + ".")
    return [" ".join(text)]


def document(title, results, bars, chart=None):
    lines = [f"# {title}, {results.machine.get('date', '')}".rstrip(", "), "", *machine_lines(results), "",
             "Written by `bench/report.py` from what `make bench-gpu` measured; bench/README.md says what is inside the timed "
             "regions. Medians, with the lowest and the highest. *Over the best peer*: how many times as good as the best of the "
             "peers' figures in the row.", "", "## What falls short", "", *shortfalls(results, bars)]
    if chart:
        lines += ["", f"![Share of bandwidth by kernel and row length, training speed beside the peers]({chart})"]
    for heading, text, works in SECTIONS:
        cases = [by for work in works for by in results.cases.values()
                 if "wick" in by and fnmatch.fnmatchcase(by["wick"].work, work)]
        if cases:
            lines += ["", f"## {heading}", "", text, "", *table(cases, bars)]
    if results.failures:
        lines += ["", "## What did not run to its end", ""]
        lines += [f"- `{' '.join(ran['command'])}`: {ran['error']}" for ran in results.failures.values()]
    return "\n".join(lines) + "\n"
