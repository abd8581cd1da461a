"""Loops in sweeps: random stencils in one to three dimensions, and which loops are fit for it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import tapefuse as tp
from tapefuse.codegen import planned, region_body, rows, sweeps

PROGRAMS = int(os.environ.get("TAPEFUSE_EXAMPLES", "1600")) // 100
SMALL = {"TILE": 20_000, "SECOND_CACHE": 0, "SECTION": 2, "CORES": 1}


@dataclass(frozen=True)
class Stencil:
    """Arrays of one shape; each becomes a function of elements `shifts` away, its own or another one's."""

    shape: tuple[int, ...]
    steps: int
    shifts: tuple[tuple[tuple[int, ...], ...], ...]
    others: tuple[int, ...]
    at_once: bool  # all arrays change together, not one after the other
    is_linear: bool
    uses_index: bool
    has_coefficients: bool


def drawn(rng: np.random.Generator) -> Stencil:
    rank, count = int(rng.integers(1, 4)), int(rng.choice([1, 1, 2]))
    shape = (int(rng.integers(40, 90)), *(int(rng.integers(5, 12)) for _ in range(rank - 1)))
    reach = int(rng.integers(1, 3))
    around = [[tuple(map(int, rng.integers(-reach, reach + 1, rank))) for _ in range(3)] for _ in range(count)]
    flags = [bool(rng.random() < 0.4) for _ in range(4)]
    others = tuple(int(rng.integers(count)) for _ in range(count))
    return Stencil(shape, int(rng.integers(5, 30)), tuple(map(tuple, around)), others, *flags)


def program(stencil: Stencil, staged: Any = tp.stage) -> Any:
    """Of NumPy's arrays as of ours."""
    inner = (slice(2, -2),) * len(stencil.shape)

    def at(x: Any, shift: tuple[int, ...]) -> Any:
        return x[tuple(slice(2 + s, n - 2 + s) for s, n in zip(shift, stencil.shape, strict=True))]

    def changed(state: tuple, number: int, c: Any, k: Any) -> Any:
        x, other = state[number].copy(), state[stencil.others[number]]
        first, second, third = (at(other, shift) for shift in stencil.shifts[number])
        y = 0.5 * x[inner] + 0.25 * first - 0.125 * (second + third)
        if stencil.has_coefficients:
            y = y * c[inner]
        if stencil.uses_index:
            y = y + 0.01 * k
        x[inner] = y if stencil.is_linear else y - 0.1 * y * second
        return x

    def run(*arrays: Any) -> Any:
        *first, c = arrays
        state = tuple(first)
        for k in staged(range(stencil.steps)):
            new = state
            for number in range(len(state)):
                x = changed(state if stencil.at_once else new, number, c, k)
                new = (*new[:number], x, *new[number + 1 :])
            state = new
        return state

    return run


def weighted(stencil: Stencil) -> Any:
    return lambda *arrays: sum(tp.sum(x * x * (k + 1.0)) for k, x in enumerate(program(stencil)(*arrays)))


class Count:
    """How many loops were cut."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.found = 0
        statements = sweeps._Sweeps.statements

        def counted(loop: Any) -> Any:
            self.found += 1
            return statements(loop)

        monkeypatch.setattr(sweeps._Sweeps, "statements", counted)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Count:
    """Small kernels are launched, in pieces, and small arrays are worth a sweep."""
    for name, value in SMALL.items():
        monkeypatch.setattr(sweeps, name, value)
    monkeypatch.setattr(region_body, "CALLED", 0)
    for part in (planned, rows):
        monkeypatch.setattr(part, "GRAIN", 1)
    return Count(monkeypatch)


def check(stencil: Stencil, engine: str, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """NumPy's values, and the bits of loops that are not cut."""
    rng = np.random.default_rng(seed)
    arrays = [*(rng.standard_normal(stencil.shape) for _ in stencil.shifts), rng.random(stencil.shape)]
    value = program(stencil)
    gradient = tp.value_and_grad(weighted(stencil), argnums=tuple(range(len(arrays))))
    run = lambda f: tp.tape_function(f, engine=engine, strict=True)(*arrays)
    found, (total, slopes) = run(value), run(gradient)
    with monkeypatch.context() as patch:
        patch.setattr(sweeps, "SECOND_CACHE", 1 << 60)
        whole, (expected, others) = run(value), run(gradient)
    for x, y, z in zip(found, whole, program(stencil, iter)(*arrays), strict=True):
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))
        np.testing.assert_allclose(np.asarray(x), z, rtol=1e-10, atol=1e-12)
    for x, y in zip((total, *slopes), (expected, *others), strict=True):
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


@pytest.mark.parametrize("part", range(2))
def test_random_stencils_in_sweeps(part: int, small: Count, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = range(part, PROGRAMS, 2)
    for k in numbers:
        check(drawn(np.random.default_rng(k)), "llvm", k, monkeypatch)
    assert small.found >= len(numbers) // 2  # of three loops or so each


def test_sweeps_on_the_other_engine(small: Count, monkeypatch: pytest.MonkeyPatch) -> None:
    shifts = ((-1, 0), (1, 0), (0, 1))
    check(Stencil((60, 9), 13, (shifts,), (0,), False, True, True, True), "numba", 0, monkeypatch)
    assert small.found >= 1

