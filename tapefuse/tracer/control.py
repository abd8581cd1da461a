"""Loops and branches as functions: `cond`, `switch`, `while_loop`, `for_loop`, `fori_loop`, `scan`, `map`.

Outside of traces they are plain Python loops and branches, which tapes record operation by operation. Inside a trace
the functions given to them are traced once, become graphs, and those the attributes of one operation
(`ir.ops.region`); tensors and variables that they read from outside are its operands.

>>> print(while_loop(lambda x: x < 10.0, lambda x: x * x, 1.5))
tp.Tensor(25.628906, shape=(), dtype=float32)

A Python number that a loop carries takes the dtype of what it meets, as in Python: it gets the type that the body
gives it. All other types must stay as they are; errors name the value, both types, the lines and the cure.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tapefuse._tree import flatten, unflatten
from tapefuse.ir.op import OPS
from tapefuse.ir.types import Poly
from tapefuse.tracer.control_arguments import Names, condition, count_of, is_known, known_integer, shown, where_is
from tapefuse.tracer.control_branches import Branches
from tapefuse.tracer.control_composed import associative_scan
from tapefuse.tracer.control_counting import INT64, element
from tapefuse.tracer.control_kinds import as_tensors, copies
from tapefuse.tracer.control_loops import Loop
from tapefuse.tracer.operators import functions
from tapefuse.tracer.promote import converted
from tapefuse.tracer.source import user_loc
from tapefuse.tracer.state import state
from tapefuse.tracer.tensor import Tensor, as_tensor

_BOUNDS = "start", "stop", "step"
__all__ = ["associative_scan", "cond", "for_loop", "fori_loop", "map", "scan", "switch", "while_loop"]

# -- branches ---------------------------------------------------------------------------------------------------------


def cond(pred: Any, true_fn: Callable, false_fn: Callable, *operands: Any, names: Names = None) -> Any:
    """`true_fn(*operands)` if the bool scalar `pred` is true, else `false_fn(*operands)`; only that one runs.

    Both return the same structure of tensors of the same types, of which `names` names the entries for errors.
    Variables assigned in one of them are assigned if that one is taken. Raises DTypeError for a condition that is no
    bool, ShapeError for one that is no scalar or results of different shapes, ValueError for different structures.
    """
    test = condition(pred, f"the condition of cond at {user_loc()}")
    operands = copies(operands)
    if is_known(test):
        return as_tensors((true_fn if bool(test) else false_fn)(*operands), "the result")
    branches = Branches("cond", (false_fn, true_fn), ("the false branch", "the true branch"), operands, names)
    return branches.staged(OPS["cast"](test, dtype=INT64))


def switch(index: Any, branches: Sequence[Callable], *operands: Any, names: Names = None) -> Any:
    """`branches[index](*operands)`, the first or last branch if the integer scalar `index` is out of range.

    Everything else is as for `cond`.
    """
    if not branches:
        raise ValueError(f"switch at {user_loc()} has no branches; give a list of functions")
    operands = copies(operands)
    k = known_integer(index, "the index of switch")
    if not isinstance(k, Tensor):
        if isinstance(k, Poly):
            k = functions.dim(k)
        else:
            return as_tensors(branches[min(max(k, 0), len(branches) - 1)](*operands), "the result")
    labels = tuple(f"branch {k}" for k in range(len(branches)))
    return Branches("switch", tuple(branches), labels, operands, names).staged(converted(k, INT64))


# -- loops ------------------------------------------------------------------------------------------------------------


def while_loop(
    cond_fn: Callable, body_fn: Callable, init: Any, *, maximum_iterations: Any = None, names: Names = None
) -> Any:
    """`carry = body_fn(carry)` as long as `cond_fn(carry)`, from `init`; the last carry, in the structure of `init`.

    `maximum_iterations`: stop after so many. `names`: what the entries of `init` are called, for errors. A carried
    tensor keeps its shape and dtype. No bound on the number of iterations is needed for derivatives. Raises DTypeError
    or ShapeError naming the entry that changes its type, and for a condition that is no bool scalar; ValueError if the
    structure changes.
    """
    if maximum_iterations is not None:
        return _bounded(cond_fn, body_fn, init, maximum_iterations, names)
    loop = Loop("while_loop", body_fn, init, names, lambda carry, at: body_fn(carry))
    what = f"the condition of while_loop at {user_loc()}, {where_is(cond_fn)},"
    return loop.while_eagerly(cond_fn, what) if state.trace is None else loop.while_staged(cond_fn, what)


def _bounded(cond_fn: Callable, body_fn: Callable, init: Any, most: Any, names: Names) -> Any:
    def goes_on(carry: tuple) -> Any:
        return functions.logical_and(carry[0] < most, condition(cond_fn(carry[1]), what))

    def step(carry: tuple) -> tuple:
        return carry[0] + 1, body_fn(carry[1])

    what = f"the condition of while_loop at {user_loc()}"
    most = known_integer(most, "maximum_iterations of while_loop")
    loop = Loop("while_loop", body_fn, (0, init), names, lambda carry, at: step(carry), inner=1)
    result = loop.while_eagerly(goes_on, what) if state.trace is None else loop.while_staged(goes_on, what)
    return result[1]


def for_loop(start: Any, stop: Any, step: Any, body_fn: Callable, init: tuple, names: Names = None) -> tuple:
    """`carry = body_fn(i, *carry)` for i in `range(start, stop, step)`, from the tuple `init`; the last carry.

    Bounds are Python's integers, extents, or integer scalars. In a trace `i` is an integer tensor that may index and
    slice as a constant does. Raises DTypeError for other bounds, ValueError for a step of 0, and as `while_loop`.
    """
    loop = Loop("for loop", body_fn, tuple(init), names, lambda carry, i: body_fn(i, *carry))
    return loop.counted(
        *(known_integer(x, f"the {n} of a for loop") for x, n in zip((start, stop, step), _BOUNDS, strict=True))
    )


def fori_loop(lower: Any, upper: Any, body_fn: Callable, init: Any) -> Any:
    """`carry = body_fn(i, carry)` for i from `lower` to `upper - 1`; see `for_loop`."""
    loop = Loop("fori_loop", body_fn, init, None, lambda carry, i: body_fn(i, carry))
    return loop.counted(
        known_integer(lower, "the lower bound of fori_loop"), known_integer(upper, "the upper bound of fori_loop"), 1
    )


def scan(f: Callable, init: Any, xs: Any = None, length: Any = None, reverse: bool = False) -> tuple[Any, Any]:
    """`carry, y = f(carry, x)` for each x along the first axes of `xs`: the last carry, and the ys stacked.

    `init`, `xs` and what `f` returns are structures of tensors. Without `xs`, x is None and `length` says how often.
    `reverse`: from the last x to the first; ys stay in the order of xs. No elements give empty ys. Raises ShapeError
    for extents that differ, ValueError if `f` returns no pair or the carry changes its structure, and as `while_loop`.
    """
    leaves, tree = flatten(xs)
    tensors = [as_tensor(x) for x in leaves]
    n = count_of(xs, tensors, length, f"scan at {user_loc()}")

    def step(carry: Any, at: Any) -> Any:
        x = None if xs is None else unflatten(tree, [element(x, at) for x in tensors])
        return _pair(f, f(carry, x))

    return Loop("scan", f, init, None, step).scanned(n, reverse)


def map(f: Callable, xs: Any) -> Any:
    """`f(x)` for each x along the first axes of the structure `xs`, stacked: one after the other, in little memory.

    `vmap` computes all at once. No elements give empty results.
    """

    def step(carry: tuple, x: Any) -> tuple:
        return (), f(x)

    step.__wrapped__ = f  # type: ignore[attr-defined]
    return scan(step, (), xs)[1]


def _pair(f: Callable, returned: Any) -> tuple:
    if not isinstance(returned, tuple) or len(returned) != 2:
        raise ValueError(f"the function of scan ({where_is(f)}) must return a pair (carry, y), got {shown(returned)}")
    return returned
