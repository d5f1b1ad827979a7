"""The bars of bench/bars.json, and which figures reach them.

A bar is for every figure of ours whose work is in `work` and whose case has what `case` asks for: a value, one of a list
of values, or a number from {"from": low} on or up to {"to": high}. `of` says what is judged: the figure's "value", its
"share" of the ceiling, or the "ratio" over the peer named in `peer` (2: twice as good). `must` and `goal` are limits; a
value in us, ms, GiB or x has to be at most that, everything else at least, and a ratio above it.
"""

import dataclasses
import json

from reporting import figures


def fits(case, wanted):
    for name, rule in wanted.items():
        value = case.get(name)
        if isinstance(rule, dict):
            if not isinstance(value, (int, float)):
                return False
            if not rule.get("from", value) <= value <= rule.get("to", value):
                return False
        elif value not in (rule if isinstance(rule, list) else [rule]):
            return False
    return True


@dataclasses.dataclass
class Verdict:
    bar: dict
    figure: figures.Figure
    found: float
    must: bool = None  # None: there is no such limit
    goal: bool = None


class Bars:
    def __init__(self, path, results):
        self.all = json.loads(path.read_text())
        self.verdicts = {}  # by the figure's key
        self.unjudged = {}  # by title: figures of ours that lack what they are judged by
        for bar in self.all:
            measured = [by for by in results.cases.values() if "wick" in by and self.concerns(bar, by["wick"])]
            judged = [v for by in measured if (v := self.judge(bar, by)) is not None]
            for verdict in judged:
                self.verdicts.setdefault(verdict.figure.key, []).append(verdict)
            self.unjudged[bar["title"]] = len(measured) - len(judged)

    @staticmethod
    def concerns(bar, figure):
        return figure.work in bar["work"] and fits(figure.case, bar["case"])

    @staticmethod
    def judge(bar, by):
        ours, lower = by["wick"], False
        if bar["of"] == "ratio":
            peer = by.get(bar["peer"])
            found = figures.better(ours, peer) if peer else None
        elif bar["of"] == "share":
            found = ours.share
        else:
            found, lower = ours.value, ours.unit not in figures.HIGHER_IS_BETTER
        if found is None:
            return None

        def reaches(limit):
            if limit is None:
                return None
            if bar["of"] == "ratio":
                return found > limit
            return found <= limit if lower else found >= limit
        return Verdict(bar, ours, found, reaches(bar.get("must")), reaches(bar.get("goal")))

    def of(self, bar):
        return [v for group in self.verdicts.values() for v in group if v.bar is bar]
