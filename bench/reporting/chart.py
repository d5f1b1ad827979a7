"""The chart of the page, as SVG: share of bandwidth by kernel and row length, and training speed beside the peers'.

A panel is drawn of what was measured; so what the chart shows is said by its caption."""

import itertools
import xml.sax.saxutils

from reporting import figures

WIDTH, LEFT, RIGHT = 860, 56, 16
PLOT, TOP, BOTTOM = 190, 58, 40  # of a panel: the height of its bars, and what is above and below them
PANEL = TOP + PLOT + BOTTOM

STYLE = """
  text { font: 12px system-ui, sans-serif; fill: #24292f; }
  .title { font-size: 14px; font-weight: 600; }
  .small { font-size: 9px; }
  .axis { stroke: #8c959f; stroke-width: 1; }
  .grid { stroke: #d0d7de; stroke-width: 0.5; }
  .bar { stroke: #cf222e; stroke-width: 1.5; stroke-dasharray: 5 3; }
  .mark { stroke: #24292f; stroke-width: 2; }
  .c0 { fill: #2f6fdb; } .c1 { fill: #1a9e8f; } .c2 { fill: #d9822b; } .c3 { fill: #8c959f; } .c4 { fill: #b8bfc6; }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3; }
    .grid { stroke: #30363d; }
    .mark { stroke: #e6edf3; }
    .bar { stroke: #ff7b72; }
    .c3 { fill: #6e7681; } .c4 { fill: #484f58; }
  }
"""


def text(x, y, words, anchor="start", style=None):
    style = f' class="{style}"' if style else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{style}>{xml.sax.saxutils.escape(words)}</text>'


def line(x1, y1, x2, y2, style):
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{style}"/>'


def short(number):
    return f"{number // 1024}K" if number % 1024 == 0 else str(number)


class Panel:
    """Groups of bars side by side on one scale. A group: (name, bars); a bar: (colour, value, label, mark, limit), the
    last two a peer's value and the limit to reach, or None."""

    def __init__(self, title, caption, groups, legend, steps, axis_label):
        self.title, self.caption, self.groups, self.legend = title, caption, groups, legend
        self.top, self.steps, self.axis_label = steps[-1], steps, axis_label

    def draw(self, y):
        base = y + TOP + PLOT

        def height(value):
            return PLOT * min(value / self.top, 1)

        parts = [text(LEFT, y + 16, self.title, style="title")]
        x = LEFT
        for style, name in self.legend:
            if style in ("mark", "bar"):
                parts.append(line(x, y + 34, x + 12, y + 34, style))
            else:
                parts.append(f'<rect x="{x}" y="{y + 29}" width="12" height="10" class="{style}"/>')
            parts.append(text(x + 17, y + 38, name))
            x += 34 + 6.6 * len(name)
        for step in self.steps:
            at = base - height(step)
            parts.append(line(LEFT, at, WIDTH - RIGHT, at, "grid" if step else "axis"))
            parts.append(text(LEFT - 6, at + 4, self.axis_label(step), "end"))
        group_width = (WIDTH - LEFT - RIGHT) / len(self.groups)
        for i, (name, bars) in enumerate(self.groups):
            left = LEFT + i * group_width
            width = min(0.84 * group_width / len(bars), 70)
            x = left + (group_width - width * len(bars)) / 2
            for style, value, label, mark, limit in bars:
                tall = height(value)
                parts.append(f'<rect x="{x + 1:.1f}" y="{base - tall:.1f}" width="{width - 2:.1f}" height="{tall:.1f}" '
                             f'class="{style}"/>')
                above = max(tall, height(mark or 0))
                if limit and above < height(limit) < above + 14:  # where the label would be
                    above = height(limit)
                parts.append(text(x + width / 2, base - above - 4, label, "middle", "small"))
                if mark:
                    parts.append(line(x, base - height(mark), x + width, base - height(mark), "mark"))
                if limit:
                    parts.append(line(x, base - height(limit), x + width, base - height(limit), "bar"))
                x += width
            parts.append(text(left + group_width / 2, base + 17, name, "middle"))
        return parts


