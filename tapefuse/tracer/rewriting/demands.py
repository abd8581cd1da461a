"""`assert c` and `if c: raise ...` on traced conditions: the compiled function tests them before it does anything."""

from __future__ import annotations

import linecache
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tapefuse._errors import ConcretizationError, StagingError, TapefuseError
from tapefuse.tracer.debugging import require
from tapefuse.tracer.operators import functions
from tapefuse.tracer.rewriting.logic import condition, is_unknown
from tapefuse.tracer.source import PACKAGE, user_loc

Thunk = Callable[[], Any]
_CONSTANTS = (bool, int, float, complex, str, type(None))


def holds(test: Any, message: Thunk | None) -> Any:
    """What `assert test, message()` asks of Python; a traced test becomes one of the compiled function."""
    if not is_unknown(test):
        return test
    where = user_loc()
    text = linecache.getline(where.file, where.line).strip() if message is None else _made(message)
    arguments = () if text == "" else (text if isinstance(text, _CONSTANTS) else str(text),)
    error = AssertionError(*arguments)
    _refuse_caught(error)
    require(condition(test, f"the condition of assert at {where}"), error, str(where))
    return True


def raises(test: Any, error: Thunk) -> Any:
    """What `if test: raise error()` asks of Python."""
    if not is_unknown(test):
        return test
    forbid(test, _made(error))
    return False


def forbid(test: Any, error: Any) -> None:
    """Make the compiled function raise `error`, a class or an object, when the traced test is true."""
    where = user_loc()
    error = error() if isinstance(error, type) and issubclass(error, Exception) else error
    if not isinstance(error, Exception):
        raise TypeError(f"exceptions must derive from Exception, got {error!r} at {where}")
    _refuse_caught(error)
    test = condition(test, f"the condition of the raise at {where}")
    require(functions.logical_not(test), error, str(where))


# -- handlers ---------------------------------------------------------------------------------------------------------


class _Handlers(threading.local):
    """Of the `try` statements under way: what they catch, and the errors of those that would."""

    caught: tuple[tuple[Thunk, list[StagingError]], ...] = ()


_handlers = _Handlers()


@contextmanager
def handling(kinds: Thunk) -> Iterator[None]:
    """In the block a `try` catches exceptions of these kinds. Raises StagingError if it should have caught one that
    the compiled function raises, whatever the handler has made of it."""
    found: list[StagingError] = []
    outer, _handlers.caught = _handlers.caught, (*_handlers.caught, (kinds, found))
    try:
        yield
    finally:
        _handlers.caught = outer
        if found:
            raise found[0]


def _refuse_caught(error: Exception) -> None:
    for kinds, found in _handlers.caught:
        if isinstance(error, kinds()):
            found.append(
                StagingError(
                    f"{type(error).__name__} at {user_loc()} depends on a traced value and is raised when the compiled "
                    "function runs, and then ends it: the `except` around it cannot catch it; use `if` and `else`"
                )
            )
            raise found[0]


# -- what is raised ---------------------------------------------------------------------------------------------------


def raised(body: Thunk) -> Exception:
    """What a block raises that ends with `raise`."""
    try:
        _made(body)
    except Exception as error:
        if isinstance(error, TapefuseError) and _is_ours(error):
            raise
        return error
    raise AssertionError(f"the block at {user_loc()} raises nothing")


def _made(thunk: Thunk) -> Any:
    try:
        return thunk()
    except ConcretizationError as error:
        error.add_note("messages of assert and raise are made once, while tracing: leave traced values out of them")
        raise


def _is_ours(error: BaseException) -> bool:
    """Whether an exception comes from inside of this package."""
    tb = error.__traceback__
    while tb is not None and tb.tb_next is not None:
        tb = tb.tb_next
    return tb is not None and tb.tb_frame.f_code.co_filename.startswith(PACKAGE)
