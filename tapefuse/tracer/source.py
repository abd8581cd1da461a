"""Where in the user's source an operation was called."""

from __future__ import annotations

import os
import sys

from tapefuse.ir.graph import Loc, here
from tapefuse.tracer.state import state

PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep

_known: dict[tuple[str, int], Loc] = {}


def user_loc() -> Loc:
    """The innermost line that is not in this package; one object per line."""
    frame = sys._getframe(1)
    while frame.f_code.co_filename.startswith(PACKAGE) and frame.f_back is not None:
        frame = frame.f_back
    key = frame.f_code.co_filename, frame.f_lineno
    loc = _known.get(key)
    if loc is None:
        loc = _known[key] = Loc(*key)
    return loc


def current_loc() -> Loc | None:
    """The line that an operation called now belongs to: one pinned on purpose, else the user's."""
    return here.loc if state.pinned else user_loc()


def user_stacklevel() -> int:
    """The `stacklevel` with which `warnings.warn`, called by this function's caller, points at the user's line."""
    frame, level = sys._getframe(1), 1
    while frame.f_code.co_filename.startswith(PACKAGE) and frame.f_back is not None:
        frame, level = frame.f_back, level + 1
    return level
