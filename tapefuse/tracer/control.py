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

import inspect
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from tapefuse._errors import ConcretizationError, DTypeError, ShapeError, TapefuseError, VariableError
from tapefuse._records import dataclass
from tapefuse._tree import Container, Tree, flatten, leaves_with_paths, unflatten
from tapefuse.ir.graph import Graph, Loc, here, param
from tapefuse.ir.op import OPS
from tapefuse.ir.ops import region
from tapefuse.ir.types import Dim, Poly, Type, show_shape
from tapefuse.tracer.indexing import as_dim
from tapefuse.tracer.operators import Operators, functions
from tapefuse.tracer.promote import converted
from tapefuse.tracer.source import user_loc
from tapefuse.tracer.state import state
from tapefuse.tracer.tensor import (
    Tensor,
    TracedTensor,
    as_tensor,
    key_of,
    number,
    python_kind,
    settled,
    strengthened,
    weakened,
)
from tapefuse.tracer.trace import Traced, trace_function
from tapefuse.tracer.variable import Variable

Names = Sequence[str] | None
_INT64 = np.dtype(np.int64)
_WIDTH = {"b": 0, "i": 1, "u": 1, "f": 2}  # of kinds of numbers


# -- branches ---------------------------------------------------------------------------------------------------------


def cond(pred: Any, true_fn: Callable, false_fn: Callable, *operands: Any, names: Names = None) -> Any:
    """`true_fn(*operands)` if the bool scalar `pred` is true, else `false_fn(*operands)`; only that one runs.

    Both return the same structure of tensors of the same types, of which `names` names the entries for errors.
    Variables assigned in one of them are assigned if that one is taken. Raises DTypeError for a condition that is no
    bool, ShapeError for one that is no scalar or results of different shapes, ValueError for different structures.
    """
    test = _condition(pred, f"the condition of cond at {user_loc()}")
    operands = operands if state.trace else _copies(operands)
    if _is_known(test):
        return _tensors((true_fn if bool(test) else false_fn)(*operands), "the result")
    branches = _Branches("cond", (false_fn, true_fn), ("the false branch", "the true branch"), operands, names)
    return branches.staged(OPS["cast"](test, dtype=_INT64))


def switch(index: Any, branches: Sequence[Callable], *operands: Any, names: Names = None) -> Any:
    """`branches[index](*operands)`, the first or last branch if the integer scalar `index` is out of range.

    Everything else is as for `cond`.
    """
    if not branches:
        raise ValueError(f"switch at {user_loc()} has no branches; give a list of functions")
    operands = operands if state.trace else _copies(operands)
    k = known_integer(index, "the index of switch")
    if not isinstance(k, Tensor):
        if isinstance(k, Poly):
            k = functions.dim(k)
        else:
            return _tensors(branches[min(max(k, 0), len(branches) - 1)](*operands), "the result")
    labels = tuple(f"branch {k}" for k in range(len(branches)))
    return _Branches("switch", tuple(branches), labels, operands, names).staged(converted(k, _INT64))


def _copies(operands: tuple) -> tuple:
    """The operands as objects of their own: what a branch stores into them is seen by its result alone."""
    leaves, tree = flatten(operands)
    return unflatten(tree, [_copy(x) if isinstance(x, Tensor) else x for x in leaves])


def _copy(x: Tensor) -> Tensor:
    return weakened(x.copy()) if x.weak else x.copy()


def _and_true(f: Callable, *operands: Any) -> tuple[Any, bool]:
    return f(*operands), True


