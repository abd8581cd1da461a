"""Where innermost loops are cut."""

from __future__ import annotations

import numpy as np
import pytest

from tapefuse.codegen.loops import BOOL, INT, Buffer, For, Let, Load, Num, Store, Var
from tapefuse.codegen.splitting import split
from tapefuse.ir.types import Type


def cut(stop: int, *limits: int, dtype: type = np.float64) -> list[tuple[int, int, int]]:
    """Parts of a loop from 0 that selects between loads at each limit: where each begins and ends, its selections."""
    float_ = np.dtype(dtype)
    x, y = (Buffer(name, Type(float_, (stop,))) for name in ("b0", "b1"))
    i, zero = Var("i", INT), Num(0.0, float_)
    loaded = value = Var("t", float_)
    body: list = [Load(loaded, x, (i,))]
    for limit in limits:
        condition, chosen = Var(f"c{limit}", BOOL), Var(f"s{limit}", float_)
        body += [Let(condition, "lt", (i, Num(limit, INT))), Let(chosen, "select", (condition, value, zero))]
        value = chosen
    body.append(Store(y, (i,), value))
    parts = split([For(i, Num(0, INT), Num(stop, INT), tuple(body))])
    return [(s.start.value, s.stop.value, sum(getattr(t, "op", "") == "select" for t in s.body)) for s in parts]


@pytest.mark.parametrize(
    ("stop", "limits", "parts"),
    [
        (6, (4,), [(0, 4, 0), (4, 6, 0)]),
        (100, (50,), [(0, 50, 0), (50, 100, 0)]),
        (40, (1, 2, 38, 39), [(0, 8, 2), (8, 32, 0), (32, 40, 2)]),  # vectors at both ends, whole ones between
        (41, (1, 39), [(0, 8, 1), (8, 32, 0), (32, 41, 1)]),
        (40, (38,), [(0, 32, 0), (32, 40, 1)]),
        (40, (2,), [(0, 8, 1), (8, 40, 0)]),
        (40, (12,), [(0, 12, 0), (12, 40, 0)]),  # a part longer than a vector stays what it is
        (16, (1, 15), [(0, 1, 0), (1, 15, 0), (15, 16, 0)]),
    ],
)
def test_parts(stop: int, limits: tuple[int, ...], parts: list[tuple[int, int, int]]):
    assert cut(stop, *limits) == parts


def test_vectors_of_smaller_elements_are_longer():
    assert cut(80, 1, 79, dtype=np.float32) == [(0, 16, 1), (16, 64, 0), (64, 80, 1)]
