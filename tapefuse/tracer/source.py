"""Where in the user's source an operation was called."""

from __future__ import annotations

import linecache
import os
import sys
import weakref
from collections import deque
from collections.abc import Iterable
from inspect import CO_ASYNC_GENERATOR, CO_COROUTINE, CO_GENERATOR, CO_NEWLOCALS
from types import CodeType
from typing import Any

from tapefuse._errors import TapeError
from tapefuse.ir.graph import Loc, here
from tapefuse.tracer.state import state

PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_VERSION = f"python{sys.version_info.major}.{sys.version_info.minor}"
_LIBRARIES = (  # of Python's own modules; `sysconfig`, which knows them as well, takes 2 ms
    os.path.dirname(os.__file__) + os.sep,
    os.path.join(sys.base_exec_prefix, sys.platlibdir, _VERSION) + os.sep,
    "<frozen",
)
_INSTALLED = "site-packages", "dist-packages"  # folders of other people's
_FUNCTIONS = (*[os.path.join(PACKAGE, name) + os.sep for name in ("numpy", "random", "nn")], PACKAGE + "special.py")

STAGER = "_tapefuse"  # the name under which code of rewritten functions knows `rewriting.staging.Stager`
_SUSPENDED = CO_GENERATOR | CO_COROUTINE | CO_ASYNC_GENERATOR

_known: dict[tuple[str, int], Loc] = {}


class _Ours(dict[str, bool]):
    """Whether a file, by its name, is one of this package."""

    def __missing__(self, file: str) -> bool:
        self[file] = is_ours = file.startswith(PACKAGE)
        return is_ours


OURS = _Ours()


def is_users_file(file: str) -> bool:
    """Whether code of that file is the user's: not of Python, of an installed package, or ours."""
    return not file.startswith((PACKAGE, *_LIBRARIES)) and not any(name in file for name in _INSTALLED)


def user_instruction() -> tuple[CodeType, int]:
    """`user_loc` as `line_of` takes it."""
    frame = sys._getframe(1)
    while OURS[frame.f_code.co_filename] and frame.f_back is not None:
        frame = frame.f_back
    return frame.f_code, frame.f_lasti


def line_of(code: CodeType | None, instruction: int) -> Loc | None:
    """The line of an instruction, as `frame.f_lasti` counts."""
    if code is None:
        return None
    lines = [line for start, end, line in code.co_lines() if start <= instruction < end and line is not None]
    return _loc(code.co_filename, lines[0] if lines else code.co_firstlineno)


def _loc(file: str, line: int) -> Loc:
    """One object per line."""
    key = file, line
    loc = _known.get(key)
    if loc is None:
        loc = _known[key] = Loc(*key)
    return loc


def user_loc() -> Loc:
    """The innermost line that is not in this package; one object per line."""
    frame = sys._getframe(1)
    while OURS[frame.f_code.co_filename] and frame.f_back is not None:
        frame = frame.f_back
    return _loc(frame.f_code.co_filename, frame.f_lineno)


def called(operator: str = "") -> str:
    """`take at model.py:3`: the function of ours that the user's line calls, and that line. For messages.

    `operator`: what it is called if there is no function, in `x ** y` say.
    """
    frame, name = sys._getframe(1), operator
    while frame.f_code.co_filename.startswith(PACKAGE) and frame.f_back is not None:
        inner = frame.f_code.co_name
        if inner[0] not in "_<" and frame.f_code.co_filename.startswith(_FUNCTIONS):
            name = inner
        frame = frame.f_back
    return f"{name} at {user_loc()}".lstrip()


def without_staging(asked_by: str) -> str:
    """What to do where a traced value decides about Python's control flow, which was not staged. For messages.

    `asked_by`: what needs its value.
    """
    frame = sys._getframe(1)
    while frame.f_code.co_filename.startswith(PACKAGE) and frame.f_back is not None:
        frame = frame.f_back
    code, name = frame.f_code, repr(frame.f_code.co_name)
    by_hand = "use tp.where, tp.cond, tp.while_loop or tp.scan"
    if not linecache.getline(code.co_filename, frame.f_lineno):
        why = f"the source of {name} is not available, so its `if`, `while` and `for` are Python's: save it in a file"
        return f"{why}, or {by_hand}"
    is_staged = STAGER in code.co_freevars or not code.co_flags & CO_NEWLOCALS
    asks_for_truth = asked_by.startswith("a truth value")
    if code.co_flags & _SUSPENDED and (asks_for_truth or asked_by == "an index"):
        what = "coroutine" if code.co_flags & CO_COROUTINE else "generator"
        return f"{name} is a {what}, whose `if`, `while` and `for` are Python's: make it a function, or {by_hand}"
    if asks_for_truth and not is_staged:
        why = (
            f"{name} is left to Python: it is a property, an operator, a function that a library calls (or one whose "
            "source is not available) or tp.as_written marks, or has `match`, `sorted` and the like, `eval`, `locals`, "
            "or jumps out of `finally`"
        )
        return f"{why}; write `if`, `while`, `for` in a function or method that is none of these, or {by_hand}"
    if asks_for_truth:
        return f"{by_hand}, which choose and repeat by traced values, in place of `match`, `sorted` and the like"
    if asked_by == "an index":
        return "make the list or tuple one tensor, tp.stack(xs), and take its element [i]; or choose with tp.switch"
    return f"{by_hand}, which choose and repeat by traced values"


_made: deque[tuple[weakref.ref, Loc]] = deque(maxlen=1024)


def made_here(x: Any) -> None:
    """Remember for a while which line of the user's made the object `x`."""
    _made.append((weakref.ref(x), user_loc()))


def made_at(x: Any) -> Loc | None:
    """The line that made `x`, if it was noted and was not long ago."""
    return next((loc for made, loc in reversed(_made.copy()) if made() is x), None)


def current_loc() -> Loc | None:
    """The line that an operation called now belongs to: one pinned on purpose, else the user's."""
    return here.loc if state.pinned else user_loc()


def refuse_overrides(what: str, names: Iterable[str]) -> None:
    """Raise TapeError if rules of `override_gradient` would be left out in a graph that has these operations."""
    lost = sorted(state.overrides.keys() & names)
    if lost:
        raise TapeError(
            f"{what} at {user_loc()} runs {', '.join(lost)} inside of a graph, which override_gradient does not reach; "
            "override it around a tape inside of the traced function, or use tp.custom_gradient"
        )


def user_stacklevel() -> int:
    """The `stacklevel` with which `warnings.warn`, called by this function's caller, points at the user's line."""
    frame, level = sys._getframe(1), 1
    while frame.f_code.co_filename.startswith(PACKAGE) and frame.f_back is not None:
        frame, level = frame.f_back, level + 1
    return level
