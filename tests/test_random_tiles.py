"""Random time loops over one-dimensional stencils, by tiles: NumPy's values, and gradients of the loops as they are.

16 programs run on the LLVM engine and 1 on the Numba engine; TAPEFUSE_EXAMPLES=20000 draws ten times as many.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import tapefuse as tp
from tapefuse.compiler import optimised
from tapefuse.ir import ops
from tapefuse.ir.passes import tile_plan
from tests.test_acceptance_loops import everywhere

PROGRAMS = int(os.environ.get("TAPEFUSE_EXAMPLES", "1600")) // 100
PARTS = 2
SMALL = {"TILE_BYTES": 192, "LANES": 4, "LEAST_BYTES": 0, "MOST_WORK": 999, "LEAST_SECTION_TILES": 8}
SMALL |= {"LEAST_SECTION_BLOCKS": 2, "MOST_COMMON": 0.3}
ENDS = ("kept", "zero", "copied", "wrapped", "padded")


@dataclass(frozen=True)
class Update:
    """How one array of a state changes: by a function of its own rows and of another's, `shifts` rows away."""

    ends: str
    shifts: tuple[int, ...]
    other: int
    kind: int
    in_place: bool


@dataclass(frozen=True)
class Stencil:
    lengths: tuple[int, ...]
    steps: int
    updates: tuple[Update, ...]
    has_number: bool
    has_force: bool
    uses_index: bool
    is_exact: bool  # coefficients have the rows that change, and no others


def drawn(rng: np.random.Generator) -> Stencil:
    count = int(rng.choice([1, 1, 1, 2, 3]))
    n = int(rng.integers(100, 400))
    lengths = tuple(n + int(rng.integers(0, 2)) for _ in range(count))
    updates = tuple(_update(rng, count) for _ in lengths)
    flags = [bool(rng.random() < share) for share in (0.3, 0.3, 0.3, 0.5)]
    return Stencil(lengths, int(rng.integers(17, 40)), updates, *flags)


def _update(rng: np.random.Generator, count: int) -> Update:
    shifts = tuple(sorted({int(s) for s in rng.integers(-2, 3, rng.integers(1, 4))}))
    return Update(
        str(rng.choice(ENDS)), shifts, int(rng.integers(count)), int(rng.integers(5)), bool(rng.random() < 0.5)
    )


def inputs(stencil: Stencil, rng: np.random.Generator) -> list[np.ndarray]:
    arrays = [rng.standard_normal(n) for n in stencil.lengths]
    longest, lengths = max(stencil.lengths), stencil.lengths
    rows = [len(range(*_inner(u, min(n, lengths[u.other])))) for n, u in zip(lengths, stencil.updates, strict=True)]
    coefficients = [rng.random(n if stencil.is_exact else longest) for n in rows]
    return [*arrays, *coefficients, rng.random((stencil.steps, longest)), np.asarray(rng.random())]


def _inner(u: Update, n: int) -> tuple[int, int]:
    """The rows that change by others."""
    return (0, n) if u.ends == "wrapped" else (max(0, -min(u.shifts)), n - max(0, *u.shifts))


def stepped(xp: Any, stencil: Stencil, state: tuple, cs: tuple, force: Any, number: Any, k: Any) -> tuple:
    new = []
    for x, c, u in zip(state, cs, stencil.updates, strict=True):
        new.append(_updated(xp, stencil, x, state[u.other], c, force, number, k, u))
    return tuple(new)


