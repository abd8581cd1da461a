"""The gradient tape: it records operations as they run and derives gradients from the record.

>>> x = Variable(3.0)
>>> with GradientTape() as tape:
...     y = x**2
>>> print(tape.gradient(y, x))
tp.Tensor(6.0, shape=(), dtype=float32)
"""

from __future__ import annotations

import warnings
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import CodeType, TracebackType
from typing import Any

import numpy as np

from tapefuse._errors import PerformanceWarning, ShapeError, TapeError
from tapefuse._log import Logger
from tapefuse._tree import flatten, leaves_with_paths, unflatten
from tapefuse.ir.graph import Loc
from tapefuse.ir.op import Op
from tapefuse.ir.types import Type, has_derivatives
from tapefuse.tracer.deferring import Run, plan_of, plans
from tapefuse.tracer.explanation import KEPT, Explanation, Note, Reason, losses
from tapefuse.tracer.operators import functions
from tapefuse.tracer.record import CallRecord, Entry, Line, Node, backward, entry_of, forward, op_record, region_record
from tapefuse.tracer.repeating import compiled_gradients
from tapefuse.tracer.reverse import gradients
from tapefuse.tracer.row_targets import ends, node, partials, regrouped
from tapefuse.tracer.rows import IndexedRows
from tapefuse.tracer.source import current_loc, line_of, made_at, user_instruction, user_loc, user_stacklevel
from tapefuse.tracer.state import busy, state
from tapefuse.tracer.tape_arguments import (
    UnconnectedGradients,
    elements_last,
    filled,
    given_seeds,
    named,
    seed_of,
    seeds_of,
    single,
    tensors,
    unconnected,
)
from tapefuse.tracer.tensor import Tensor, key_of
from tapefuse.tracer.variable import Variable
from tapefuse.tracer.vectorise import columns, rows, units

logger = Logger("tape")


