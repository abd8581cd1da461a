"""What a program does beside computing: it tests a condition, or prints.

    %1 = require %ok arguments=("x is negative") error="ValueError" where="model.py:3" : bool[]
    %2 = having %y, %1 : f32[3]

Results of these are bools that nobody needs; `having` ties them to a value that somebody does.
"""

# To mypy the body of an op stays a class after @defop.
# mypy: disable-error-code="arg-type, attr-defined, call-arg"

from __future__ import annotations

import builtins
import sys
from functools import reduce
from typing import Any

import numpy as np

from tapefuse._errors import DTypeError, ParseError, noted
from tapefuse.ir.graph import Graph, Loc
from tapefuse.ir.op import Op, defop, register
from tapefuse.ir.ops import region
from tapefuse.ir.ops.family import BOOL, batch_size, draw, with_batch
from tapefuse.ir.types import Type

DONE = Type(BOOL, ())


_local: dict[str, type[Exception]] = {}  # exceptions that no module knows by name


def error_name(error: type[Exception]) -> str:
    """What stands for an exception in programs: `ValueError`, `module:Class`, or a name for this process alone."""
    if getattr(builtins, error.__name__, None) is error:
        return error.__name__
    name, number = f"{error.__module__}:{error.__qualname__}", 1
    if _found(name) is error:
        return name
    while _local.setdefault(f"{name}#{number}", error) is not error:
        number += 1
    return f"{name}#{number}"


def error_class(name: str) -> type[Exception]:
    """The exception of this name. Raises ParseError if there is none, or its module was not imported."""
    found = getattr(builtins, name, None) if ":" not in name else _local.get(name) or _found(name)
    if found is None:
        raise ParseError(f"there is no exception {name!r} here; import the module that defines it first")
    return found


def _found(name: str) -> Any:
    module, _, path = name.partition(":")
    return reduce(lambda owner, part: getattr(owner, part, None), path.split("."), sys.modules.get(module))


def has_effects(graph: Graph) -> bool:
    """Whether a graph does something beside computing its results."""
    return any(v.op is having or any(map(has_effects, region.graphs(v))) for v in graph.nodes)


def printing(graph: Graph) -> Loc | None:
    """A line that prints, in the graph or those inside, if there is one."""
    for v in graph.nodes:
        if v.op is debug_print:
            return v.loc or Loc("debug_print", 0)
        if (found := next(filter(None, map(printing, region.graphs(v))), None)) is not None:
            return found
    return None


@defop
class having:
    """The first operand; the others, what must be done for it, come first."""

    def ref(y, *done):
        return np.asarray(y)

    def type(y, *done):
        return y

    def vjp(g, y, x, *done):
        return [g, *(None for _ in done)]

    def jvp(ts, y, x, *done):
        return ts[0]

    def batch(flags, y, *done):
        return having(y if flags[0] else with_batch(y, batch_size(flags, (y, *done))), *done)

    def at(b, i, y, *done):
        return y(i)

    def sample(rng, dtype):
        return [((draw(rng, dtype, (7, 3)), np.array(True)), {}), ((draw(rng, dtype, (4,)),), {})]

    dtypes = "fciub"


@defop
class require:
    """The operand, bools that must all be true: else the program raises `error(*arguments)` and changes nothing.

    `error`: see `error_name`. `where`: the line that asks, a note of the exception; empty for none.
    """

    def ref(ok, *, error, arguments, where):
        if not np.all(ok):
            raise noted(error_class(error)(*arguments), where)
        return np.asarray(ok)

    def type(ok, *, error, arguments, where):
        if ok.dtype != BOOL:
            raise DTypeError(f"a condition is bool, not {ok}")
        return ok

    def vjp(g, y, ok, *, error, arguments, where):
        return [None]

    def jvp(ts, y, ok, *, error, arguments, where):
        return None

    def batch(flags, ok, *, error, arguments, where):
        return require(ok, error=error, arguments=arguments, where=where)

    def at(b, i, ok, *, error, arguments, where):
        return ok(i)

    def sample(rng, dtype):
        return []  # drawn bools would raise

    elementwise = True
    dtypes = "b"


def _printed(*xs: np.ndarray, texts: tuple[str | None, ...], where: str) -> np.ndarray:
    rest = iter(xs)
    words = [str(np.asarray(next(rest))[()]) if text is None else text for text in texts]
    print(f"{where}:", *words, flush=True)
    return np.array(True)


def _print_type(*xs: Type, texts: tuple[str | None, ...], where: str) -> Type:
    return DONE


def _print_batch(flags, *xs, texts, where):
    return with_batch(debug_print(*xs, texts=texts, where=where), batch_size(flags, xs))


# Equal ones stay apart. Compiled code cannot print: programs with one of these are interpreted.
debug_print = register(
    Op(
        name="debug_print",
        doc="Prints `texts`, in which None stands for the next operand; the result is true.",
        ref=_printed,
        type=_print_type,
        vjp=lambda g, y, *xs, texts, where: [None for _ in xs],
        jvp=lambda ts, y, *xs, texts, where: None,
        batch=_print_batch,
        sample=lambda rng, dtype: [],
        at=lambda b, i, *xs, texts, where: b.literal(np.array(True), ()),
        interned=False,
    )
)