class _Branches:
    """Functions of which one is run, traced."""

    def __init__(self, call: str, fns: tuple[Callable, ...], labels: tuple[str, ...], operands: tuple, names: Names):
        self._call = f"{call} at {user_loc()}"
        self._fns = fns
        self._labels = labels
        self._operands = operands
        self._names = names
        self._place = f"branch of {call}"

    def staged(self, index: Tensor) -> Any:
        parts = self._traced(())
        self._check_structures(parts)
        if not parts[0].n and any(p.effects for p in parts):  # a result that the effects can be tied to
            self._fns = tuple([partial(_and_true, f) for f in self._fns])
            self.staged(index)
            return unflatten(parts[0].tree, [])
        wanted = [self._agreed(k, parts) for k in range(parts[0].n)]
        if any(p.kinds != wanted for p in parts):
            parts = self._traced(wanted)
        outside = _Outside(parts)
        attrs = {"branches": tuple(outside.graph(p) for p in parts)}
        ys = region.apply(OPS["switch"], (index, *outside.operands()), attrs)
        outside.assign(ys[parts[0].n :])
        return unflatten(parts[0].tree, _with_kinds(ys, wanted))

    def _traced(self, wanted: Sequence[_Kind]) -> list[_Part]:
        def run(f: Callable) -> Callable[[list[Tensor]], Any]:
            return lambda _: f(*_copies(self._operands))

        return [_traced(f, run(f), (), self._place, wanted) for f in self._fns]

    def _check_structures(self, parts: Sequence[_Part]) -> None:
        for k, p in enumerate(parts):
            if p.tree != parts[0].tree:
                raise ValueError(
                    f"{self._call}: {self._labels[0]} ({parts[0].where}) returns {parts[0].tree}, {self._labels[k]} "
                    f"({p.where}) returns {p.tree}; every branch must return the same structure"
                )

    def _agreed(self, k: int, parts: Sequence[_Part]) -> _Kind:
        """What result `k` is in every branch. Raises DTypeError, ShapeError."""
        kinds = [p.kinds[k] for p in parts]
        best = max(range(len(parts)), key=lambda b: _rank(kinds[b]))
        for b, p in enumerate(parts):
            if p.type(k).shape != parts[best].type(k).shape:
                raise ShapeError(self._differ(k, parts, best, b, "reshape or broadcast one of them"))
            if not _adapts(kinds[b], kinds[best]):
                cure = f"convert one of them, as with tp.cast(x, tp.{kinds[best].dtype})"
                raise DTypeError(self._differ(k, parts, best, b, cure))
        return kinds[best]

    def _differ(self, k: int, parts: Sequence[_Part], a: int, b: int, cure: str) -> str:
        label = _labels(unflatten(parts[0].tree, range(parts[0].n)), self._names, "the result")[k]
        a, b = sorted((a, b))
        found = (f"{parts[j].type(k)} in {self._labels[j]} ({parts[j].made(k)})" for j in (a, b))
        return f"{self._call}: {label} is {' and '.join(found)}; every branch must give the same type: {cure}"


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
    loop = _Loop("while_loop", body_fn, init, names, lambda carry, at: body_fn(carry))
    what = f"the condition of while_loop at {user_loc()}, {_where(cond_fn)},"
    return loop.while_eagerly(cond_fn, what) if state.trace is None else loop.while_staged(cond_fn, what)


def _bounded(cond_fn: Callable, body_fn: Callable, init: Any, most: Any, names: Names) -> Any:
    def goes_on(carry: tuple) -> Any:
        return functions.logical_and(carry[0] < most, _condition(cond_fn(carry[1]), what))

    def step(carry: tuple) -> tuple:
        return carry[0] + 1, body_fn(carry[1])

    what = f"the condition of while_loop at {user_loc()}"
    most = known_integer(most, "maximum_iterations of while_loop")
    loop = _Loop("while_loop", body_fn, (0, init), names, lambda carry, at: step(carry), inner=1)
    result = loop.while_eagerly(goes_on, what) if state.trace is None else loop.while_staged(goes_on, what)
    return result[1]


def for_loop(start: Any, stop: Any, step: Any, body_fn: Callable, init: tuple, names: Names = None) -> tuple:
    """`carry = body_fn(i, *carry)` for i in `range(start, stop, step)`, from the tuple `init`; the last carry.

    Bounds are Python's integers, extents, or integer scalars. In a trace `i` is an integer tensor that may index and
    slice as a constant does. Raises DTypeError for other bounds, ValueError for a step of 0, and as `while_loop`.
    """
    loop = _Loop("for loop", body_fn, tuple(init), names, lambda carry, i: body_fn(i, *carry))
    return loop.counted(
        *(known_integer(x, f"the {n} of a for loop") for x, n in zip((start, stop, step), _BOUNDS, strict=True))
    )


def fori_loop(lower: Any, upper: Any, body_fn: Callable, init: Any) -> Any:
    """`carry = body_fn(i, carry)` for i from `lower` to `upper - 1`; see `for_loop`."""
    loop = _Loop("fori_loop", body_fn, init, None, lambda carry, i: body_fn(i, carry))
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
    n = _count(xs, tensors, length, f"scan at {user_loc()}")

    def step(carry: Any, at: Any) -> Any:
        x = None if xs is None else unflatten(tree, [_element(x, at) for x in tensors])
        return _pair(f, f(carry, x))

    return _Loop("scan", f, init, None, step).scanned(n, reverse)


def map(f: Callable, xs: Any) -> Any:
    """`f(x)` for each x along the first axes of the structure `xs`, stacked: one after the other, in little memory.

    `vmap` computes all at once. No elements give empty results.
    """

    def step(carry: tuple, x: Any) -> tuple:
        return (), f(x)

    step.__wrapped__ = f  # type: ignore[attr-defined]
    return scan(step, (), xs)[1]


_BOUNDS = "start", "stop", "step"


