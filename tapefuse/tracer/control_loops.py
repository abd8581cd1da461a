"""A loop of `control`, run by Python or traced: types and structures that iterations keep."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tapefuse._errors import DTypeError, ShapeError, VariableError
from tapefuse._tree import Tree, flatten, unflatten
from tapefuse.ir.op import OPS
from tapefuse.ir.ops import region
from tapefuse.ir.types import Dim, Poly, Type, show_shape
from tapefuse.tracer.arrays import python_kind
from tapefuse.tracer.control_arguments import Names, condition, labels_of, python_int, where_is
from tapefuse.tracer.control_counting import index_at, repeat, rows_of, stacking, trips_of, zeros_of
from tapefuse.tracer.control_kinds import (
    Kind,
    adapts,
    carried_number,
    copy_of,
    filled,
    fitted,
    kind_of,
    kinds_of,
    stackable,
    with_kinds,
)
from tapefuse.tracer.control_parts import Outside, Part, traced_part
from tapefuse.tracer.operators import functions
from tapefuse.tracer.promote import converted
from tapefuse.tracer.source import user_loc
from tapefuse.tracer.state import state
from tapefuse.tracer.tensor import Tensor, as_tensor, settled, strengthened, weakened


class Loop:
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
        self._name = call
        self._call = f"{call} at {user_loc()}"
        self._place = f"body of {call}"
        self._fn = fn
        self._step = step
        self._raw, self._tree = flatten(init)
        named = init if inner is None else init[inner]
        own = [""] * (len(self._raw) - len(flatten(named)[0]))
        self._labels = own + labels_of(named, names, "the carry")
        init = [carried_number(x, label, self._call) for x, label in zip(self._raw, self._labels, strict=True)]
        self._init = [copy_of(x) for x in init]  # a body may store into what it gets
        self._pairs = call == "scan"  # an iteration gives (carry, y)

    # -- now ------------------------------------------------------------------------------------------------------
    def while_eagerly(self, cond_fn: Callable, what: str) -> Any:
        carry = self._init
        while bool(condition(cond_fn(self._structured(carry)), what)):
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
            fitted(carried_number(x, f"{label} after an iteration", self._call), x, kind_of(c))
            for x, c, label in zip(leaves, carry, self._labels, strict=True)
        ]
        for j, (c, y) in enumerate(zip(carry, found, strict=True)):
            self._start(j, c, y.type, y.weak, None)
        return [copy_of(y) for y in found], more

    # -- in a trace -----------------------------------------------------------------------------------------------
    def while_staged(self, cond_fn: Callable, what: str) -> Any:
        body, carry = self._stable(None)
        test = traced_part(
            cond_fn, lambda xs: condition(cond_fn(self._structured(xs)), what), carry, "condition of while_loop"
        )
        if test.traced.written:
            name = test.traced.variables[test.traced.written[0]].name
            raise VariableError(f"{what} assigns the variable {name!r}; assign it in the body of the loop")
        outside = Outside([test, body])
        attrs = {
            "cond": outside.graph(test, assigned=False),
            "body": outside.graph(body),
            "carried": len(carry) + len(outside.written),
        }
        ys = region.apply(OPS["while"], (*carry, *outside.operands()), attrs)[:-1]
        return self._finished(ys, carry, outside)

    def _finished(self, ys: Sequence[Tensor], carry: list[Tensor], outside: Outside) -> Any:
        outside.assign(ys[len(carry) : len(carry) + len(outside.written)])
        return self._result(with_kinds(ys, kinds_of(carry)))

    def _stable(self, at: Any) -> tuple[Part, list[Tensor]]:
        """The body, traced, and the initial carry in the types that it keeps."""
        carry = self._init

        def run(xs: list[Tensor]) -> Any:
            return self._step(self._structured(xs), at() if callable(at) else at)

        while True:
            part = traced_part(self._fn, run, carry, self._place, kinds_of(carry), self._labels)
            tree = part.tree.children[0] if self._pairs else part.tree
            if tree != self._tree:
                carry = self._init = self._completed(carry, tree, [part.type(k) for k in range(part.n)])
                continue
            start = [self._start(j, c, part.type(j), part.kinds[j].weak, part) for j, c in enumerate(carry)]
            if kinds_of(start) == kinds_of(carry):
                return part, carry
            carry = start

    def _with_flag(self) -> Loop:
        """The loop with one more value, for the effects of a body that gives none."""

        def step(carry: Any, at: Any) -> Any:
            found = self._step(carry[1], at)
            return ((carry[0], found[0]), found[1]) if self._pairs else (carry[0], found)

        return Loop(self._name, self._fn, (True, self._structured(self._init)), None, step)

    # -- types ----------------------------------------------------------------------------------------------------
    def _completed(self, carry: Sequence[Tensor], tree: Tree, types: Sequence[Type]) -> list[Tensor]:
        """The carry in the structure that an iteration gives, where that only fills empty containers.

        Raises ValueError for other structures.
        """
        if tree == self._tree:
            return list(carry)
        found = filled(self._tree, tree, iter(carry), iter(types))
        if found is None:
            raise ValueError(
                f"{self._call}: the carry is {self._tree} before an iteration and {tree} after it "
                f"({where_is(self._fn)}); return the structure that init has"
            )
        self._tree, self._raw = tree, list(found)
        self._labels += ["the carry"] * (len(found) - len(self._labels))
        return found

    def _start(self, j: int, before: Tensor, after: Type, weak: bool, part: Part | None) -> Tensor:
        """Entry `j` of the carry as an iteration must get it to give `after`. Raises DTypeError, ShapeError."""
        kind = Kind(after.dtype, weak)
        if after.shape == before.shape and kind == kind_of(before):
            return before
        if after.shape == before.shape and before.weak and adapts(kind_of(before), kind):
            start = converted(self._raw[j], after.dtype)
            return weakened(start) if weak else strengthened(start)
        made = part.made(j) if part else where_is(self._fn)
        label = self._labels[j]
        was = f"the number {self._raw[j]!r}" if python_kind(self._raw[j]) is not None else str(before.type)
        text = (
            f"{self._call}: {label} is {was} before an iteration and {after} after it ({made}); "
            "what a loop carries keeps its type: "
        )
        if after.shape != before.shape and was != str(before.type):
            raise ShapeError(text + f"start with an array, tp.full({show_shape(after.shape)}, ..., tp.{after.dtype})")
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
            for i in range(*(python_int(x) for x in (start, stop, step))):
                carry, _ = self._next(carry, i)
            return self._result(carry)
        trips, symbol, size = trips_of(start, stop, step), region.fresh("k"), region.fresh("n")
        if isinstance(trips, int) and trips <= 0:
            return self._result(self._init)
        state.trace.known[symbol] = 0, (Poly.symbol(size) if isinstance(trips, Tensor) else trips) - 1
        part, carry = self._stable(lambda: index_at(start, step, symbol))
        outside = Outside([part])
        carried = len(carry) + len(outside.written)
        if part.effects and not carried:
            return self._with_flag().counted(start, stop, step)[1]
        ys = repeat(trips, size, symbol, outside.graph(part), carried, (*carry, *outside.operands()))
        return self._finished(ys, carry, outside)

    def scanned(self, n: Dim, reverse: bool) -> tuple[Any, Any]:
        if n == 0:
            part, carry = self._stable(None)
            empty = [zeros_of(part.type(j), 0) for j in range(len(carry), part.n)]
            return self._result(carry), unflatten(part.tree.children[1], empty)
        if state.trace is None:
            return self._scanned_eagerly(python_int(n), reverse)
        k = region.fresh("k")
        state.trace.known[k] = 0, n - 1
        at = n - 1 - Poly.symbol(k) if reverse else Poly.symbol(k)
        part, carry = self._stable(at)
        outside = Outside([part])
        kept, rows = part.tree.children[1], [part.type(j) for j in range(len(carry), part.n)]
        stacks = [rows_of(t, n) for t in rows]
        body = stacking(outside.graph(part), len(carry), len(outside.written), rows, n, at)
        operands = outside.operands()
        if part.effects and not (carry or outside.written or stacks):
            (_, last), ys = self._with_flag().scanned(n, reverse)
            return last, ys
        first = (*carry, *operands[: len(outside.written)], *stacks)
        ys = repeat(n, "", k, body, len(first), (*first, *operands[len(outside.written) :]))
        return self._finished(ys, carry, outside), unflatten(kept, ys[len(first) - len(stacks) :])

    def _scanned_eagerly(self, n: int, reverse: bool) -> tuple[Any, Any]:
        carry, rows, trees = self._init, [], []
        for k in range(n):
            carry, y = self._next(carry, n - 1 - k if reverse else k)
            leaves, tree = flatten(y)
            rows.append([stackable(carried_number(x, "a y of scan", self._call)) for x in leaves])
            trees.append(tree)
            if tree != trees[0]:
                raise ValueError(f"{self._call}: y is {trees[0]} in one iteration and {tree} in another")
        columns = zip(*(rows[::-1] if reverse else rows), strict=True)
        return self._result(carry), unflatten(trees[0], [functions.stack(list(column)) for column in columns])
