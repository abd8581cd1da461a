"""What a gradient tape does while operations run: it is entered and left, watches tensors and variables, and records.

`GradientTape` in `tape` adds what is made of the record.
"""

from __future__ import annotations

import warnings
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import CodeType, TracebackType
from typing import Any, Self

import numpy as np

from tapefuse._errors import PerformanceWarning, TapeError
from tapefuse._log import Logger
from tapefuse._tree import leaves_with_paths
from tapefuse.ir.graph import Loc
from tapefuse.ir.op import Op
from tapefuse.ir.types import has_derivatives
from tapefuse.tracer.deferring import Run, plan_of, plans
from tapefuse.tracer.explanation import KEPT, Note
from tapefuse.tracer.record import CallRecord, Entry, Line, Node, entry_of, op_record, region_record
from tapefuse.tracer.row_targets import node
from tapefuse.tracer.source import current_loc, line_of, user_instruction, user_loc, user_stacklevel
from tapefuse.tracer.state import busy, state
from tapefuse.tracer.tape_arguments import named
from tapefuse.tracer.tensor import Tensor, key_of
from tapefuse.tracer.variable import Variable

logger = Logger("tape")


class Recording:
    """A tape as operations see it. Parameters: see `GradientTape`."""

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
    def __enter__(self) -> Self:
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

    # -- taking the record -----------------------------------------------------------------------------------
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


class _Paused(Recording):
    """Stands for a tape inside of its `stop_recording`: it records nothing, and has noted there what goes by."""

    def __init__(self, tape: Recording):
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


def _key(x: Tensor | Variable) -> int:
    return x._key if isinstance(x, Variable) else key_of(x)
