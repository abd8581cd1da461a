"""Steps that the user can undo (`invertible`): the reverse pass of a loop of them computes what it would else keep.

    step = invertible(lambda x, h: x + h, lambda x, h: x - h)
    fori_loop(0, 1000, lambda i, x: step(x, h), x)
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from tapefuse._errors import DTypeError, ShapeError
from tapefuse._tree import Tree, flatten, leaves_with_paths, unflatten
from tapefuse.ir.op import OPS
from tapefuse.tracer.control_arguments import where_is
from tapefuse.tracer.source import user_loc
from tapefuse.tracer.state import state
from tapefuse.tracer.tensor import Tensor, as_tensor, weakened
from tapefuse.tracer.trace import trace_pure


def invertible(step: Callable[..., Any], inverse: Callable[..., Any], argnum: int = 0) -> Callable[..., Any]:
    """`step`, which takes a carry as its argument number `argnum` and gives the next one, or a pair (the next one, y).

    `inverse` takes the same arguments, with the next carry in place of the carry, and gives the carry. Where a loop of
    a compiled function carries what `step` gives, its gradient keeps nothing of it: the reverse pass begins with the
    last carry, and calls `inverse` for the one before. `argnum` is 0 for the body of `scan` and `while_loop`, 1 for
    that of `fori_loop`. Outside of loops and compiled functions this is `step`.

    Derivatives are those of `step`, at what `inverse` gives: as exact as that is, which `fn.check(...)` looks at.
    Raises ValueError if a structure is another than the carry's, ShapeError and DTypeError for other types, TypeError
    if there is no argument `argnum`.
    """

    @functools.wraps(step)
    def call(*args: Any, **kwargs: Any) -> Any:
        if not 0 <= argnum < len(args):
            raise TypeError(
                f"{where_is(step)} is called at {user_loc()} with {len(args)} arguments, and is invertible in "
                f"argument {argnum}; give the position of the carry: tp.invertible(step, inverse, argnum=...)"
            )
        returned = step(*args, **kwargs)
        if state.trace is None:
            return returned
        return _Step(step, inverse, args, kwargs, argnum).undoable(returned)

    return call


class _Step:
    """A call of a step while a function is traced."""

    def __init__(self, step: Callable, inverse: Callable, args: tuple, kwargs: dict[str, Any], argnum: int):
        self.step, self.inverse, self.args, self.kwargs, self.argnum = step, inverse, args, kwargs, argnum
        leaves, self.tree = flatten(args[argnum])
        self.before = [as_tensor(x) for x in leaves]
        self.paths = [path for path, _ in leaves_with_paths(args[argnum], "the carry")]

    def undoable(self, returned: Any) -> Any:
        """What the step has returned, with the carry in it marked."""
        is_pair = flatten(returned)[1] != self.tree and isinstance(returned, tuple) and len(returned) == 2
        leaves, tree = flatten(returned[0] if is_pair else returned)
        ys = [as_tensor(x) for x in leaves]
        self._check(self.step, tree, ys, "invertible steps give what they take")
        if any(x.weak and x.type != y.type for x, y in zip(self.before, ys, strict=True)):
            return returned  # a loop calls the step again with numbers of the types that it gives
        name = getattr(self.inverse, "__name__", "inverse")
        graph, _, outer = trace_pure(self._undone, [y.type for y in ys], name, self._refused)
        attrs = {"inverse": graph, "count": len(ys)}
        found = [OPS["invertible"](*ys, *self.before, *outer, number=k, **attrs) for k in range(len(ys))]
        carry = unflatten(tree, [weakened(x) if y.weak else x for x, y in zip(found, ys, strict=True)])
        return (carry, returned[1]) if is_pair else carry

    def _undone(self, ys: Sequence[Tensor]) -> list[Tensor]:
        args = [*self.args]
        args[self.argnum] = unflatten(self.tree, ys)
        leaves, tree = flatten(self.inverse(*args, **self.kwargs))
        found = [as_tensor(x) for x in leaves]
        self._check(self.inverse, tree, found, "an inverse gives what its step took")
        return found

    def _check(self, f: Callable, tree: Tree, found: Sequence[Tensor], cure: str) -> None:
        what = f"{where_is(f)}, called at {user_loc()}, gives"
        if not self.argnum:
            cure += "; in the body of fori_loop the carry is argument 1: tp.invertible(step, inverse, argnum=1)"
        if tree != self.tree:
            raise ValueError(f"{what} {tree}, and argument {self.argnum}, the carry, is {self.tree}; {cure}")
        for path, x, y in zip(self.paths, self.before, found, strict=True):
            if x.shape != y.shape or x.dtype != y.dtype and not x.weak:
                error = ShapeError if x.shape != y.shape else DTypeError
                raise error(f"{what} {y.type} for {path}, which is {x.type}; {cure}")

    def _refused(self, variable: str) -> str:
        return f"{where_is(self.inverse)}, an inverse, assigns to the variable {variable!r}; assign it in the step"