def rows_panel(results, bars, direction):
    ops = ["rms norm", "layer norm", "softmax"]
    cells, limits, marks = {}, set(), False
    for by in results.cases.values():
        ours = by.get("wick")
        if ours is None or not ours.work.endswith(direction) or ours.work[:-len(direction) - 1] not in ops:
            continue
        verdicts = [v for v in bars.verdicts.get(ours.key, []) if v.bar["of"] == "share"]
        if ours.share is None or not verdicts:
            continue
        peer = by.get("torch compiled")
        mark = peer.share if peer else None
        marks = marks or mark is not None
        limit = verdicts[0].bar.get("must")
        limits |= {limit} - {None}
        op = ops.index(ours.work[:-len(direction) - 1])
        cells.setdefault((ours.case["columns"], ours.case["rows"]), {})[op] = (
            f"c{op}", ours.share, f"{100 * ours.share:.0f}", mark, limit)
    if not cells:
        return None
    groups = [(f"{short(columns)} x {short(rows)}", [found[op] for op in sorted(found)])
              for (columns, rows), found in sorted(cells.items())]
    legend = [(f"c{i}", op) for i, op in enumerate(ops)] + [("mark", "torch.compile")] * marks
    legend += [("bar", ", ".join(f"{100 * limit:.0f} %" for limit in sorted(limits)))] * bool(limits)
    return Panel(f"Row kernels {direction}, bf16: share of a copy's bandwidth, by row length x rows",
                 "share of bandwidth of the row kernels by row length", groups, legend, [0, 0.25, 0.5, 0.75, 1],
                 lambda step: f"{100 * step:.0f} %")


def training_panel(results, bars):
    cases = [by for by in results.cases.values() if "wick" in by and by["wick"].work == "train"]
    peers = sorted({name for by in cases for name in by if not figures.is_ours(name)})
    colours = dict(zip(["wick", *peers], itertools.chain(["c0"], itertools.cycle(["c3", "c4", "c1", "c2"]))))
    groups, most = [], 0
    for by in cases:
        ours = by["wick"]
        limit = next((v.bar.get("must") for v in bars.verdicts.get(ours.key, [])), None)
        found = [(colour, by[maker].value, f"{by[maker].value / 1e3:.1f}k", None, limit if maker == "wick" else None)
                 for maker, colour in colours.items() if maker in by]
        most = max(most, limit or 0, *(bar[1] for bar in found))
        case = ours.case
        groups.append((f"{case['model']}, {case['sequences']} x {case['length']}, rank {case['rank']}", found))
    if not groups:
        return None
    step = next(s for s in (1e2, 2e2, 5e2, 1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5, 2e5, 5e5, 1e6) if 5 * s >= most)
    count = int(-(-most // step))
    legend = [(colour, maker) for maker, colour in colours.items()]
    if any(bar[4] for _, found in groups for bar in found):
        legend.append(("bar", "to be reached"))
    caption = "training speed" + " beside the peers'" * bool(peers)
    return Panel("LoRA training steps: tokens a second", caption, groups, legend, [i * step for i in range(count + 1)],
                 lambda value: f"{value / 1e3:g}k")


def chart(results, bars):
    """(SVG text, what it shows), or None where nothing was measured that it could show."""
    panels = [panel for panel in (rows_panel(results, bars, "forward"), rows_panel(results, bars, "backward"),
                                  training_panel(results, bars)) if panel]
    if not panels:
        return None
    height = PANEL * len(panels) + 8
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}">',
             f"<style>{STYLE}</style>"]
    for i, panel in enumerate(panels):
        parts += panel.draw(8 + i * PANEL)
    caption = ", ".join(dict.fromkeys(panel.caption for panel in panels))
    return "\n".join([*parts, "</svg>"]) + "\n", caption[0].upper() + caption[1:]
