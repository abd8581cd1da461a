"""What is going on in this thread: the tapes that record and the trace that is under way."""

from __future__ import annotations

import contextvars
import itertools
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from tapefuse._config import busy

if TYPE_CHECKING:
    from tapefuse.tracer.recording import Recording
    from tapefuse.tracer.trace import Trace


class _State(threading.local):
    tapes: tuple[Recording, ...] = ()  # recording now, outermost first; those outside the current trace are set aside
    trace: Trace | None = None  # the innermost one
    pinned: bool = (
        False  # `ir.graph.here.loc` was set on purpose: operations keep it instead of looking up the user's line
    )

    overrides: Mapping[str, Callable[..., Any]] = MappingProxyType(
        {}
    )  # rules that tapes record in the place of the ops' own

    def __init__(self) -> None:
        with np.errstate(all="ignore"):
            # `quietly(f, *args)`: f under np.errstate(all="ignore"), which takes 30 times as long to enter. Not
            # to be entered twice at a time (RuntimeError), and settings of `config` in the block are not seen in it.
            self.quietly = contextvars.copy_context().run


state = _State()

new_key = itertools.count(1).__next__  # identities of tensors and variables on tapes


@contextmanager
def tracing(trace: Trace | None, tapes: tuple[Recording, ...] = ()) -> Iterator[None]:
    """Run the block with `trace` as the innermost one and `tapes` recording; restore what was before."""
    before = state.trace, state.tapes, state.pinned
    busy.append(None)
    state.trace, state.tapes, state.pinned = trace, tapes, False
    try:
        yield
    finally:
        state.trace, state.tapes, state.pinned = before
        busy.pop()
