"""A plot of ratios as SVG text: one row per case, one dot per peer, a bar for the mark, on a logarithmic axis."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

Rows = Sequence[tuple[str, Mapping[str, float]]]

LABELS, PANEL, GAP, ROW, TOP, BOTTOM = 330, 380, 30, 15, 46, 44
COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#8c564b", "#17becf", "#e377c2", "#bcbd22", "#7f7f7f")
TICKS = (0.01, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 10_000, 100_000)


def svg(panels: Sequence[tuple[str, Rows, Sequence[float | None]]], peers: Mapping[str, str]) -> str:
    """`panels`: title, rows (label, ratio by peer; all with the same labels), the rows' marks. `peers`: labels."""
    labels = [label for label, _ in panels[0][1]]
    height = TOP + ROW * len(labels) + BOTTOM
    width = LABELS + len(panels) * (PANEL + GAP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        *[_text(LABELS - 8, _y(k) + 4, label, "end") for k, label in enumerate(labels)],
    ]
    colours = dict(zip(peers, COLOURS, strict=False))
    for k, (title, rows, marks) in enumerate(panels):
        parts += _panel(LABELS + k * (PANEL + GAP), title, rows, marks, colours)
    parts += _legend(LABELS, height - 10, peers, colours)
    return "\n".join([*parts, "</svg>\n"])


def _panel(left: float, title: str, rows: Rows, marks: Sequence[float | None], colours: Mapping[str, str]) -> list[str]:
    values = [value for _, ratios in rows for value in ratios.values()]
    low, high = min([0.7, *values]) / 1.2, max([2.0, *values]) * 1.2
    x = lambda value: left + PANEL * math.log(value / low) / math.log(high / low)
    bottom = TOP + ROW * len(rows)
    parts = [_text(left + PANEL / 2, 16, f"{title}: peer / tapefuse", "middle", 'font-weight="bold"')]
    for tick in TICKS:
        if low <= tick <= high:
            colour = "#333" if tick == 1 else "#ddd"
            parts.append(f'<path d="M{x(tick):.1f} {TOP - 6}V{bottom}" stroke="{colour}"/>')
            parts.append(_text(x(tick), TOP - 10, f"{tick:g}", "middle", 'fill="#555"'))
    for k, asked in enumerate(marks):
        if asked is not None:
            parts.append(f'<path d="M{x(asked):.1f} {_y(k) - 6}v12" stroke="#000" stroke-width="2.5"/>')
    for k, (label, ratios) in enumerate(rows):
        for peer, value in ratios.items():
            name = f"<title>{escape(label)}, {escape(peer)}: {value:.2f}</title>"
            parts.append(f'<circle cx="{x(value):.1f}" cy="{_y(k)}" r="4" fill="{colours[peer]}">{name}</circle>')
    return parts


def _legend(left: float, y: float, peers: Mapping[str, str], colours: Mapping[str, str]) -> list[str]:
    parts = []
    for k, (name, label) in enumerate(peers.items()):
        parts.append(f'<circle cx="{left + 6 + 110 * k}" cy="{y - 4}" r="4.5" fill="{colours[name]}"/>')
        parts.append(_text(left + 16 + 110 * k, y, label))
    return [*parts, _text(left - 8, y, "right of 1: tapefuse is faster; bars: marks", "end", 'fill="#555"')]


def _y(row: int) -> float:
    return TOP + ROW * (row + 0.5)


def _text(x: float, y: float, text: str, anchor: str = "start", more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" {more}>{escape(text)}</text>'
