"""Comparing runs of one graph: how far rounding alone may drive them apart, and derivatives by finite differences.

`noise(graph, arrays)` runs the graph several times, each float result moved at random by a few units in the last place.
What the outputs then spread is what two correct implementations may differ by. Where a bool or an integer changes too,
the graph is unstable at this input (a comparison, rounding or tie is decided by the noise) and proves nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tapefuse._errors import TapefuseError
from tapefuse.ir.graph import Graph, Value, param
from tapefuse.ir.interp import bind, substituted
from tapefuse.ir.op import OPS, Literal
from tapefuse.ir.types import Type, real_dtype, substitute

GRAPHS = ("body", "branches", "cond", "then")  # attributes of regions that hold graphs
ULPS = 8  # of noise: more than any op errs
RUNS = 3
FOURIER = ("dft", "rdft", "irdft")
SUMS = ("reduce_sum", "reduce_prod", "matmul", "scatter_add", "add_at")  # terms are rounded in an order of one's own
SUMS += ("put_add",)
SUMS += ("conv", "conv_input", "conv_kernel", "window_sum", "window_spread", "window_place")
SUMS += FOURIER
EXACT = ("const", "iota", "dim", "reshape", "transpose", "broadcast", "slice", "pad", "concat", "flip", "gather", "neg")
EXACT += ("abs", "sign", "relu", "maximum", "minimum", "select", "floor", "ceil", "round", "stop_gradient")
EXACT += ("missing_gradient", "reduce_max", "reduce_min", "window_max", "window_pick", "put", "put_at")

PERIODIC = ("sin", "cos", "tan")
WANDERED = 0.1  # radians

MOST_TURNS = 10_000  # of a random program's loop

Arrays = Sequence[np.ndarray]
Hook = Callable[[Value, list[np.ndarray], Callable[[list[np.ndarray]], np.ndarray]], np.ndarray]


def run(graph: Graph, arrays: Arrays, hook: Hook | None = None) -> tuple[np.ndarray, ...]:
    """The outputs; `hook(v, operands, ref)` may stand in for the evaluation of a node, also of one inside a region."""
    with np.errstate(all="ignore"):
        return _run(graph, arrays, bind(graph, arrays), hook)


def _inner(env: Mapping[str, Any], hook: Hook | None) -> Callable[..., tuple[np.ndarray, ...]]:
    """What runs the graphs of a region. A program that is made smaller may lose what ends its loop: TapefuseError."""
    turns = itertools.count()

    def inner(body: Graph, xs: Arrays, bound: Mapping[str, Any]) -> tuple[np.ndarray, ...]:
        if next(turns) > MOST_TURNS:
            raise TapefuseError("a loop does not end")
        return _run(body, list(xs), {**env, **bound}, hook)

    return inner


def _run(graph: Graph, arrays: Arrays, env: Mapping[str, Any], hook: Hook | None) -> tuple[np.ndarray, ...]:
    values: dict[Value, Any] = dict(zip(graph.params, arrays, strict=True))
    for v in graph.nodes:
        xs = [values[a] for a in v.args]
        if v.op.is_region:
            attrs = {k: x if k in GRAPHS else substitute(x, env) for k, x in v.attrs}
            values[v] = v.op.ref(_inner(env, hook), *xs, **attrs)
            continue
        if v.op is OPS["result"]:
            values[v] = xs[0][v.attributes["index"]]
            continue
        attrs = substituted(v, env)
        ref = lambda xs, v=v, attrs=attrs: np.asarray(v.op.ref(*xs, **attrs))
        values[v] = hook(v, xs, ref) if hook else ref(xs)
    return tuple(values[v] for v in graph.outs)


def _moved(rng: np.random.Generator, x: np.ndarray, ulps: float = ULPS) -> np.ndarray:
    if x.dtype.kind not in "fc":
        return x
    step = ulps * float(np.finfo(x.dtype).eps) * rng.uniform(-1, 1, x.shape)
    if x.dtype.kind == "c":  # either part by units of the modulus
        step = step * np.exp(1j * rng.uniform(0, 2 * np.pi, x.shape))
        return np.asarray(x + np.abs(x) * step, x.dtype)
    return np.asarray(x * (1 + step), x.dtype)


def noise(graph: Graph, arrays: Arrays, seed: int = 0) -> tuple[list[np.ndarray], list[np.ndarray]] | None:
    """(outputs, how far an element of each may be off), or None where the graph is unstable at this input."""
    rng = np.random.default_rng(seed)
    discrete: list[np.ndarray] = []

    periodic: list[np.ndarray] = []  # their values prove nothing where noise moves the argument by a part of the period

    def plain(v: Value, xs: list[np.ndarray], ref: Any) -> np.ndarray:
        if v.op.name.startswith(("conv", *FOURIER)) and not all(np.isfinite(x).all() for x in xs):
            raise _Unstable  # whether nan is multiplied by the zeros of a padding or of a sine is not promised
        y = ref(xs)
        if _is_step(v):
            discrete.append(y)
        if v.op.name in PERIODIC:
            periodic.append(xs[0])
        return y

    try:
        base = run(graph, arrays, plain)
    except _Unstable:
        return None
    expected, arguments = iter(()), iter(())

    def noisy(v: Value, xs: list[np.ndarray], ref: Any) -> np.ndarray:
        xs = [_moved(rng, x) if v.op.name in SUMS or _may_fuse(v, a) else x for a, x in zip(v.args, xs, strict=True)]
        y = ref(xs)
        if v.op.name in PERIODIC and (_distance(xs[0], next(arguments)) > WANDERED).any():
            raise _Unstable
        if _is_step(v) and not np.array_equal(y, next(expected, None), equal_nan=v.dtype.kind in "fc"):
            raise _Unstable
        is_whole = v.op.name in ("add", "sub", "mul") and all(np.array_equal(x, np.rint(x)) for x in xs)
        terms = max((x.size for x in xs), default=1) / max(y.size, 1) if v.op.name in SUMS else 1
        return y if v.op.name in EXACT or is_whole else _moved(rng, y, max(ULPS, terms**0.5))

    spread = [np.zeros(y.shape) for y in base]
    for _ in range(RUNS):
        expected, arguments = iter(discrete), iter(periodic)
        try:
            found = run(graph, arrays, noisy)
        except _Unstable:
            return None
        spread = [np.fmax(s, _distance(a, b)) for s, a, b in zip(spread, base, found, strict=True)]
    return list(base), [_tolerance(y, s) for y, s in zip(base, spread, strict=True)]


def _is_step(v: Value) -> bool:
    return v.dtype.kind not in "fc" or v.op.name in ("floor", "ceil", "round", "floordiv", "sign")


def _may_fuse(v: Value, a: Value) -> bool:
    """Whether the product `a` may enter the sum `v` unrounded: a fused multiply-add."""
    return v.op.name in ("add", "sub") and a.op is not None and a.op.name not in ("const", "iota", "dim", "cast")


class _Unstable(Exception):
    pass


def _distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    if a.dtype.kind not in "fc":
        return np.zeros(a.shape)
    with np.errstate(invalid="ignore"):
        return np.where(np.isfinite(a) & np.isfinite(b), np.abs(a.astype(np.result_type(a, float)) - b), 0.0)


def _tolerance(y: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """An element's own spread, and a tenth of the largest: three runs may be lucky at one element, not at all."""
    if y.dtype.kind not in "fc" or not y.size:
        return np.zeros(y.shape)
    info = np.finfo(y.dtype)
    own = np.where(np.isfinite(y), np.abs(y), 0.0).astype(float) * 4 * info.eps
    return 2 * spread + 0.25 * spread.max() + own + 16 * float(info.tiny)


