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
    ("The LoRA linear", "k x n: forward and backward over the two GEMMs of the frozen base, which is the ceiling. A peer's is "
     "over its own base, launched as it is itself.", ["lora linear over base"]),
    ("Row kernels", "Rows x columns. The ceiling is the bandwidth of the copy: every input read once, every result written "
     "once.",
     [f"{op} {direction}" for op in ("rms norm", "rms norm residual", "layer norm", "softmax")
      for direction in ("forward", "backward")]),
    ("Products of matrices", "Those of a training step, m x n x k. The ceiling is the fastest GEMM.", ["gemm*"]),
    ("Loss and elementwise kernels", "The ceiling is the bandwidth of the copy; of products, and of the whole loss with its "
     "products, the rate of the fastest GEMM.",
     ["linear cross-entropy, *", "logits = *", "cross-entropy", "dx = *", "swiglu*", "gelu*", "rope*", "embedding*",
      "gradient norm*", "adamw*", "clipped adamw*", "sampling*"]),
    ("Attention", "Of one layer: sequences x length, or one query and as many keys as its length. The ceiling is the fastest "
     "GEMM for whole sequences, the copy for one query.",
     ["attention forward*", "attention backward*", "attention*"]),
    ("Products of few rows", "As decoding has them. The ceiling is the bandwidth of the copy.", ["gemv*"]),
]

# What is in no table on purpose, and why. Any other work that fits no section comes under "Other".
WITHOUT_A_TABLE = {
    "copy": "the ceiling", "lora linear": "its parts", "lora linear, relative error": "our kernels beside the library"}


def sections(results):
    """(title, words, the cases of each work) for each table or group of tables. What fits none of SECTIONS is in the last
    one, so that nothing is lost but what is without a table on purpose."""
    left = {}  # by work
    for by in results.cases.values():
        work = next(iter(by.values())).work
        if work not in WITHOUT_A_TABLE:
            left.setdefault(work, []).append(by)
    for title, words, patterns in [*SECTIONS, ("Other", "What belongs to no section above.", ["*"])]:
        fitting = [work for pattern in patterns for work in left if fnmatch.fnmatchcase(work, pattern)]
        if fitting:
            yield title, words, {work: left.pop(work) for work in dict.fromkeys(fitting)}


def number(value, more=0):
    """Three digits, and no fewer than the integer has; `more` of them if asked for."""
    return f"{value:,.{more}f}" if value >= 99.95 else f"{value:#.{3 + more}g}"


def apart(form, value, limit):
    """`value` in as few digits as tell it from the limit."""
    return next((text for more in range(5) if (text := form(value, more)) != form(limit, more)), form(value, 0))


def percent(share, more=0):
    return f"{100 * share:.{1 + more}f} %"


def with_unit(value, unit, more=0):
    return f"{number(value, more)}x" if unit == "x" else f"{number(value, more)} {unit}"


def times(ratio):
    """1.00x only where it is neither more nor less."""
    return apart(lambda r, more: f"{r:.{2 + more}f}x" if r < 9.995 else f"{number(r, more)}x", ratio, 1)


def spread(figure):
    text = with_unit(figure.value, figure.unit)
    ends = number(figure.low), number(figure.high)
    return text if set(ends) == {number(figure.value)} else f"{text} ({ends[0]} to {ends[1]})"


def describe(figure, without=()):
    """The case in words, less the members that go without saying."""
    return ", ".join(describe_case({name: value for name, value in figure.case.items() if name not in without}))


def describe_case(case):
    case, words = dict(case), []
    if "model" in case:
        words.append(" ".join(str(case.pop(name)) for name in ("model", "product") if name in case))
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
    return words


def name_of(figure, without=()):
    return f"{figure.work}: {describe(figure, without)}".removesuffix(": ")


def limit(bar, figure, value):
    """A bar's must or goal in words."""
    if bar["of"] == "share":
        return f"{100 * value:g} %"
    if bar["of"] == "ratio":
        return f"ahead of {bar['peer']}"
    return f"{value:,g}x" if figure.unit == "x" else f"{value:,g} {figure.unit}"


def found(verdict, name):
    """What was found, so that it reads as more or less than the limit called `name`."""
    if verdict.bar["of"] == "ratio":
        return times(verdict.found)
    if verdict.bar["of"] == "share":
        return apart(percent, verdict.found, verdict.bar[name])
    return apart(lambda value, more: with_unit(value, verdict.figure.unit, more), verdict.found, verdict.bar[name])


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
        return f"- **{bar['title']}**: {found(verdicts[0], name)}; {'the goal is' if name == 'goal' else 'wanted:'} {wanted}."
    fixed = {key for key in ("dtype", "from", "tokens", "rank") if isinstance(bar["case"].get(key), (str, int))}
    cells = [f"{name_of(v.figure, fixed) if len(bar['work']) > 1 else describe(v.figure, fixed)} ({found(v, name)})"
             for v in verdicts[:most]]
    cells += [f"and {len(verdicts) - len(cells)} more"] * (len(cells) < len(verdicts))
    how = "not" if bar["of"] == "ratio" else f"{'above' if lower else 'below'}{' the goal of' if name == 'goal' else ''}"
    return f"- **{bar['title']}**: {len(verdicts)} of {among} {how} {wanted}: {'; '.join(cells)}."


def shortfalls(results, bars, commands):
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
    missed += behind_peers(results, said)
    lines = missed or ["Nothing: every bar that was measured is met." if bars.verdicts else "No bar was measured."]
    if below:
        lines += ["", "Bars met, goals missed:", "", *below]
    if unmeasured:
        lines += ["", "Not measured here: " + "; ".join(unmeasured) + "."]
    if results.failures:
        lines += ["", "Failed (what they measured before counts): "
                  + "; ".join(f"`{name}` ({run['error']})" for name, run in results.failures.items()) + "."]
    if names := never_ran(results, commands):
        lines += ["", "Never run: " + ", ".join(f"`{name}`" for name in names) + "."]
    return lines


