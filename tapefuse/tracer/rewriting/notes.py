"""What became of each loop and branch while a function was traced, for `fn.explain()`, and attempts at staging."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from tapefuse._errors import PerformanceWarning
from tapefuse.tracer.rewriting.syntax import Statement
from tapefuse.tracer.source import user_stacklevel


class _Notes(threading.local):
    lines: dict[str, str] | None = None
    failures: dict[Statement, str] | None = None  # why a loop over Python's numbers is no native loop
    attempts: int = 0  # loops over Python's numbers being tried as native loops
    is_strict: bool = False  # whether one of them reaches more objects than are compared
    copies: int = 1  # of what is being traced, made by the loops around it that are unrolled


_notes = _Notes()


@contextmanager
def collected() -> Iterator[dict[str, str]]:
    """The notes made in the block: place and kind of statement -> what became of it."""
    outer, _notes.lines = _notes.lines, {}
    more = _notes.attempts, _notes.failures, _notes.copies
    _notes.attempts, _notes.failures, _notes.copies = 0, {}, 1
    try:
        yield _notes.lines
    finally:
        _notes.lines = outer
        _notes.attempts, _notes.failures, _notes.copies = more


def note(statement: Statement, became: str) -> None:
    if _notes.lines is not None:
        _notes.lines[f"{statement.kind} at {statement.place}"] = became


@contextmanager
def attempt(is_strict: bool) -> Iterator[None]:
    """The block may fail, and then Python does the same work step by step; its notes are kept if it succeeds.

    `is_strict`: methods that assign attributes are none of those that may be called in it.
    """
    before = dict(_notes.lines) if _notes.lines is not None else None
    _notes.attempts += 1
    outer, _notes.is_strict = _notes.is_strict, _notes.is_strict or is_strict
    try:
        yield
    except Exception:
        if _notes.lines is not None and before is not None:
            _notes.lines.clear()
            _notes.lines.update(before)
        raise
    finally:
        _notes.attempts -= 1
        _notes.is_strict = outer


@contextmanager
def unrolling(times: int) -> Iterator[None]:
    """The block is traced so many times by one loop."""
    outer, _notes.copies = _notes.copies, _notes.copies * max(times, 1)
    try:
        yield
    finally:
        _notes.copies = outer


def copies() -> int:
    return _notes.copies


def attempting() -> bool:
    return _notes.attempts > 0


def is_strict() -> bool:
    return _notes.is_strict


def failed(statement: Statement, why: str) -> None:
    if _notes.failures is not None:
        _notes.failures[statement] = why


def failure(statement: Statement) -> str | None:
    """Why the loop was found to be none for the program earlier in this trace."""
    return None if _notes.failures is None else _notes.failures.get(statement)


_warned: set[str] = set()


def warn_once(message: str) -> None:
    if message not in _warned:
        _warned.add(message)
        warnings.warn(message, PerformanceWarning, stacklevel=user_stacklevel())