def _updated(xp: Any, stencil: Stencil, x: Any, other: Any, c: Any, force: Any, number: Any, k: Any, u: Update) -> Any:
    n = min(x.shape[0], other.shape[0])
    before, stop = _inner(u, n)
    after = n - stop
    inner = slice(before, stop)
    c = c if stencil.is_exact else c[inner]
    if u.ends == "wrapped":
        rolled = [xp.roll(other[:n], -s) for s in u.shifts]
        return xp.concatenate([_formula(xp, stencil, x[:n], rolled, c, force[k, :n], number, k, u), x[n:]])
    beside = [other[before + s : n - after + s] for s in u.shifts]
    part = _formula(xp, stencil, x[inner], beside, c, force[k, inner], number, k, u)
    if u.ends == "padded":
        return xp.pad(part, (before, x.shape[0] - n + after))
    y = x.copy() if u.in_place else xp.concatenate([x[:before], part, x[n - after :]])
    if u.in_place:
        y[inner] = part
    if u.ends == "zero":
        y[0] = 0.0
        y[-2:] = 0.0
    if u.ends == "copied":
        y[0] = y[1]
        y[-1] = y[-2]
    return y


def _formula(xp: Any, stencil: Stencil, x: Any, beside: list, c: Any, f: Any, number: Any, k: Any, u: Update) -> Any:
    total = sum(beside) * (1.0 / len(beside))
    if stencil.has_force:
        total = total + 0.1 * f
    if stencil.has_number:
        total = total * number
    if stencil.uses_index:
        total = total + 0.01 * k
    if u.kind == 0:
        return x - c * (x - total)
    if u.kind == 1:
        return 0.5 * x + 0.25 * xp.sin(total) * c
    if u.kind == 2:
        return x - 0.1 * xp.tanh(total) * (x - beside[0])
    if u.kind == 3:
        return 0.9 * xp.where(c > 0.5, total, x)
    return xp.where(total > 0.0, 0.5 * total, c * x)


def program(xp: Any, stencil: Stencil) -> Any:
    def run(*arrays: Any) -> Any:
        *arrays, force, number = arrays
        count = len(stencil.updates)
        state, cs = tuple(x.copy() for x in arrays[:count]), tuple(arrays[count:])
        for k in range(stencil.steps):
            state = stepped(xp, stencil, state, cs, force, number, k)
            if stencil.has_number:
                number = number * 0.99
        return state

    return run


def weighted(stencil: Stencil) -> Any:
    run = program(tp, stencil)

    def value(*arrays: Any) -> Any:
        return sum(tp.sum(x * x * (1.0 + k)) for k, x in enumerate(run(*arrays)))

    return value


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Arrays of a few rows are cut."""
    for name, value in SMALL.items():
        monkeypatch.setattr(tile_plan, name, value)


def check(stencil: Stencil, arrays: list[np.ndarray], engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Values in the order that is written, without fused additions, are the same to the bit."""
    expected = program(np, stencil)(*arrays)
    force = 2 * len(stencil.updates)  # whose gradient is not computed by tiles
    gradient = tp.value_and_grad(weighted(stencil), argnums=tuple(k for k in range(len(arrays)) if k != force))
    value = tp.tape_function(program(tp, stencil), engine=engine, strict=True)(*arrays)
    by_tiles = tp.tape_function(gradient, engine=engine)(*arrays)
    with monkeypatch.context() as patch:
        patch.setattr(tile_plan, "LEAST_TILES", 1 << 60)
        whole = tp.tape_function(program(tp, stencil), engine=engine, strict=True)(*arrays)
        plain = tp.tape_function(gradient, engine=engine)(*arrays)
    for x, y, z in zip(value, whole, expected, strict=True):
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))
        np.testing.assert_allclose(np.asarray(x), z, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(np.asarray(by_tiles[0]), np.asarray(plain[0]), rtol=1e-12)
    for a, b in zip(by_tiles[1], plain[1], strict=True):
        largest = float(np.max(np.abs(np.asarray(b))))
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=1e-10, atol=1e-12 * (1 + largest))


