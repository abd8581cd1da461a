"""Why a function was traced again: which argument differs from those of the nearest earlier trace, and the cure.

>>> f(tp.ones(3)); f(tp.ones(4)); print(f.explain_retrace())
f was traced 2 times
  trace 2, called at <stdin>:1: x changed from f32[3] to f32[4] since trace 1; to trace once for all extents: ...
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tapefuse._records import dataclass
from tapefuse._tree import Tree
from tapefuse.ir.graph import Loc
from tapefuse.tracer.signature import Call, Leaf, show_leaf
from tapefuse.tracer.source import user_loc

NUMBERS = (bool, int, float, complex)


@dataclass(frozen=True, slots=True)
class Arguments:
    """What a trace was made for."""

    names: tuple[str, ...]  # of the leaves: `x`, `batch['image']`
    kinds: tuple[Leaf, ...]
    parameters: tuple[tuple[str, Tree], ...]
    loc: Loc  # of the call

    @staticmethod
    def of(call: Call) -> Arguments:
        signature = call.signature
        parameters = tuple(zip(signature.names, call.tree.children, strict=True))
        return Arguments(tuple(signature.leaf_names(call)), call.kinds, parameters, user_loc())


@dataclass(frozen=True, slots=True)
class Change:
    """One argument that differs. `kind`: structure, dtype, rank, shape, value, type, object, aliasing or variable."""

    argument: str
    kind: str
    before: str
    now: str
    cure: str

    def __str__(self) -> str:
        if self.kind == "object":
            return f"{self.argument} is another {self.now.removeprefix('a ')}"
        return f"{self.argument} changed from {self.before} to {self.now}"


@dataclass(frozen=True, slots=True)
class Retrace:
    """Why trace `number` was made: the changes since trace `since`, the most similar one (None: the first trace)."""

    number: int
    since: int | None
    changes: tuple[Change, ...]
    loc: Loc

    @property
    def reason(self) -> str:
        if self.since is None:
            return "first call"
        return (
            ", ".join(map(str, self.changes)) or "an object that is counted by identity is gone, or its flags changed"
        )

    def __str__(self) -> str:
        since = "" if self.since is None else f" since trace {self.since}"
        cures = "".join([f"; {cure}" for cure in dict.fromkeys([c.cure for c in self.changes])])
        return f"trace {self.number}, called at {self.loc}: {self.reason}{since}{cures}"


@dataclass(frozen=True, slots=True)
class Retraces:
    """All traces of a function but the first."""

    name: str
    traces: tuple[Retrace, ...]

    def __bool__(self) -> bool:
        return bool(self.traces)

    def __str__(self) -> str:
        if not self.traces:
            return f"{self.name} was not traced again"
        lines = [f"{self.name} was traced {self.traces[-1].number} times", *map(str, self.traces)]
        return "\n  ".join(lines)


def retrace(now: Arguments, earlier: Sequence[Arguments]) -> Retrace:
    """The difference of a new trace to the most similar earlier one."""
    found = [changes(before, now) for before in earlier]
    if not found:
        return Retrace(1, None, (), now.loc)
    nearest = min(range(len(found)), key=lambda k: len(found[k]))
    return Retrace(len(found) + 1, nearest + 1, found[nearest], now.loc)


def changes(before: Arguments, now: Arguments) -> tuple[Change, ...]:
    """What differs, argument by argument: structures first, and where they agree the leaves."""
    both = list(zip(before.parameters, now.parameters, strict=True))
    shaped = [_structure(name, a, b) for (name, a), (_, b) in both if a != b]
    if shaped:
        return tuple(shaped)
    leaves = zip(now.names, before.kinds, now.kinds, strict=True)
    return tuple([_leaf(name, a, b) for name, a, b in leaves if a != b])


def _structure(name: str, before: Tree, now: Tree) -> Change:
    if None in (before.kind, now.kind):
        cure = "None and a tensor are two programs: that is one trace for each, unless a default tensor stands for None"
    elif before.kind is now.kind and before.kind in (list, tuple):
        cure = f"stack what {name} holds into one tensor, so that its length is an extent"
    else:
        cure = f"pass {name} in one structure always (a tuple is no list)"
    return Change(name, "structure", f"the structure {before}", f"{now}", cure)


def _leaf(name: str, before: Leaf, now: Leaf) -> Change:
    kind, cure = _kind_and_cure(name, before, now)
    return Change(name, kind, show_leaf(before), show_leaf(now), cure)


def _kind_and_cure(name: str, before: Leaf, now: Leaf) -> tuple[str, str]:
    if before[0] != now[0]:
        return "type", f"pass {name} as a tensor always: tp.constant({name})"
    if now[0] == "tensor":
        return _tensor_cure(name, before, now)
    if now[0] == "object":
        return "object", f"pass one object again and again, or what matters of {name} as tensors"
    if now[0] == "value":
        number = before[1] in NUMBERS and now[1] in NUMBERS
        kind = "value" if before[1] is now[1] else "type"
        return kind, f"pass {name} as a tensor: tp.constant({name})" if number else f"{name} has a trace for each value"
    if before[1:3] != now[1:3]:
        return "variable", f"variables of one dtype and shape for {name} share a trace"
    return "aliasing", "the same variable stands for several arguments, or no longer does: that is another program"


def _tensor_cure(name: str, before: Leaf, now: Leaf) -> tuple[str, str]:
    """For a change of dtype or shape. Python values in the place of extents stand for any."""
    if before[1] != now[1]:
        return "dtype", f"convert {name} before the call: tp.astype({name}, tp.{_dtype_name(before[1])})"
    if len(before[2]) != len(now[2]):
        return "rank", f"pass {name} with one number of axes: tp.expand_dims({name}, 0) makes a batch of one"
    shape = [str(b) if a == b else "None" for a, b in zip(before[2], now[2], strict=True)]
    spec = f"tp.TensorSpec(({', '.join(shape)}{',' if len(shape) == 1 else ''}), tp.{_dtype_name(now[1])})"
    return "shape", f"to trace once for all extents: input_signature=[...] with {spec} for {name}"


def _dtype_name(dtype: Any) -> str:
    return "bool_" if dtype.kind == "b" else str(dtype)