class _Loop:
    """A loop: what it carries, and the function that makes the next carry from one and the number of the iteration."""

    def __init__(
        self,
        call: str,
        fn: Callable,
        init: Any,
        names: Names,
        step: Callable[[Any, Any], Any],
        inner: int | None = None,
    ):
        """`names` are of the entries of `init`, or of its entry number `inner`."""
        self._call = f"{call} at {user_loc()}"
        self._place = f"body of {call}"
        self._fn = fn
        self._step = step
        self._raw, self._tree = flatten(init)
        named = init if inner is None else init[inner]
        own = [""] * (len(self._raw) - len(flatten(named)[0]))
        self._labels = own + _labels(named, names, "the carry")
        init = [_number(x, label, self._call) for x, label in zip(self._raw, self._labels, strict=True)]
        self._init = init if state.trace else [x.copy() for x in init]  # a body may store into what it gets
        self._pairs = call == "scan"  # an iteration gives (carry, y)

    # -- now ------------------------------------------------------------------------------------------------------
    def while_eagerly(self, cond_fn: Callable, what: str) -> Any:
        carry = self._init
        while bool(_condition(cond_fn(self._structured(carry)), what)):
            carry, _ = self._next(carry, None)
        return self._result(carry)

    def _structured(self, carry: Sequence[Tensor]) -> Any:
        return unflatten(self._tree, carry)

    def _result(self, carry: Sequence[Tensor]) -> Any:
        return self._structured(carry if state.trace else [settled(x) for x in carry])

    def _next(self, carry: list[Tensor], at: Any) -> tuple[list[Tensor], Any]:
        """The carry after an iteration, and what it gives besides."""
        returned = self._step(self._structured(carry), at)
        after, more = returned if self._pairs else (returned, None)
        leaves, tree = flatten(after)
        if tree != self._tree:
            carry = self._completed(carry, tree, [as_tensor(x).type for x in leaves])
        found = [
            _fitted(_number(x, f"{label} after an iteration", self._call), x, _kind(c))
            for x, c, label in zip(leaves, carry, self._labels, strict=True)
        ]
        for j, (c, y) in enumerate(zip(carry, found, strict=True)):
            self._start(j, c, y.type, y.weak, None)
        return found, more

    # -- in a trace -----------------------------------------------------------------------------------------------
    def while_staged(self, cond_fn: Callable, what: str) -> Any:
        body, carry = self._stable(None)
        test = _traced(
            cond_fn, lambda xs: _condition(cond_fn(self._structured(xs)), what), carry, "condition of while_loop"
        )
        if test.traced.written:
            name = test.traced.variables[test.traced.written[0]].name
            raise VariableError(f"{what} assigns the variable {name!r}; assign it in the body of the loop")
        outside = _Outside([test, body])
        attrs = {
            "cond": outside.graph(test, assigned=False),
            "body": outside.graph(body),
            "carried": len(carry) + len(outside.written),
        }
        ys = region.apply(OPS["while"], (*carry, *outside.operands()), attrs)[:-1]
        return self._finished(ys, carry, outside)

    def _finished(self, ys: Sequence[Tensor], carry: list[Tensor], outside: _Outside) -> Any:
        outside.assign(ys[len(carry) : len(carry) + len(outside.written)])
        return self._result(_with_kinds(ys, _kinds(carry)))

    def _stable(self, at: Any) -> tuple[_Part, list[Tensor]]:
        """The body, traced, and the initial carry in the types that it keeps."""
        carry = self._init

        def run(xs: list[Tensor]) -> Any:
            return self._step(self._structured(xs), at() if callable(at) else at)

        while True:
            part = _traced(self._fn, run, carry, self._place, _kinds(carry), self._labels)
            tree = part.tree.children[0] if self._pairs else part.tree
            if tree != self._tree:
                carry = self._init = self._completed(carry, tree, [part.type(k) for k in range(part.n)])
                continue
            start = [self._start(j, c, part.type(j), part.kinds[j].weak, part) for j, c in enumerate(carry)]
            if _kinds(start) == _kinds(carry):
                return part, carry
            carry = start

    # -- types ----------------------------------------------------------------------------------------------------
    def _completed(self, carry: Sequence[Tensor], tree: Tree, types: Sequence[Type]) -> list[Tensor]:
        """The carry in the structure that an iteration gives, where that only fills empty containers.

        Raises ValueError for other structures.
        """
        if tree == self._tree:
            return list(carry)
        found = _filled(self._tree, tree, iter(carry), iter(types))
        if found is None:
            raise ValueError(
                f"{self._call}: the carry is {self._tree} before an iteration and {tree} after it "
                f"({_where(self._fn)}); return the structure that init has"
            )
        self._tree, self._raw = tree, list(found)
        self._labels += ["the carry"] * (len(found) - len(self._labels))
        return found

    def _start(self, j: int, before: Tensor, after: Type, weak: bool, part: _Part | None) -> Tensor:
        """Entry `j` of the carry as an iteration must get it to give `after`. Raises DTypeError, ShapeError."""
        kind = _Kind(after.dtype, weak)
        if after.shape == before.shape and kind == _kind(before):
            return before
        if after.shape == before.shape and before.weak and _adapts(_kind(before), kind):
            start = converted(self._raw[j], after.dtype)
            return weakened(start) if weak else strengthened(start)
        made = part.made(j) if part else _where(self._fn)
        label = self._labels[j]
        text = (
            f"{self._call}: {label} is {before.type} before an iteration and {after} after it ({made}); "
            "what a loop carries keeps its type: "
        )
        if after.shape != before.shape:
            cure = (
                "start with an array of the final shape and write into it (x[i] = value), or carry a fixed part of it"
            )
            raise ShapeError(text + cure)
        raise DTypeError(text + f"use tp.cast(..., tp.{before.dtype}) in the loop, or tp.{after.dtype} before it")

    # -- counted --------------------------------------------------------------------------------------------------
    def counted(self, start: Dim | Tensor, stop: Dim | Tensor, step: Dim | Tensor) -> Any:
        if isinstance(step, int) and step == 0:
            raise ValueError(f"{self._call}: the step must not be 0")
        if state.trace is None:
            carry = self._init
            for i in range(*(_python_int(x) for x in (start, stop, step))):
                carry, _ = self._next(carry, i)
            return self._result(carry)
        trips, symbol, size = _trips(start, stop, step), region.fresh("k"), region.fresh("n")
        if isinstance(trips, int) and trips <= 0:
            return self._result(self._init)
        state.trace.known[symbol] = 0, (Poly.symbol(size) if isinstance(trips, Tensor) else trips) - 1
        part, carry = self._stable(lambda: _index(start, step, symbol))
        outside = _Outside([part])
        carried = len(carry) + len(outside.written)
        ys = _repeat(trips, size, symbol, outside.graph(part), carried, (*carry, *outside.operands()))
        return self._finished(ys, carry, outside)

    def scanned(self, n: Dim, reverse: bool) -> tuple[Any, Any]:
        if n == 0:
            part, carry = self._stable(None)
            empty = [_zeros(part.type(j), 0) for j in range(len(carry), part.n)]
            return self._result(carry), unflatten(part.tree.children[1], empty)
        if state.trace is None:
            return self._scanned_eagerly(_python_int(n), reverse)
        k = region.fresh("k")
        state.trace.known[k] = 0, n - 1
        at = n - 1 - Poly.symbol(k) if reverse else Poly.symbol(k)
        part, carry = self._stable(at)
        outside = _Outside([part])
        kept, rows = part.tree.children[1], [part.type(j) for j in range(len(carry), part.n)]
        stacks = [_zeros(t, n) for t in rows]
        body = _stacking(outside.graph(part), len(carry), len(outside.written), rows, n, at)
        operands = outside.operands()
        first = (*carry, *operands[: len(outside.written)], *stacks)
        ys = _repeat(n, "", k, body, len(first), (*first, *operands[len(outside.written) :]))
        return self._finished(ys, carry, outside), unflatten(kept, ys[len(first) - len(stacks) :])

    def _scanned_eagerly(self, n: int, reverse: bool) -> tuple[Any, Any]:
        carry, rows, trees = self._init, [], []
        for k in range(n):
            carry, y = self._next(carry, n - 1 - k if reverse else k)
            leaves, tree = flatten(y)
            rows.append([_stackable(_number(x, "a y of scan", self._call)) for x in leaves])
            trees.append(tree)
            if tree != trees[0]:
                raise ValueError(f"{self._call}: y is {trees[0]} in one iteration and {tree} in another")
        columns = zip(*(rows[::-1] if reverse else rows), strict=True)
        return self._result(carry), unflatten(trees[0], [functions.stack(list(column)) for column in columns])


