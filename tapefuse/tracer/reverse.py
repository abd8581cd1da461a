"""The reverse pass of an eager tape on the arrays themselves: what `ir.passes.adjoint` does, without any tensors.

It serves tapes that hold nothing but `Line`s between targets and sources, where nobody watches the derivatives
themselves: no tape records them and no trace is under way.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tapefuse._config import config
from tapefuse._errors import VerifyError
from tapefuse.ir import ops
from tapefuse.ir.graph import here
from tapefuse.ir.op import Op
from tapefuse.ir.ops.family import unbroadcast
from tapefuse.tracer.arrays import F32, F64
from tapefuse.tracer.lines import Line
from tapefuse.tracer.record import Entry, Node
from tapefuse.tracer.state import state
from tapefuse.tracer.tensor import Tensor, wrap


def gradients(
    entries: Sequence[Entry | Line], seeds: Sequence[tuple[Node, Any]], sources: Sequence[Node]
) -> list[Tensor | None] | None:
    """The cotangent of each source from those of the targets, None where nothing connects them.

    None altogether if this is for the general pass: there is something between that is no line or has no rule.
    """
    if state.trace is not None or state.tapes:
        return None
    arrays = [(node, a) for node, g in seeds if (a := _array(g)) is not None]
    if len(arrays) < len(seeds) or any(not (s.dtype is F32 or s.dtype is F64) for s in sources):
        return None
    wanted = {s.key for s in sources if s.key is not None}
    path, active = _path(entries, wanted)
    if path is None:
        return None
    cotangents: dict[int, Any] = {}
    outer = here.plain
    here.plain = True
    try:
        with np.errstate(all="ignore"):
            for node, g in arrays:
                _add(cotangents, node.key or 0, g if g.shape == node.shape else np.full(node.shape, g))
            _pull(path, cotangents, active, wanted)
    finally:
        here.plain = outer
    found = [cotangents.get(s.key or 0) for s in sources]
    return [None if g is None else wrap(np.asarray(g, s.dtype)) for g, s in zip(found, sources, strict=True)]


def _array(g: Any) -> np.ndarray | None:
    if type(g) is not Tensor:
        return None
    array = g._array
    return array if array.dtype is F32 or array.dtype is F64 else None


def _path(entries: Sequence[Entry | Line], wanted: set[int]) -> tuple[list[Line] | None, set[int]]:
    """The lines whose results depend on a source, in order, and the keys of all that do; None if not all are lines."""
    active = set(wanted)
    path: list[Line] = []
    for entry in entries:
        if type(entry) is tuple:
            for k in entry[1]:
                if k in active:
                    op = entry[0]
                    if op.vjp is None:
                        return None, active
                    if op is not ops.stop_gradient:
                        active.add(entry[2])
                        path.append(entry)
                    break
        elif any(x.key in active for x in entry.xs):  # type: ignore[union-attr]
            return None, active
    return path, active


_sum = np.add


def _pull(path: Sequence[Line], cotangents: dict[int, Any], active: set[int], wanted: set[int]) -> None:
    check = config.check
    for op, keys, key, held, attrs, _, _ in reversed(path):
        g = cotangents.get(key) if key in wanted else cotangents.pop(key, None)
        if g is None:
            continue
        partials = op.partials
        if partials is None:
            pulled = op.vjp(g, *held, **attrs)  # type: ignore[misc]
            for place, k in enumerate(keys):
                if k in active and (c := pulled[place]) is not None:
                    cotangents[k] = np.add(cotangents[k], c) if k in cotangents else c
                    if check:
                        _check(op, c, held[place + 1])
            continue
        place = 0
        for k in keys:
            rule = partials[place]
            place += 1  # noqa: SIM113, quicker than `enumerate`
            if rule is not None and k in active:
                c, x = rule(g, *held), held[place]
                if c.shape != x.shape:
                    c = unbroadcast(c, x)
                if check:
                    _check(op, c, x)
                before = cotangents.get(k)
                cotangents[k] = c if before is None else _sum(before, c)


def _check(op: Op, c: Any, x: Any) -> None:
    if c.dtype != x.dtype or c.shape != x.shape:
        raise VerifyError(f"the vjp rule of {op.name} gives a cotangent {c.dtype}{c.shape} for {x.dtype}{x.shape}")


def _add(cotangents: dict[int, Any], key: int, g: Any) -> None:
    cotangents[key] = np.add(cotangents[key], g) if key in cotangents else g