def difference(wanted: Arrays, found: Arrays, tolerance: Sequence[np.ndarray]) -> str | None:
    """What is wrong with the outputs `found`, or None."""
    for k, (w, f, t) in enumerate(zip(wanted, found, tolerance, strict=True)):
        if (w.dtype, w.shape) != (f.dtype, f.shape):
            return f"output {k} is {f.dtype}{list(f.shape)}, expected {w.dtype}{list(w.shape)}"
        with np.errstate(invalid="ignore"):
            bad = (
                ~((w == f) | (_distance(w, f) <= t) & np.isfinite(w) & np.isfinite(f))
                if w.dtype.kind in "fc"
                else w != f
            )
        if w.dtype.kind in "fc":
            bad &= ~(np.isnan(w) & np.isnan(f))
        if bad.any():
            at = tuple(map(int, np.argwhere(bad)[0]))
            number = f"{int(bad.sum())} of {w.size} off"
            return f"output {k} at {at} is {f[at]!r}, expected {w[at]!r} within {float(t[at]):.3g} ({number})"
    return None


# -- the same graph in another dtype ----------------------------------------------------------------------------------


def in_double(graph: Graph) -> Graph:
    """The graph with float64 in place of float32, complex128 in place of complex64, constants as they are."""
    env: dict[Value, Value] = {p: param(_double(p.type), p.name) for p in graph.params}
    for v in graph.nodes:
        env[v] = v.op.emit(*(env[a] for a in v.args), **{k: _double(x) for k, x in v.attrs})
    return Graph(tuple(env[p] for p in graph.params), tuple(env[v] for v in graph.outs), graph.name)


