"""The table of equivalent mistakes (`equivalent_mutants.py`) speaks of the rules as they are."""

from __future__ import annotations

from tests.ir.equivalent_mutants import A_TO_I, KINDS, L_TO_Z
from tests.ir.rule_sources import stale


def test_each_entry_is_a_mistake_that_can_be_made():
    assert not stale()


def test_kinds_are_known():
    assert {entry.kind for entry in (*A_TO_I, *L_TO_Z)} <= KINDS.keys()
