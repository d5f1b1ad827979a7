#!/usr/bin/env python3
"""Runs the GPU benchmarks and their peers on this machine, and writes a page and a chart of what they measured.

    python3 bench/report.py run   [--results FILE] [--only GROUP,...] [--again] [--times N] [--within SECONDS]
    python3 bench/report.py write FILE... --out docs/benchmarks/NAME.md [--svg docs/benchmarks/NAME.svg]

`run` goes through bench/commands.json and appends every figure to FILE as soon as its command has ended. Called again, it
runs what has not run well, so that a long run can be made in parts. A command that fails or passes its limit is noted, and
the others go on. `write` judges the figures by bench/bars.json, and says which commands never ran or failed. Where the GPUs
of one host ran parts side by side, each into a FILE of its own, `write` takes them all; they have to be of the same kind of
GPU, driver, torch and commit.
"""

import argparse
import json
import os
import pathlib
import sys

BENCH = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(BENCH))

from reporting import bars, chart, document, figures, runner  # noqa: E402


def write(options):
    results = figures.Results(*options.results)
    judged = bars.Bars(options.bars, results)
    picture = None
    if options.svg:
        drawn = chart.chart(results, judged)
        if drawn:
            svg, caption = drawn
            options.svg.write_text(svg)
            picture = os.path.relpath(options.svg, options.out.parent), caption
    title = options.title or results.machine.get("gpu", "Benchmarks").split(",")[0]
    commands = [command["name"] for command in json.loads(options.commands.read_text())]
    text = document.document(title, results, judged, commands, picture)
    if options.notes:
        text += "\n" + options.notes.read_text()
    options.out.write_text(text)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(required=True)
    verb = verbs.add_parser("run", help="measure")
    verb.set_defaults(do=runner.run)
    verb.add_argument("--results", type=pathlib.Path, default=BENCH.parent / "build/bench/gpu.jsonl")
    verb.add_argument("--commands", type=pathlib.Path, default=BENCH / "commands.json")
    verb.add_argument("--bin", type=pathlib.Path, default=BENCH.parent / "build/release/bin", help="where our programs are")
    verb.add_argument("--python", default=sys.executable, help="the Python that has torch, transformers and peft")
    verb.add_argument("--only", type=lambda text: text.split(","), default=[], help="some commands: train,rows.wick")
    verb.add_argument("--times", type=int, default=1, help="run each so many times; the median of the medians counts")
    verb.add_argument("--again", action="store_true", help="forget what the chosen commands measured before")
    verb.add_argument("--within", type=float, help="start no command whose limit ends after so many seconds")
    verb = verbs.add_parser("write", help="write the page and the chart")
    verb.set_defaults(do=write)
    verb.add_argument("results", type=pathlib.Path, nargs="+", help="one file, or one for each GPU of one host")
    verb.add_argument("--out", type=pathlib.Path, required=True)
    verb.add_argument("--svg", type=pathlib.Path)
    verb.add_argument("--commands", type=pathlib.Path, default=BENCH / "commands.json", help="all that could have run")
    verb.add_argument("--bars", type=pathlib.Path, default=BENCH / "bars.json")
    verb.add_argument("--title", help="instead of the GPU's name")
    verb.add_argument("--notes", type=pathlib.Path, help="text that is appended to the page")
    options = parser.parse_args()
    options.do(options)


if __name__ == "__main__":
    main()
