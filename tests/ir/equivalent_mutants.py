"""Mistakes that are none: the changed rule means the same, or differs only where nothing asks.

`mutate_ops.py` counts them apart. An entry gives the lines of such mistakes as the script prints them; a line that is no
longer a mistake that can be made is reported, by the script and by `test_mutations.py`.
"""

# ruff: noqa: E501  (lines of the sources, with a mistake in them)

from __future__ import annotations

from typing import NamedTuple

KINDS = {
    "speed": "a short cut: without it the same is computed in a longer way",
    "unused": "what is computed there is not used: the other side of a choice, or a place that holds nothing",
    "meeting": "one formula takes over from another where both hold",
    "symmetric": "what is exchanged is symmetric, or the same by what the rule has made sure of before",
    "never": "what the condition tells apart does not come here",
}


class Entry(NamedTuple):
    file: str
    function: str
    kind: str
    why: str
    lines: str


A_TO_I: list[Entry] = []

L_TO_Z: list[Entry] = []

EQUIVALENT = {
    (entry.file, entry.function, line.strip()): entry.kind
    for entry in (*A_TO_I, *L_TO_Z)
    for line in entry.lines.strip().splitlines()
}
