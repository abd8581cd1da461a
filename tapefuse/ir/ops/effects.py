"""What a program does beside computing: it tests a condition, or prints.

    %1 = require %ok error="FloatingPointError" message="x is not finite" : bool[]
    %2 = having %y, %1 : f32[3]

Results of these are bools that nobody needs; `having` ties them to a value that somebody does.
"""

# To mypy the body of an op stays a class after @defop.
# mypy: disable-error-code="arg-type, attr-defined, call-arg"

from __future__ import annotations

import builtins

import numpy as np

from tapefuse._errors import DTypeError
from tapefuse.ir.graph import Graph, Loc
from tapefuse.ir.op import Op, defop, register
from tapefuse.ir.ops import region
from tapefuse.ir.ops.family import BOOL, batch_size, draw, with_batch
from tapefuse.ir.types import Type

DONE = Type(BOOL, ())


def error_class(name: str) -> type[Exception]:
    """The builtin exception of this name."""
    return getattr(builtins, name)


def has_effects(graph: Graph) -> bool:
    """Whether a graph does something beside computing its results."""
    return any(v.op is having for v in graph.nodes)


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

    dtypes = "fiub"


@defop
class require:
    """The operand, bools that must all be true: else the program raises the builtin `error` and changes nothing."""

    def ref(ok, *, error, message):
        if not np.all(ok):
            raise error_class(error)(message)
        return np.asarray(ok)

    def type(ok, *, error, message):
        if ok.dtype != BOOL:
            raise DTypeError(f"a condition is bool, not {ok}")
        return ok

    def vjp(g, y, ok, *, error, message):
        return [None]

    def jvp(ts, y, ok, *, error, message):
        return None

    def batch(flags, ok, *, error, message):
        return require(ok, error=error, message=message)

    def at(b, i, ok, *, error, message):
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