class GradientTape:
    """Records the operations in its `with` block; afterwards `gradient` differentiates them.

    `persistent`: allow several calls of `gradient`; the record is kept until the tape is deleted or `reset`.
    `watch_accessed_variables`: watch trainable variables when they are read; otherwise only what `watch` is called
    with. A tape belongs to the thread that entered it.
    """

    def __init__(self, persistent: bool = False, watch_accessed_variables: bool = True):
        self._persistent = persistent
        self._watch_accessed = watch_accessed_variables
        self._entered = False  # inside the `with` block
        self._used = False  # was ever entered
        self._consumed = False  # the one gradient of a non-persistent tape was taken
        self._warned = False  # of recording gradients
        self._dtype_warnings = 0
        self._entered_by: tuple[CodeType, int] | None = None
        self._run: Run | None = None  # of a tape that repeats itself: operations that are put off
        self._records: list[Entry | Line] = []
        self._tracked: set[int] = set()  # keys of everything watched or computed from it
        self._variables: dict[int, Variable] = {}  # watched ones by key
        self._watched: dict[int, tuple[weakref.ref[Tensor], Node]] = {}  # tensors as they were when watched, by `id`
        self._watched_at: dict[int, Loc] = {}  # lines that watched tensors, by key
        self._notes: deque[Note] = deque(maxlen=KEPT)  # where what is tracked went without being recorded
        self.lost: set[int] = set()  # keys of what was computed there, and from that

    # -- life cycle --------------------------------------------------------------------------------
    def __enter__(self) -> GradientTape:
        if self._entered:
            raise ValueError("this tape is still recording; leave its `with` block before entering it again")
        if self._consumed:
            self._forget()
        self.settle()
        self._entered = self._used = True
        self._entered_by = user_instruction()
        plan = plan_of(self._entered_by) if plans and self._may_put_off() else None
        self._start()
        self._run = None if plan is None else Run(plan, self)
        return self

    def _may_put_off(self) -> bool:
        """Whether nobody but the user of this tape will see what happens in its block."""
        is_alone = not state.tapes and state.trace is None and not state.pinned and not state.overrides
        return is_alone and not self._persistent and self._watch_accessed and not self._records and not self._tracked

    def settle(self) -> None:
        """Have everything on the tape that was recorded."""
        if self._run is not None:
            self._run.settle()

    @property
    def _entered_at(self) -> Loc | None:
        return None if self._entered_by is None else line_of(*self._entered_by)

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._entered = False
        self._stop()

    def _start(self) -> None:
        for tape in state.tapes:
            tape.settle()
        busy.append(None)
        state.tapes = (*state.tapes, self)

    def _stop(self) -> None:
        if self in state.tapes:
            state.tapes = tuple([t for t in state.tapes if t is not self])
            busy.pop()

    def _forget(self) -> None:
        self.settle()
        self._consumed = False
        self._records, self._tracked, self._variables, self._watched = [], set(), {}, {}
        self._forget_notes()

    def _forget_notes(self) -> None:
        self._notes, self.lost, self._watched_at = deque(maxlen=KEPT), set(), {}

    def reset(self) -> None:
        """Forget everything recorded and everything watched."""
        self._forget()

    @contextmanager
    def stop_recording(self) -> Iterator[None]:
        """Hide the operations of a block from this tape (from no other). Raises TapeError if it is not recording."""
        if self not in state.tapes:
            raise TapeError(
                "trying to stop a tape which is not recording; use stop_recording() inside its `with` block"
            )
        self.settle()
        self._stop()
        paused = _Paused(self)
        state.tapes = (*state.tapes, paused)
        try:
            yield
        finally:
            state.tapes = tuple([t for t in state.tapes if t is not paused])
            if self._entered:
                self._start()

    # -- watching and recording ----------------------------------------------------------------------
    def watch(self, tensor: Any) -> None:
        """Track a tensor, a variable, or a nested structure of them from here on.

        Gradients for a tensor that is updated later (`x[0] = v`) are those for the value that it has now.

        Raises TapeError before the tape is entered and ValueError for anything that is no tensor.
        """
        if not self._used:
            raise TapeError("watch() on a tape that was never entered; call it inside the `with GradientTape()` block")
        for path, x in leaves_with_paths(tensor):
            if not isinstance(x, (Tensor, Variable)):
                raise ValueError(
                    "watch() takes tensors, variables, or lists, tuples and dicts of them, but "
                    f"{named(path, 'the argument')} is a {type(x).__name__}; convert it with tp.constant first"
                )
            if not has_derivatives(x.dtype):
                self._warn_of_dtype(x.dtype)
            elif isinstance(x, Variable):
                self._watch_variable(x)
            else:
                self.settle()
                self._tracked.add(key_of(x))
                self._watched[id(x)] = weakref.ref(x), node(x)
                self._watched_at[key_of(x)] = user_loc()
        if not self._entered:
            text = (
                "watch() after the `with` block: operations before and after it are not recorded, so this has no effect"
            )
            warnings.warn(text, stacklevel=user_stacklevel())

    def _warn_of_dtype(self, dtype: np.dtype) -> None:
        self._dtype_warnings += 1
        if self._dtype_warnings <= 3:
            logger.warning("the dtype of a watched tensor must be floating (e.g. float32), got %s", dtype)

    def _watch_variable(self, variable: Variable) -> None:
        self._tracked.add(variable._key)
        self._variables[variable._key] = variable

    def variable_read(self, variable: Variable) -> None:
        is_new = self._watch_accessed and variable._key not in self._variables and variable._trainable
        if is_new and has_derivatives(variable.dtype):
            self._watch_variable(variable)

    def note(self, kind: str, what: Any, keys: Sequence[int], made: Tensor | Variable | int | None = None) -> None:
        """Remember that values went somewhere without being recorded, if this tape tracks or follows one of them."""
        if not self._tracked.isdisjoint(keys) or not self.lost.isdisjoint(keys):
            self.settle()
            made = made if isinstance(made, int) or made is None else _key(made)
            ys = () if made is None else (made,)
            self.lost.update(ys)
            self._notes.append(Note(len(self._records), tuple(keys), ys, kind, what, current_loc()))

    def missed(self, name: str, keys: Sequence[int], key: int) -> None:
        """Follow what was lost through an operation with the floating-point result `key`, recorded or not."""
        xs = tuple([k for k in keys if k in self.lost and k not in self._tracked])
        if xs:
            if key not in self._tracked:
                self.lost.add(key)
            self._notes.append(Note(len(self._records), xs, (key,), "followed", name, None))

    def watched_variables(self) -> tuple[Variable, ...]:
        """The variables watched so far, in the order in which they were created."""
        return tuple(v for _, v in sorted(self._variables.items()))

    def tracks(self, keys: Sequence[int]) -> bool:
        return not self._tracked.isdisjoint(keys)

    def would_record(self, keys: Sequence[int], variables: Sequence[Variable]) -> bool:
        """Whether an operation on tensors with these keys that reads these variables belongs on this tape, or is to
        be followed by it."""
        read = [*keys, *(v._key for v in variables)]
        if self.tracks(read) or not self.lost.isdisjoint(read):
            return True
        return self._watch_accessed and any(v.trainable and has_derivatives(v.dtype) for v in variables)

    def add(
        self, op: Op, keys: Sequence[int], xs: tuple[Tensor, ...], attrs: dict[str, Any], y: Tensor, loc: Loc | None
    ) -> None:
        """Append one operation. The caller has seen that an operand is tracked."""
        self.add_record(op_record(op, self.nodes(keys, xs), attrs, xs, y, loc, lean=not self._persistent))

    def add_region(
        self,
        op: Op,
        keys: Sequence[int],
        xs: tuple[Tensor, ...],
        attrs: dict[str, Any],
        ys: tuple[Tensor, ...],
        loc: Loc | None,
    ) -> None:
        """Append an operation with graphs inside and several results."""
        self.add_record(region_record(op, self.nodes(keys, xs), attrs, xs, ys, loc))

    def nodes(self, keys: Sequence[int], xs: Sequence[Tensor]) -> tuple[Node, ...]:
        """Operands of a record; those that are not tracked have no identity on this tape."""
        tracked = self._tracked
        return tuple([Node(k if k in tracked else None, x.type) for k, x in zip(keys, xs, strict=True)])

    def add_record(self, entry: Entry) -> None:
        """Append an operation of any kind; its floating-point results are tracked from here on."""
        self.settle()
        if len(entry.ys) > 1 or type(entry) is CallRecord:
            self.lost.update([y.key for y in entry.ys if y.key is not None and not has_derivatives(y.dtype)])
        self._records.append(entry)
        self._tracked.update([y.key for y in entry.ys if y.key is not None and has_derivatives(y.dtype)])

    def _source(self, x: Tensor | Variable) -> Node:
        """What derivatives for `x` are for: its value when it was watched, whatever was stored into it since."""
        found = self._watched.get(id(x))
        return found[1] if found is not None and found[0]() is x else node(x)

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

    def _check_usable(self) -> None:
        if not self._used:
            raise TapeError("this tape never recorded anything; compute the target inside its `with` block")
        if self._consumed:
            raise TapeError(
                "A non-persistent GradientTape can only be used to compute one set of gradients (or jacobians); make "
                "it with GradientTape(persistent=True) to ask for more"
            )

    def _take_records(self) -> list[Entry]:
        return self._entries(self._take_lines())

    def _take_lines(self) -> list[Entry | Line]:
        self._check_usable()
        self.settle()
        if self._persistent:
            if self in state.tapes:
                self._warn_of_recording_gradients()
            return list(self._records)
        self._stop()
        self._consumed = True
        records, self._records, self._tracked = self._records, [], set()
        self._forget_notes()
        return records

    def _entries(self, records: list[Entry | Line]) -> list[Entry]:
        return [entry_of(r, self._persistent) if isinstance(r, tuple) else r for r in records]

    def _warn_of_recording_gradients(self) -> None:
        if not self._warned:
            self._warned = True
            text = (
                "gradient() inside the `with` block of a persistent tape records the gradient's own operations as "
                "well, which costs time and memory; call it after the block unless higher derivatives from the same "
                "tape are wanted"
            )
            warnings.warn(text, PerformanceWarning, stacklevel=user_stacklevel())


