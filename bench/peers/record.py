"""The form in which the peers write what they measured: that of bench/gpu/record.h, which bench/README.md describes."""

import json


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