def _repeat(trips: Dim | Tensor, size: str, index: str, body: Graph, carried: int, operands: tuple) -> tuple:
    """The results of a `for` with this body; a number known at run time only is the symbol `size` of a `sized`."""
    attrs = {"body": body, "index": index, "carried": carried}
    if not carried:
        return ()
    if not isinstance(trips, Tensor):
        return region.apply(OPS["for"], operands, {**attrs, "trips": trips})
    inner = [param(x.type) for x in operands]
    ys = OPS["for"].emit_results(*inner, trips=Poly.symbol(size), **attrs)
    sized = {"symbol": size, "body": Graph(tuple(inner), tuple(ys))}
    return region.apply(OPS["sized"], (converted(trips, _INT64), *operands), sized)


def _stacking(graph: Graph, n_carry: int, n_written: int, rows: Sequence[Type], n: Dim, at: Dim) -> Graph:
    """(carry, written, rest) -> (carry, ys, written) as (carry, written, stacks, rest) -> (carry, written, stacks) that
    writes each y at `at` into its stack."""
    first, n_rows = n_carry + n_written, len(rows)
    stacks = [param(Type(t.dtype, (n, *t.shape))) for t in rows]
    ys = graph.outs[n_carry : n_carry + n_rows]
    outer, puts = here.loc, []
    try:
        for y, stack in zip(ys, stacks, strict=True):
            here.loc = y.loc
            row = OPS["reshape"].emit(y, shape=(1, *y.shape))
            starts, strides = (at, *[0] * len(y.shape)), (1,) * (len(y.shape) + 1)
            puts.append(OPS["put"].emit(stack, row, starts=starts, strides=strides))
    finally:
        here.loc = outer
    params = (*graph.params[:first], *stacks, *graph.params[first:])
    return Graph(params, (*graph.outs[:n_carry], *graph.outs[n_carry + n_rows :], *puts), graph.name)


