"""What the peers share: how they go through their cells, and the form in which they write what they measured, that of
bench/gpu/record.h, which bench/README.md describes."""

import json
import multiprocessing
import os
import sys
import traceback


def print_record(by, work, case, spread, unit, **rates):
    """One line of JSON. spread: (median, lowest, highest), or one number where there is no more than that."""
    value, *ends = spread if isinstance(spread, (tuple, list)) else (spread,)
    line = {"by": by, "work": work, "case": case, "value": value, "unit": unit, **rates}
    if ends:
        line["low"], line["high"] = ends
    print(json.dumps(line), flush=True)


def spread_of(values):
    """(median, lowest, highest)."""
    values = sorted(values)
    return values[len(values) // 2], values[0], values[-1]


def each_cell(cells, measure):
    """measure(*cell) for each cell, in a process that is forked off before this one has touched the GPU. A cell that fails is
    told on stderr, and the next ones get a new process: a fault of the device, a capture that broke off or a full memory stay with
    the old one. Exits with an error when one failed."""
    fork = multiprocessing.get_context("fork")
    begun = fork.Value("i", 0)

    def work():
        while begun.value < len(cells):
            begun.value += 1
            try:
                measure(*cells[begun.value - 1])
            except Exception:
                traceback.print_exc()
                sys.stderr.flush()
                os._exit(1)  # what would be tidied up here belongs to a device that may be no more

    failed = []
    while begun.value < len(cells):
        process = fork.Process(target=work)
        process.start()
        process.join()
        if process.exitcode != 0:
            failed.append(" ".join(map(str, cells[begun.value - 1])))
    if failed:
        sys.exit(f"failed: {'; '.join(failed)}")
