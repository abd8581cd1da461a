"""The gradient tape: it records operations as they run and derives gradients from the record.

>>> x = Variable(3.0)
>>> with GradientTape() as tape:
...     y = x**2
>>> print(tape.gradient(y, x))
tp.Tensor(6.0, shape=(), dtype=float32)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tapefuse._errors import ShapeError
from tapefuse._tree import flatten, leaves_with_paths, unflatten
from tapefuse.ir.types import Type, has_derivatives
from tapefuse.tracer.deferring import Run
from tapefuse.tracer.explanation import Explanation, Reason, losses
from tapefuse.tracer.operators import functions
from tapefuse.tracer.record import Node, backward, forward
from tapefuse.tracer.recording import Recording
from tapefuse.tracer.repeating import compiled_gradients
from tapefuse.tracer.reverse import gradients
from tapefuse.tracer.row_targets import ends, node, partials, regrouped
from tapefuse.tracer.rows import IndexedRows
from tapefuse.tracer.source import made_at, user_instruction
from tapefuse.tracer.state import state
from tapefuse.tracer.tape_arguments import (
    UnconnectedGradients,
    elements_last,
    filled,
    given_seeds,
    seed_of,
    seeds_of,
    single,
    tensors,
    unconnected,
)
from tapefuse.tracer.tensor import Tensor
from tapefuse.tracer.variable import Variable
from tapefuse.tracer.vectorise import columns, rows, units


class GradientTape(Recording):
    """Records the operations in its `with` block; afterwards `gradient` differentiates them.

    `persistent`: allow several calls of `gradient`; the record is kept until the tape is deleted or `reset`.
    `watch_accessed_variables`: watch trainable variables when they are read; otherwise only what `watch` is called
    with. A tape belongs to the thread that entered it.
    """

    # -- derivatives ---------------------------------------------------------------------------------
    def gradient(
        self,
        target: Any,
        sources: Any,
        output_gradients: Any = None,
        unconnected_gradients: UnconnectedGradients | str = UnconnectedGradients.NONE,
        explain: bool = False,
    ) -> Any:
        """The gradient of (the sum of) the targets for each source, in the structure of `sources`.

        Each gradient has its source's shape and dtype. A source that no target depends on gets None, or zeros with
        `unconnected_gradients="zero"`. `output_gradients` weighs the targets, one entry for each.
        With `explain=True` it returns the gradients and an `Explanation` of those that are None or such zeros.
        Raises TapeError if the record is used up, MissingGradientError (a LookupError) for an operation without
        derivative.
        """
        zero = unconnected(unconnected_gradients) is UnconnectedGradients.ZERO
        targets = tensors(target, "target")
        wanted = tensors(sources, "sources")
        seeds = None if output_gradients is None else seeds_of(targets, output_gradients)
        explanation = self.explanation(target, sources) if explain else None
        grads = None if self._run is None or seeds is not None else self._put_off(self._run, targets, wanted)
        grads = self._gradients(targets, seeds, [self._source(s) for s in wanted]) if grads is None else grads
        if zero:
            grads = [functions.zeros(s.shape, s.dtype) if g is None else g for g, s in zip(grads, wanted, strict=True)]
        found = grads[0] if isinstance(sources, (Tensor, Variable)) else unflatten(flatten(sources)[1], grads)
        return found if explanation is None else (found, explanation)

    def _gradients(self, targets: list[Any], seeds: Any, sources: Sequence[Node]) -> list[Any]:
        """By the quickest way there is: a compiled program, the arrays themselves, tensors. `seeds` None: all are 1."""
        lines = self._take_lines()
        is_eager = state.trace is None and not state.tapes
        if is_eager and self._entered_by is not None and not any(isinstance(t, IndexedRows) for t in targets):
            nodes = [node(t) for t in targets if has_derivatives(t.dtype)] if seeds is None else [n for n, _ in seeds]
            found = compiled_gradients(self._entered_by, user_instruction(), lines, seeds, nodes, sources)
            if found is not None:
                return found
        seeds = seeds_of(targets, None) if seeds is None else seeds
        grads = gradients(lines, seeds, sources) if is_eager else None
        return backward(self._entries(lines), seeds, sources, rows=True) if grads is None else grads

    def _put_off(self, run: Run, targets: list[Any], sources: list[Any]) -> list[Any] | None:
        """The gradients of a tape whose operations are to be run yet, in one with these; None if they are run first."""
        self._check_usable()
        self._stop()
        if state.trace is not None or state.tapes or (found := run.gradients(targets, sources)) is None:
            return None
        self._take_lines()
        return found

    def jvp(
        self,
        target: Any,
        sources: Any,
        tangents: Any,
        unconnected_gradients: UnconnectedGradients | str = UnconnectedGradients.NONE,
    ) -> Any:
        """The derivative of the targets along `tangents` of the sources, in the structure of `target`: forward mode.

        `tangents` has an entry of its shape and dtype for each source. A target that no source reaches gets None, or
        zeros with `unconnected_gradients="zero"`. Raises TapeError unless the tape is persistent.
        """
        zero = unconnected(unconnected_gradients) is UnconnectedGradients.ZERO
        targets, moved = tensors(target, "target"), tensors(sources, "sources")
        directions = [
            (self._source(x), filled(seed_of(x, t, "tangent", "source"), x.shape))
            for x, t in zip(moved, given_seeds(moved, tangents, "tangents", "source"), strict=True)
            if has_derivatives(x.dtype)
        ]
        found = forward(self._take_records(), directions, [end for y in targets for end in ends(y)])
        found = regrouped(targets, found)
        if zero:
            found = [functions.zeros(y.shape, y.dtype) if t is None else t for t, y in zip(found, targets, strict=True)]
        return unflatten(flatten(target)[1], found)

    def jacobian(
        self, target: Any, sources: Any, unconnected_gradients: UnconnectedGradients | str = UnconnectedGradients.NONE
    ) -> Any:
        """Derivatives of every element of one target tensor: shape `target.shape + source.shape` for each source.

        Takes one reverse pass with an axis for the elements of the target.
        """
        zero = unconnected(unconnected_gradients) is UnconnectedGradients.ZERO
        (y,), wanted = single(target, "jacobian"), tensors(sources, "sources")
        shapes = [(*y.shape, *s.shape) for s in wanted]
        parts = partials(self._take_records(), y, [self._source(s) for s in wanted])
        if zero:
            both = zip(parts, shapes, wanted, strict=True)
            parts = [functions.zeros(shape, s.dtype) if p is None else p for p, shape, s in both]
        return unflatten(flatten(sources)[1], parts)

    def jacobian_columns(self, targets: Sequence[Tensor], source: Tensor) -> list[Tensor]:
        """For each target its jacobian by one source, as of `jacobian`, zeros where unconnected: one forward pass with
        an axis for the elements of the source. Raises TapeError unless the tape is persistent."""
        found = columns(self._take_records(), self._source(source), units(source.type), [node(y) for y in targets])
        return [elements_last(c, y, source) for c, y in zip(found, targets, strict=True)]

    def batch_jacobian(self, target: Any, source: Any) -> Tensor:
        """The jacobian of each example, `[b, ...target.shape[1:], ...source.shape[1:]]`; zeros where unconnected.

        Target and source have the same leading extent b, and example k of the target must depend on example k of the
        source only. Raises ShapeError for other shapes.
        """
        (y,), (x,) = single(target, "batch_jacobian"), single(source, "batch_jacobian")
        if min(y.ndim, x.ndim) < 2:
            raise ShapeError(f"batch_jacobian: target and source must have rank at least 2, got {y.type} and {x.type}")
        if y.shape[0] != x.shape[0]:
            raise ShapeError(f"batch_jacobian: need first dimension to match, got {y.type} and {x.type}")
        unit = units(Type(y.dtype, y.shape[1:]))
        seeds = functions.broadcast_to(functions.expand_dims(unit, 1), (unit.shape[0], *y.shape))
        (found,) = rows(self._take_records(), node(y), seeds, [self._source(x)])
        shape = (*y.shape, *x.shape[1:])
        if found is None:
            return functions.zeros(shape, x.dtype)
        return functions.reshape(functions.swapaxes(found, 0, 1), shape)

    def explanation(self, target: Any, sources: Any) -> Explanation:
        """Why which sources have no gradient; takes nothing from the tape. Raises TapeError if the record is used
        up."""
        self._check_usable()
        targets, wanted = tensors(target, "target"), tensors(sources, "sources")
        names = [path for path, _ in leaves_with_paths(sources, "sources")]
        found = []
        for name, x in zip(names, wanted, strict=True):
            title = f"{name} ({type(x).__name__}{f' {x.name!r}' if isinstance(x, Variable) else ''}, {x.type})"
            found.append(self._reasons(title, x, targets))
        return Explanation(tuple(found))

    def _reasons(self, name: str, x: Tensor | Variable, targets: Sequence[Tensor | Variable]) -> tuple[Reason, ...]:
        """Why no target has a derivative by `x`; nothing if one has."""
        self.settle()
        if not has_derivatives(x.dtype):
            return (Reason.of("source", name, made_at(x), dtype=x.dtype),)
        source, targeted = self._source(x), [end for y in targets for end in ends(y)]
        records = self._entries(self._records)
        lost, is_connected = losses(records, self._notes, source, targeted)
        if is_connected:
            return ()
        if lost:
            return tuple([Reason.of(kind, name, loc, what=what) for kind, what, loc in lost])
        if source.key not in self._tracked:
            return (self._unwatched(name, x),)
        known = {n.key for r in records for n in r.ys} | self.lost | self._tracked
        kind = "unconnected" if known.issuperset([n.key for n in targeted]) else "outside"
        loc = self._entered_at if kind == "outside" else self._watched_at.get(source.key or 0, made_at(x))
        return (Reason.of(kind, name, loc),)

    def _unwatched(self, name: str, x: Tensor | Variable) -> Reason:
        if not isinstance(x, Variable):
            return Reason.of("tensor", name, made_at(x))
        if x.trainable and self._watch_accessed:
            return Reason.of("unread", name, self._entered_at)
        return Reason.of("unwatched" if x.trainable else "not trainable", name, made_at(x))


def explain_gradient(tape: GradientTape, target: Any, sources: Any) -> Explanation:
    """Why `tape.gradient(target, sources)` gives None for which sources, each with the line of source and the cure.

    The tape stays as it is. Raises TapeError if its record is used up: ask before, with
    `tape.gradient(target, sources, explain=True)`, or of a persistent tape.
    """
    return tape.explanation(target, sources)
