"""How much memory the derivatives that are made now may take for what they keep of loops.

    with budget.limited(1 << 20): gradient_graph(graph)

A loop whose stacks exceed the budget is run again in chunks (`loop_chunks`). The budget holds for each loop alone.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tapefuse.ir.types import Dim, Poly


class _State(threading.local):
    nbytes: int | None = None
    planned: frozenset[str] = frozenset()  # index symbols of loops that are chunks already


_state = _State()


@contextmanager
def limited(nbytes: int | None) -> Iterator[None]:
    """Derivatives made in this block, by this thread, keep at most so many bytes a loop; None for no limit."""
    before, _state.nbytes = _state.nbytes, nbytes
    try:
        yield
    finally:
        _state.nbytes = before


def limit() -> int | None:
    return _state.nbytes


def is_exceeded(nbytes: Dim) -> bool:
    """Whether so much is too much; what depends on a number that is known at run time only, is."""
    return _state.nbytes is not None and (isinstance(nbytes, Poly) or nbytes > _state.nbytes)


@contextmanager
def planned(names: frozenset[str]) -> Iterator[None]:
    """Loops with these index symbols keep what they carry, and compute everything else again."""
    before, _state.planned = _state.planned, _state.planned | names
    try:
        yield
    finally:
        _state.planned = before


def is_planned(name: str) -> bool:
    return name in _state.planned