def _trips(start: Dim | Tensor, stop: Dim | Tensor, step: Dim | Tensor) -> Dim | Tensor:
    """How many iterations `range(start, stop, step)` has; 0 or less for none."""
    if not any(isinstance(x, (Poly, Tensor)) for x in (start, stop, step)):
        return len(range(start, stop, step))
    if isinstance(step, int) and abs(step) == 1 and not isinstance(start, Tensor) and not isinstance(stop, Tensor):
        return (stop - start) * step
    first, last, by = (converted(x, _INT64) for x in (start, stop, step))
    if isinstance(step, int) and abs(step) == 1:
        return last - first if step == 1 else first - last
    if isinstance(step, int):
        return (last - first + (by - 1 if step > 0 else by + 1)) // by
    return (last - first + by - functions.sign(by)) // by


def _index(start: Dim | Tensor, step: Dim | Tensor, k: str) -> Tensor:
    """The user's index in iteration `k`, a number: a dimension where `start` and `step` are."""
    if isinstance(start, Tensor) or isinstance(step, Tensor):
        return weakened(as_tensor(start) + as_tensor(step) * functions.dim(Poly.symbol(k)))
    return weakened(functions.dim(Poly.symbol(k) * step + start))


def _element(x: Tensor, at: Any) -> Tensor:
    """`x[at]` for an extent or number `at`; the first one without."""
    if at is None:
        return _zeros(Type(x.dtype, x.shape[1:]))
    starts, limits = (at, *[0] * (x.ndim - 1)), (at + 1, *x.shape[1:])
    return OPS["reshape"](OPS["slice"](x, starts=starts, limits=limits, strides=(1,) * x.ndim), shape=x.shape[1:])


def _zeros(type: Type, *extents: Dim) -> Tensor:
    """Zeros of a type, with more axes in front."""
    zero = as_tensor(np.zeros((), type.dtype))
    shape = (*extents, *type.shape)
    return OPS["broadcast"](zero, shape=shape, axes=()) if shape else zero


def _count(xs: Any, tensors: Sequence[Tensor], length: Any, what: str) -> Dim:
    """The number of elements, on which all of `xs` and `length` agree."""
    found: dict[str, Any] = {} if length is None else {"length": known_integer(length, f"length of {what}")}
    for (path, _), x in zip(leaves_with_paths(xs, "xs"), tensors, strict=True):
        if not x.ndim:
            raise ShapeError(f"{what}: {path} has shape [] and no elements; give it a first axis")
        found[path] = x.shape[0]
    if not found:
        raise ValueError(f"{what}: xs is empty, so length=... must say how often to run")
    if any(isinstance(n, Tensor) for n in found.values()):
        raise ConcretizationError(
            f"{what}: length is known at run time only, and so would be the shape of the result; use tp.fori_loop"
        )
    if len(set(found.values())) > 1:
        raise ShapeError(f"{what}: extents differ: {', '.join(f'{k} has {n}' for k, n in found.items())}")
    return next(iter(found.values()))


def _pair(f: Callable, returned: Any) -> tuple:
    if not isinstance(returned, tuple) or len(returned) != 2:
        raise ValueError(f"the function of scan ({_where(f)}) must return a pair (carry, y), got {_short(returned)}")
    return returned


def _short(x: Any) -> str:
    return f"{flatten(x)[1]}" if isinstance(x, (tuple, list, dict)) else f"a {type(x).__name__}"


# -- composed ---------------------------------------------------------------------------------------------------------