def behind_peers(results, said):
    """A line for each section that has figures behind their best peer, but for those that are `said` already."""
    lines, behind_in_all, compared_in_all = [], 0, 0
    for title, _, works in sections(results):
        compared = [(by["wick"], best) for cases in works.values() for by in cases
                    if "wick" in by and (best := figures.best_peer(by)) and by["wick"].key not in said]
        behind = sorted(((figures.better(ours, best), ours, best.by) for ours, best in compared
                         if figures.better(ours, best) < 1), key=lambda entry: entry[0])
        behind_in_all += len(behind)
        compared_in_all += len(compared)
        if not behind:
            continue
        peers = {by for _, _, by in behind}
        shared = {} if len(behind) == 1 else {
            name: value for name, value in behind[0][1].case.items()
            if name in ("dtype", "from", "tokens", "rank") and all(ours.case.get(name) == value for _, ours, _ in behind)}
        words = ", ".join([*describe_case(shared), *[f"beside {by}" for by in peers if len(peers) == 1]])
        cells = [(describe if len(works) == 1 else name_of)(ours, shared)
                 + f" ({times(ratio)}{'' if len(peers) == 1 else f' of {by}'})" for ratio, ours, by in behind]
        lines.append(f"  - {title}, {len(behind)} of {len(compared)}{words and f' ({words})'}: {'; '.join(cells)}.")
    if lines:
        also = "Also behind" if said else "Behind"
        lines.insert(0, f"- **{also} a peer** in {behind_in_all} of {compared_in_all} {'other ' * bool(said)}comparisons:")
    return lines


def never_ran(results, commands):
    """The commands without a run; a group of them where none of it has one."""
    group = {name: name.split(".")[0] for name in commands}
    met = {group[name] for name in commands if name in results.ran}
    return dict.fromkeys(name if group[name] in met else group[name] for name in commands if name not in results.ran)


def tables(works, bars):
    """A table for each run of works that have the same columns; what only peers measured has one of its own."""
    parts = []  # (columns, works)
    for work, all_cases in works.items():
        for cases in ([by for by in all_cases if "wick" in by], [by for by in all_cases if "wick" not in by]):
            if not cases:
                continue
            makers = sorted(dict.fromkeys(name for by in cases for name in by), key=rank)
            ours = [by["wick"] for by in cases if "wick" in by]
            columns = (sorted(makers), any(f.share is not None for f in ours), any(f.key in bars.verdicts for f in ours))
            if not parts or parts[-1][0] != columns:
                parts.append((columns, makers, {}))
            parts[-1][2][work] = cases
    return [table(part, makers, shares, judged, bars) for (_, shares, judged), makers, part in parts]


def rank(name):
    """Where a maker's column stands: wick, other ways of ours, peers."""
    return 0 if name == "wick" else 1 if figures.is_ours(name) else 2


def table(works, makers, shares, judged, bars):
    alone = next(iter(works)) if len(works) == 1 else None
    compared = rank(makers[0]) == 0 and rank(makers[-1]) == 2
    head = [alone or "work", *makers] + ["over the best peer"] * compared + ["of the ceiling"] * shares + ["bar"] * judged
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for by in (by for cases in works.values() for by in cases):
        ours, best = by.get("wick"), figures.best_peer(by)
        cells = [(describe if alone else name_of)(ours or best)]
        cells += [spread(by[name]) if name in by else "" for name in makers]
        if compared:
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
        ceilings.append(f"the fastest bf16 GEMM did {number(results.gemm)} TFLOP/s "
                        f"({results.fastest.by}: {describe(results.fastest, ('dtype',))})")
    text = ["; ".join(said) + "."] if said else []
    if len(results.machines) > 1:
        rows = [by for _, _, works in sections(results) for cases in works.values() for by in cases]
        mixed = sum(len(results.files[next(iter(by.values())).key]) > 1 for by in rows)
        text.append(f"{len(results.machines)} GPUs of one host side by side, each for some of the benchmarks; "
                    + (f"{mixed} of {len(rows)} rows have figures of more than one GPU." if mixed else "no row is of two."))
    if ceilings:
        text.append("Ceilings measured on it: " + ", ".join(ceilings) + ".")
    return [" ".join(text)]


def document(title, results, bars, commands, picture=None):
    """The page. commands: the names of all that could have run; picture: (where the chart is, what it shows)."""
    lines = [f"# {title}, {results.machine.get('date', '')}".rstrip(", "), "", *machine_lines(results), "",
             "Written by `bench/report.py` from what `make bench-gpu` measured; bench/README.md says what is inside the timed "
             "regions. Medians, with the lowest and the highest where they read differently. *Over the best peer*: how many "
             "times as good as the best of the peers' figures in the row.",
             "", "## What falls short", "", *shortfalls(results, bars, commands)]
    if picture:
        lines += ["", f"![{picture[1]}]({picture[0]})"]
    for heading, text, works in sections(results):
        lines += ["", f"## {heading}", "", text]
        for rows in tables(works, bars):
            lines += ["", *rows]
    without = [next(iter(by.values())).work for by in results.cases.values()]
    without = {work: without.count(work) for work in WITHOUT_A_TABLE if work in without}
    if without:
        lines += ["", "Measured, and in no table: "
                  + "; ".join(f"{work} ({WITHOUT_A_TABLE[work]}), {count}" for work, count in without.items()) + "."]
    return "\n".join(lines) + "\n"