class _Paused(GradientTape):
    """Stands for a tape inside of its `stop_recording`: it records nothing, and has noted there what goes by."""

    def __init__(self, tape: GradientTape):
        super().__init__(watch_accessed_variables=False)
        self._tape = tape
        self.lost = {0}  # no tensor's key: `missed` is to be called

    def variable_read(self, variable: Variable) -> None:
        if self._tape._watch_accessed and variable.trainable:
            self._tape.lost.add(variable._key)

    def note(self, kind: str, what: Any, keys: Sequence[int], made: Tensor | Variable | int | None = None) -> None:
        kept = kind in ("left", "assigned")
        self._tape.note(kind if kept else "stopped", what if kept else None, keys, made)

    def missed(self, name: str, keys: Sequence[int], key: int) -> None:
        self._tape.note("stopped", None, keys, key)


def explain_gradient(tape: GradientTape, target: Any, sources: Any) -> Explanation:
    """Why `tape.gradient(target, sources)` gives None for which sources, each with the line of source and the cure.

    The tape stays as it is. Raises TapeError if its record is used up: ask before, with
    `tape.gradient(target, sources, explain=True)`, or of a persistent tape.
    """
    return tape.explanation(target, sources)


def _key(x: Tensor | Variable) -> int:
    return x._key if isinstance(x, Variable) else key_of(x)