def associative_scan(f: Callable, elems: Any, reverse: bool = False, axis: int = 0) -> Any:
    """Running results of an associative function: y[k] = f(y[k - 1], x[k]), y[0] = x[0], in log2(n) steps.

    `f(a, b)` combines structures like `elems` whose tensors have any extent along `axis`, element by element.
    `reverse`: from the end. Raises ShapeError for extents that differ, ConcretizationError for a symbolic one.
    """
    leaves, tree = flatten(elems)
    xs = [functions.moveaxis(as_tensor(x), axis, 0) for x in leaves]
    n = _count(unflatten(tree, xs), xs, None, f"associative_scan at {user_loc()}")
    if not isinstance(n, int):
        raise ConcretizationError(
            f"associative_scan at {user_loc()} needs to know the extent {n}: give it in the TensorSpec, or use tp.scan"
        )

    def combine(a: list[Tensor], b: list[Tensor]) -> list[Tensor]:
        moved = [unflatten(tree, [functions.moveaxis(x, 0, axis) for x in part]) for part in (a, b)]
        out, shape = flatten(f(*moved))
        if shape != tree:
            raise ValueError(f"associative_scan at {user_loc()}: f ({_where(f)}) returns {shape}, elems is {tree}")
        return [functions.moveaxis(as_tensor(x), axis, 0) for x in out]

    if reverse:
        xs = [functions.flip(x, 0) for x in xs]
    ys = _running(combine, xs, n)
    return unflatten(tree, [functions.moveaxis(functions.flip(y, 0) if reverse else y, 0, axis) for y in ys])


