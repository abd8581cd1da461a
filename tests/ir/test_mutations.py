"""The table of equivalent mistakes speaks of the rules as they are, and the page of the kinds in it."""

from __future__ import annotations

from pathlib import Path

from tests.ir.equivalent_mutants import A_TO_I, KINDS, L_TO_Z
from tests.ir.rule_sources import stale

ENTRIES = (*A_TO_I, *L_TO_Z)
PAGE = Path(__file__).parents[2] / "docs" / "testing.md"


def test_each_entry_is_a_mistake_that_can_be_made():
    assert not stale()


def test_the_page_has_the_kinds():
    assert {entry.kind for entry in ENTRIES} == KINDS.keys()
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    assert rows == [f"| `{kind}` | {why} |" for kind, why in KINDS.items()]