@pytest.mark.parametrize("part", range(PARTS))
def test_random_tiles(part: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for k in range(part, PROGRAMS, PARTS):
        rng = np.random.default_rng(k)
        stencil = drawn(rng)
        check(stencil, inputs(stencil, rng), "llvm", monkeypatch)


def test_random_tiles_on_the_other_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    for k in range(1):
        rng = np.random.default_rng(1000 + k)
        stencil = drawn(rng)
        check(stencil, inputs(stencil, rng), "numba", monkeypatch)


def upwind(u: Any, c: Any, xp: Any = tp) -> Any:
    u = u.copy()
    for _ in range(64):
        u[1:] -= c * (u[1:] - u[:-1])
    return u


def masked(u: Any, c: Any, xp: Any = tp) -> Any:
    u = u.copy()
    for _ in range(64):
        u[1:-1] = xp.where(c[1:] > 0.5, u[:-2], u[1:-1]) * 0.99
    return u


def downwind(u: Any, c: Any, xp: Any = tp) -> Any:
    u = u.copy()
    for _ in range(64):
        u[:-1] -= c * (u[:-1] - u[1:])
    return u


@pytest.mark.parametrize("step", [upwind, masked, downwind])
def test_coefficients_of_the_rows_that_change_alone(step: Any, field: list[np.ndarray]) -> None:
    """Tiles beside the ends read no rows that these do not have."""
    u, c = field[0], field[1][1:]
    seed = np.random.default_rng(1).standard_normal(u.shape)
    f = tp.tape_function(tp.value_and_grad(lambda u, c: tp.sum(step(u, c) * seed), argnums=(0, 1)))
    value, (du, dc) = f(u, c)
    assert "in tiles" in f.explain()
    np.testing.assert_allclose(float(value), np.sum(step(u, c, np) * seed), rtol=1e-10)
    far, size = np.array([0, 1, 2, 31, 57, 5_000, 9_940, 9_997, 9_998]), 1e-6
    for wanted, at, k in [(du, 0, far), (dc, 1, far)] if step is not masked else [(du, 0, far)]:
        for i in k:
            ends = []
            for sign in (1.0, -1.0):
                x = [u.copy(), c.copy()]
                x[at][i] += sign * size
                ends.append(np.sum((step(*x, np) - step(u, c, np)) * seed))
            np.testing.assert_allclose(np.asarray(wanted)[i], (ends[0] - ends[1]) / (2 * size), rtol=1e-5, atol=1e-6)


def with_source(u: Any, s: Any) -> Any:
    for t in range(64):
        u[1:] = u[1:] - 0.3 * (u[1:] - u[:-1]) + s[t]
    return u


def with_inflow(u: Any, s: Any) -> Any:
    for t in range(64):
        u[1:] = u[1:] - s[7] * (u[1:] - u[:-1])
        u[0] = s[t]
    return u


def with_outflow(u: Any, s: Any) -> Any:
    for _ in range(64):
        u[:-1] = u[:-1] - 0.3 * (u[:-1] - u[1:])
        u[-1] = s[-1]
    return u


def with_table(u: Any, s: Any) -> Any:
    for _ in range(64):
        u[:-1] = s[1] * u[:-1] + s[2:3] * u[1:]
    return u


def with_own_end(u: Any, s: Any) -> Any:
    n = len(u)
    for _ in range(64):
        u[1:] = u[1:] - s[: n - 1] * (u[1:] - u[:-1])
        u[0] = s[-1]
    return u


def check_along(f: Any, arrays: list[np.ndarray], rng: np.random.Generator) -> str:
    """Values, and gradients along a random direction by central differences; what is said of the loop."""
    seed = rng.standard_normal(arrays[0].shape)
    loss = tp.tape_function(tp.value_and_grad(lambda u, s: tp.sum(f(u.copy(), s) * seed), argnums=(0, 1)))
    compiled, (_, grads) = tp.tape_function(f), loss(*arrays)
    np.testing.assert_allclose(np.asarray(compiled(*arrays)), f(arrays[0].copy(), arrays[1]), rtol=1e-10, atol=1e-12)
    for k, (x, g) in enumerate(zip(arrays, grads, strict=True)):
        way, size = rng.standard_normal(x.shape), 1e-6
        ends = [[y + sign * size * way if j == k else y.copy() for j, y in enumerate(arrays)] for sign in (1.0, -1.0)]
        wanted = np.sum((f(*ends[0]) - f(*ends[1])) * seed) / (2 * size)
        np.testing.assert_allclose(np.sum(np.asarray(g) * way), wanted, rtol=1e-5, atol=1e-5)
    return compiled.explain()


ROWS = (64, 9_999, 10_000, 10_500, 30_000)
PLACES = [(f, n) for f in (with_source, with_inflow, with_outflow, with_table) for n in ROWS]


@pytest.mark.parametrize(("function", "rows"), [*PLACES, *((with_own_end, n) for n in ROWS[1:])])
def test_elements_at_places_of_their_own(function: Any, rows: int, field: list[np.ndarray]) -> None:
    """What is read at a number, or at the iteration's, is not cut with the rows, however long the array is."""
    rng = np.random.default_rng(rows)
    assert "two halves" in check_along(function, [field[0], rng.random(rows) / 2], rng) or function is with_own_end


def with_field(u: Any, s: Any) -> Any:
    for t in range(64):
        u[1:-1] = u[1:-1] - 0.3 * (u[2:] - u[:-2]) + s[t, 1:-1]
    return u


def test_the_gradient_by_a_field_of_each_step_adds_a_row_an_iteration(field: list[np.ndarray]) -> None:
    rng = np.random.default_rng(0)
    arrays = [field[0], rng.standard_normal((64, 10_000))]
    assert "in tiles" in check_along(with_field, arrays, rng)
    gradient = tp.tape_function(tp.grad(lambda u, s: tp.sum(with_field(u, s) ** 2), argnums=1))
    wide = [v.op for v in everywhere(optimised(gradient.graph(*arrays))[0]) if len(v.shape) == 2]
    assert ops.pad not in wide


def advection(u: Any, c: Any) -> Any:
    u = u.copy()
    for _ in range(64):
        u[1:] -= c[1:] * (u[1:] - u[:-1])
    return tp.sum(u * u)


@pytest.fixture
def field(monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    monkeypatch.undo()  # the sizes that pay
    rng = np.random.default_rng(0)
    return [rng.standard_normal(10_000), rng.random(10_000)]


def test_a_gradient_keeps_every_eighth_state_of_one_forward_loop(field: list[np.ndarray]) -> None:
    graph = optimised(tp.tape_function(tp.value_and_grad(advection, argnums=(0, 1))).graph(*field))[0]
    forward, backward = (v for v in graph.nodes if v.op is ops.for_)
    stacks = [p.shape for p in forward.attributes["body"].params if len(p.shape) > 1]
    assert [s[:2] for s in stacks] == [(2, 8)] and stacks[0][2] < 6000
    assert forward.attributes["parallel"] and backward.attributes["parallel"]


def test_results_are_the_same_on_any_number_of_threads(field: list[np.ndarray]) -> None:
    gradient = tp.value_and_grad(advection, argnums=(0, 1))
    one, two = (tp.tape_function(gradient, threads=n)(*field) for n in (1, 2))
    assert float(one[0]) == float(two[0])
    for a, b in zip(one[1], two[1], strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def test_explain_says_how_loops_are_cut(field: list[np.ndarray]) -> None:
    f = tp.tape_function(tp.value_and_grad(advection, argnums=(0, 1)))
    f(*field)
    (line,) = [line for line in f.explain().splitlines() if "in tiles" in line]
    assert line.startswith("     for at ") and "test_random_tiles.py" in line
    assert "8 iterations of 56 rows at a time, two halves of the rows on threads" in line
    assert "a gradient keeps one state in 8" in line
    few = tp.tape_function(advection)
    few(*(x[:100] for x in field))
    assert "one native loop of 64 iterations" in few.explain() and "in tiles" not in few.explain()