def _running(combine: Callable, xs: list[Tensor], n: int) -> list[Tensor]:
    """Pairs are combined, their running results are those at odd places, and one more step gives the even ones."""
    if n < 2:
        return xs
    last = n - n % 2
    odd = _running(combine, combine([x[0:last:2] for x in xs], [x[1:last:2] for x in xs]), n // 2)
    if n == 2:
        return [functions.concatenate([x[:1], y]) for x, y in zip(xs, odd, strict=True)]
    m = (n - 1) // 2
    even = combine([y[:m] for y in odd], [x[2::2] for x in xs])
    return [_interleaved(functions.concatenate([x[:1], e]), y) for x, e, y in zip(xs, even, odd, strict=True)]


def _interleaved(a: Tensor, b: Tensor) -> Tensor:
    """a[0], b[0], a[1], b[1], ...; `a` may have one more element."""
    n = int(b.shape[0])
    both = functions.stack([a[:n], b], 1).reshape((2 * n, *a.shape[1:]))
    return both if a.shape[0] == n else functions.concatenate([both, a[n:]])


# -- tracing a part of a program --------------------------------------------------------------------------------------


def _filled(before: Tree, after: Tree, leaves: Iterator[Tensor], types: Iterator[Type]) -> list[Tensor] | None:
    """`leaves` of a structure in another one, which has entries where the containers of the first are empty."""
    if before == after:
        return [x for _, x in zip(itertools.islice(types, before.n_leaves), leaves, strict=False)]
    if before.kind is not after.kind or before.keys != after.keys or len(before.children) != len(after.children):
        return None
    found: list[Tensor] = []
    for b, a in zip(before.children, after.children, strict=True):
        if b.kind is None and a.n_leaves == 1 and not a.children and issubclass(before.kind, Container):
            found.append(before.kind.blank(next(types)))
        elif (inner := _filled(b, a, leaves, types)) is not None:
            found += inner
        else:
            return None
    return found


class _Kind(NamedTuple):
    """The dtype of a carried value or result, and whether it is a number that takes that of what it meets."""

    dtype: np.dtype
    weak: bool


def _kind(x: Tensor) -> _Kind:
    return _Kind(x.dtype, x.weak)


def _kinds(xs: Sequence[Tensor]) -> list[_Kind]:
    return [_kind(x) for x in xs]


def _rank(kind: _Kind) -> tuple:
    """Of two kinds the higher one is what a choice between both is."""
    return not kind.weak, _WIDTH[kind.dtype.kind], kind.dtype.itemsize


def _adapts(kind: _Kind, to: _Kind) -> bool:
    """Whether a value of one kind may stand where the other is wanted."""
    if kind == to:
        return True
    wider = _WIDTH[kind.dtype.kind] <= _WIDTH[to.dtype.kind] and to.dtype.kind != "b"
    return wider if kind.weak else kind.dtype == to.dtype and not to.weak


def _with_kinds(ys: Sequence[Tensor], kinds: Sequence[_Kind]) -> list[Tensor]:
    return [weakened(y) if k.weak else y for y, k in zip(ys, kinds, strict=False)]


@dataclass(frozen=True, slots=True)
class _Part:
    """A function traced as a part of the program under way."""

    fn: Callable
    traced: Traced
    tree: Tree  # of what it returns
    kinds: list[_Kind]
    effects: bool  # whether it tests or prints

    @property
    def n(self) -> int:
        return self.traced.n_results

    def type(self, k: int) -> Type:
        return self.traced.graph.outs[k].type

    @property
    def where(self) -> str:
        return _where(self.fn)

    def made(self, k: int) -> str:
        """Where result `k` was made, as well as that is known."""
        out = self.traced.graph.outs[k]
        return f"made at {out.loc}" if out.loc and out.op else self.where


def _traced(
    fn: Callable,
    run: Callable[[list[Tensor]], Any],
    like: Sequence[Tensor],
    place: str,
    wanted: Sequence[_Kind] = (),
    labels: Sequence[str] = (),
) -> _Part:
    """`run` on symbolic tensors of the kinds of `like`; its first results become the `wanted` kinds if they can."""
    found: list[Any] = [None, None, None]

    def results(inputs: list[TracedTensor]) -> list[Tensor]:
        returned = run([weakened(x) if y.weak else x for x, y in zip(inputs, like, strict=True)])
        leaves, found[0] = flatten(returned)
        paths = [path for path, _ in leaves_with_paths(returned, "the result")]
        paths[: len(labels)] = [f"{label} after an iteration" for label in labels[: len(paths)]]
        call = f"{place} ({_where(fn)})"
        ys = [_number(x, path, call) for x, path in zip(leaves, paths, strict=True)]
        ys[: len(wanted)] = [_fitted(y, x, w) for y, x, w in zip(ys, leaves, wanted, strict=False)]
        if len(wanted) < len(ys):  # ys of a scan, whose elements are no numbers
            ys = [_stackable(y) if k >= len(wanted) and place == "body of scan" else y for k, y in enumerate(ys)]
        found[1:] = _kinds(ys), state.trace is not None and bool(state.trace.effects)
        return ys

    name = getattr(fn, "__name__", "function")
    types = [x.type for x in like]
    traced = trace_function(results, types, [None] * len(types), name, may_create=False, captures=True, place=place)
    return _Part(fn, traced, *found)


def _number(x: Any, label: str, call: str) -> Tensor:
    """A leaf as a tensor; Python numbers become such that take the dtype of what they meet."""
    try:
        return number(x) if python_kind(x) in (int, float) else as_tensor(x)
    except TapefuseError:
        raise DTypeError(
            f"{call}: {label} is {x!r}, a {type(x).__name__}; loops and branches carry tensors, numbers, arrays, and "
            "lists, tuples and dicts of them"
        ) from None


def _stackable(y: Tensor) -> Tensor:
    """An element of a stack, which is no number any more: floats that met no dtype become float32."""
    if y.weak and y.dtype.kind == "f":
        return strengthened(converted(y, np.dtype(np.float32)))
    return strengthened(y)


def _fitted(y: Tensor, raw: Any, wanted: _Kind) -> Tensor:
    """`y`, made of `raw`, in the kind that is wanted, if it is a number that can take it."""
    if _kind(y) == wanted or not y.weak or not _adapts(_kind(y), wanted):
        return y
    made = converted(y if isinstance(raw, Operators) else raw, wanted.dtype)
    return weakened(made) if wanted.weak else strengthened(made)


class _Outside:
    """What parts of a program read from outside, and the variables that they assign: operands and results."""

    def __init__(self, parts: Sequence[_Part]):
        written = {id(p.traced.variables[k]): p.traced.variables[k] for p in parts for k in p.traced.written}
        read = {id(v): v for p in parts for v in p.traced.variables if id(v) not in written}
        self.written: list[Variable] = list(written.values())
        self._read: list[Variable] = list(read.values())
        self._captured = list({key_of(x): x for p in parts for x in p.traced.captured}.values())

    def operands(self) -> tuple[Tensor, ...]:
        return (*[v.read() for v in (*self.written, *self._read)], *self._captured)

    def graph(self, part: _Part, assigned: bool = True) -> Graph:
        """(inputs, assigned variables, others, captured) -> (results, assigned variables).

        Gradients do not pass through assignments: those of an iteration do not reach the one before by a variable.
        """
        traced = part.traced
        inputs, rest = traced.graph.params[: traced.n_inputs], traced.graph.params[traced.n_inputs :]
        keys = [*[id(v) for v in traced.variables], *[-key_of(x) for x in traced.captured]]  # of tensors below 0
        own = dict(zip(keys, rest, strict=True))
        wanted = [(id(v), v) for v in (*self.written, *self._read)] + [(-key_of(x), x) for x in self._captured]
        outside = [own.get(k) or param(x.type) for k, x in wanted]
        outs = traced.graph.outs[: traced.n_results]
        if assigned:
            new = {
                id(traced.variables[k]): y
                for k, y in zip(traced.written, traced.graph.outs[traced.n_results :], strict=True)
            }
            outs += tuple([new.get(id(v), p) for v, p in zip(self.written, outside, strict=False)])
        graph = Graph((*inputs, *outside), outs, traced.graph.name)
        return _without_gradients(graph, range(len(inputs), len(inputs) + len(self.written)))

    def assign(self, values: Sequence[Tensor]) -> None:
        for v, y in zip(self.written, values, strict=True):
            v.assign(y)


def _without_gradients(graph: Graph, positions: Iterable[int]) -> Graph:
    """The graph with these parameters constant to derivatives."""
    stopped = {k: OPS["stop_gradient"].emit(graph.params[k]) for k in positions}
    if not stopped:
        return graph
    env = {p: stopped.get(k, p) for k, p in enumerate(graph.params)}
    outer = here.loc
    try:
        for v in graph.nodes:
            assert v.op is not None
            here.loc = v.loc
            env[v] = v.op.emit(*[env[a] for a in v.args], **v.attributes)
    finally:
        here.loc = outer
    return Graph(graph.params, tuple([env[v] for v in graph.outs]), graph.name)


# -- arguments --------------------------------------------------------------------------------------------------------


def _condition(x: Any, what: str) -> Tensor:
    """A condition as a bool scalar. Raises DTypeError, ShapeError."""
    try:
        test = as_tensor(x)
    except TapefuseError:
        raise DTypeError(f"{what} is {x!r}, a {type(x).__name__}; it must be a bool scalar") from None
    if test.shape != ():
        raise ShapeError(
            f"{what} has shape {show_shape(test.shape)}{_made(test)}; it must be one bool: use tp.any(...) or "
            "tp.all(...), or tp.where to choose element by element"
        )
    if test.dtype.kind != "b":
        raise DTypeError(f"{what} is {test.type}{_made(test)}, no bool; compare it, as with x != 0")
    return test


def _is_known(x: Tensor) -> bool:
    return not isinstance(x, TracedTensor) or x._trace.constant_value(x._value) is not None


def known_integer(x: Any, what: str) -> Dim | Tensor:
    """An integer scalar: an int or an extent where it is known while tracing. Raises DTypeError, ShapeError."""
    if isinstance(x, Poly) or (isinstance(x, (int, np.integer)) and not isinstance(x, bool)):
        return x if isinstance(x, Poly) else int(x)
    try:
        y = as_tensor(x)
    except TapefuseError:
        raise DTypeError(f"{what} at {user_loc()} is {x!r}, a {type(x).__name__}; it must be an integer") from None
    if y.dtype.kind not in "iu":
        raise DTypeError(
            f"{what} at {user_loc()} is {y.type}{_made(y)}; it must be an integer: use tp.cast(tp.floor(n), tp.int32)"
        )
    if y.shape != ():
        raise ShapeError(f"{what} at {user_loc()} has shape {show_shape(y.shape)}{_made(y)}; it must be a scalar")
    if _is_known(y):
        return int(y)
    d = as_dim(y)
    return y if d is None else d


def _python_int(x: Dim | Tensor) -> int:
    """Outside of traces."""
    return x.__index__()


def _made(x: Tensor) -> str:
    loc = x._value.loc if isinstance(x, TracedTensor) else None
    return f" (made at {loc})" if loc else ""


def _where(f: Callable) -> str:
    """`step at model.py:3`"""
    f = inspect.unwrap(f)
    f = f.func if isinstance(f, partial) else f
    code = getattr(getattr(f, "__func__", f), "__code__", None)
    name = getattr(f, "__name__", type(f).__name__)
    return f"{name} at {Loc(code.co_filename, code.co_firstlineno)}" if code else name


def _labels(tree: Any, names: Names, whole: str) -> list[str]:
    """What to call each leaf in messages."""
    if names is None:
        return [path for path, _ in leaves_with_paths(tree, whole)]
    entries = tree if isinstance(tree, (list, tuple)) else (tree,)
    return [f"'{path}'" for name, x in zip(names, entries, strict=True) for path, _ in leaves_with_paths(x, name)]


def _tensors(tree: Any, whole: str) -> Any:
    """A structure with its leaves as tensors."""
    leaves, shape = flatten(tree)
    labels = _labels(tree, None, whole)
    found = [_number(x, s, f"a branch at {user_loc()}") for x, s in zip(leaves, labels, strict=True)]
    return unflatten(shape, found if state.trace else [settled(x) for x in found])