def _double(x: Any) -> Any:
    if isinstance(x, Type):
        return Type(_double(x.dtype), x.shape)
    if isinstance(x, Literal):
        return Literal(x.array.astype(_double(x.array.dtype)))
    if isinstance(x, Graph):
        return in_double(x)
    if isinstance(x, tuple):
        return tuple(map(_double, x))
    return np.result_type(x, np.float64) if isinstance(x, np.dtype) and x.kind in "fc" else x


def as_double(arrays: Arrays) -> list[np.ndarray]:
    return [a.astype(_double(a.dtype)) for a in arrays]


# -- finite differences -----------------------------------------------------------------------------------------------


def slope(graph: Graph, arrays: Arrays, direction: Arrays, weights: Arrays) -> tuple[float, float] | None:
    """(derivative, error) of the weighted sum of the float and complex outputs along a direction, in double precision.

    What `stop_gradient` lets through stays as it is. None where one-sided and central differences at two steps show a
    kink, a jump, or too much curvature to tell.
    """
    step, frozen, held = 2e-5, [], iter(())

    def freeze(v: Value, xs: list[np.ndarray], ref: Any) -> np.ndarray:
        y = ref(xs)
        if v.op is OPS["stop_gradient"]:
            frozen.append(y)
        return y

    def thaw(v: Value, xs: list[np.ndarray], ref: Any) -> np.ndarray:
        return next(held, ref(xs)) if v.op is OPS["stop_gradient"] else ref(xs)

    def total(outs: Arrays) -> float:
        return dot(weights, [y for y in outs if y.dtype.kind in "fc"])

    middle = total(run(graph, arrays, freeze))

    values = {}
    for k in (-2, -1, 1, 2):
        held = iter(frozen)
        moved = [a + k * step * d if a.dtype.kind in "fc" else a for a, d in zip(arrays, direction, strict=True)]
        values[k] = total(run(graph, moved, thaw))
    wide, narrow = (values[2] - values[-2]) / (4 * step), (values[1] - values[-1]) / (2 * step)
    forward, backward = (values[1] - middle) / step, (middle - values[-1]) / step
    scale = 1 + abs(narrow) + abs(middle)
    found = (4 * narrow - wide) / 3
    if abs(wide - narrow) > 1e-5 * scale or abs(forward - backward) > 1e-3 * (1 + abs(narrow)):
        return None
    return found, 1e-6 * scale + abs(wide - narrow)


def random_direction(arrays: Arrays, seed: int) -> list[np.ndarray]:
    """In the space of all float and complex inputs; zero for the others."""
    rng = np.random.default_rng(seed)
    return [normal(rng, a.shape, a.dtype) if a.dtype.kind in "fc" else np.zeros(a.shape) for a in arrays]


def normal(rng: np.random.Generator, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    x = rng.normal(size=shape)
    return np.asarray(x + 1j * rng.normal(size=shape) if np.dtype(dtype).kind == "c" else x, dtype)


def dot(a: Arrays, b: Arrays) -> float:
    """The sum of products of real parts and of imaginary parts."""
    return float(sum(np.sum(np.conj(x) * y).real for x, y in zip(a, b, strict=True)))


# -- complex numbers as programs have them ----------------------------------------------------------------------------


def pairs(x: Any) -> np.ndarray:
    """Complex numbers with their parts along a last axis."""
    x = np.asarray(x, order="C")
    return x[..., None].view(real_dtype(x.dtype)) if x.dtype.kind == "c" else x


def numbers(x: np.ndarray, dtype: np.dtype) -> np.ndarray:
    return np.ascontiguousarray(x).view(dtype)[..., 0] if dtype.kind == "c" else x


def on_pairs(run: Callable[..., Arrays], graph: Graph, arrays: Arrays) -> list[np.ndarray]:
    """The outputs of `graph` by a run of the same graph on real numbers (`ir.passes.complex`)."""
    return [numbers(y, v.dtype) for y, v in zip(run(*map(pairs, arrays)), graph.outs, strict=True)]
