"""Whether a call of a compiled function can be trusted: compiled values against interpreted ones, the first inf or nan,
and derivatives against finite differences.

>>> print(step.check(x))                     # doctest: +SKIP
step: 1 finding
  not finite: log at model.py:12 gives -inf at [3] of f32[8] from finite operands
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import replace
from io import StringIO
from typing import Any

import numpy as np

from tapefuse._config import Options, config
from tapefuse._errors import MissingGradientError
from tapefuse._records import dataclass
from tapefuse.compilation import compile_traced
from tapefuse.ir.graph import Graph, Value, reachable
from tapefuse.ir.halves import kind_of
from tapefuse.ir.interp import Watch, evaluate, in_double, observed
from tapefuse.ir.op import OPS
from tapefuse.ir.ops.effects import printing
from tapefuse.ir.passes.adjoint import gradient_graph
from tapefuse.ir.types import has_derivatives, real_dtype
from tapefuse.tracer.trace import Traced

NEAR = {2: 1e-2, 4: 1e-4, 8: 1e-9}  # how far compiled values may be from interpreted ones, by bytes of the dtype
STEP = 1e-6  # of finite differences, taken in float64
SLOPE = 1e-4  # how far derivatives may be from them


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong; `kind`: "divergence", "not finite", "derivative" or "inverse"."""

    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class CheckReport:
    """What `check` found. `skipped`: what it could not look at, and why."""

    name: str
    findings: tuple[Finding, ...]
    skipped: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        return not self.findings

    def __str__(self) -> str:
        n = len(self.findings)
        head = f"{self.name}: {'nothing found' if not n else f'{n} finding' + 's' * (n > 1)}"
        rows = [f"  {f.kind}: {f.text}" for f in self.findings]
        return "\n".join([head, *rows, *(f"  not looked at: {s}" for s in self.skipped)])


def check(traced: Traced, inputs: Sequence[Any], options: Options, name: str) -> CheckReport:
    """Look at one call of a traced function; its variables are read, not assigned."""
    graph = traced.graph
    arrays = [np.asarray(x) for x in (*inputs, *(v.numpy() for v in traced.variables), *traced.arrays)]
    with redirect_stdout(StringIO()):  # of debug_print, time and again
        return _report(graph, arrays, options, name)


def _report(graph: Graph, arrays: Sequence[np.ndarray], options: Options, name: str) -> CheckReport:
    findings = [*_not_finite(graph, arrays), *_inverses(graph, arrays)]
    skipped = []
    if loc := printing(graph):
        skipped.append(f"compiled values, since {loc} prints and such functions are interpreted")
    else:
        findings += _divergence(graph, arrays, replace(options, outputs="tensor"))
    try:
        findings += _derivatives(graph, arrays)
    except MissingGradientError as error:
        skipped.append(f"derivatives: {error}")
    return CheckReport(name, tuple(findings), tuple(skipped))


# -- inf and nan ------------------------------------------------------------------------------------------------------


class _Found(Exception):
    """The first operation that makes something that is not finite."""

    def __init__(self, text: str):
        self.text = text


def _not_finite(graph: Graph, arrays: Sequence[np.ndarray]) -> Iterator[Finding]:
    for p, a in zip(graph.params, arrays, strict=True):
        if not _is_finite(a):
            yield Finding("not finite", f"parameter {p.name or '?'} has {_first_bad(a)} of {p.type}")
            return

    def watch(v: Value, xs: Sequence[np.ndarray], y: np.ndarray) -> None:
        """Stops at the first one. Loops make nothing that was not seen inside; rows that none wrote are no values."""
        known = v.op is None or v.op.name in ("const", "empty", "result") or _is_finite(y)
        if not known and all(_is_finite(x) for x in xs if isinstance(x, np.ndarray)):
            raise _Found(f"{_called(v)} gives {_first_bad(y)} of {v.type} from finite operands")

    try:
        observed(graph, arrays, watch)
    except _Found as found:
        yield Finding("not finite", found.text)


def _is_finite(x: np.ndarray) -> bool:
    return not has_derivatives(x.dtype) or bool(np.isfinite(x).all())


def _first_bad(x: np.ndarray) -> str:
    place = np.argwhere(~np.isfinite(x))[0]
    return f"{x[tuple(place)]} at {place.tolist()}" if x.ndim else f"{x[()]}"


def _called(v: Value) -> str:
    assert v.op is not None
    return f"{v.op.name} at {v.loc}" if v.loc else v.op.name


# -- steps that can be undone -----------------------------------------------------------------------------------------


def _inverses(graph: Graph, arrays: Sequence[np.ndarray]) -> Iterator[Finding]:
    """The first step whose inverse does not give what the step was given (`tp.invertible`)."""

    def watch(v: Value, xs: Sequence[np.ndarray], y: np.ndarray) -> None:
        if v.op is not OPS["invertible"] or v.attributes["number"]:
            return
        inverse, n = v.attributes["inverse"], v.attributes["count"]
        for x, undone in zip(xs[n : 2 * n], evaluate(inverse, *xs[:n], *xs[2 * n :]), strict=True):
            if not _near(undone, x):
                text = _compared(undone, x, ("undone", "given"))
                raise _Found(f"{inverse.name}, the inverse of the step at {v.loc}: what the step takes is {text}")

    try:
        observed(graph, arrays, watch)
    except _Found as found:
        yield Finding("inverse", found.text)


# -- compiled against interpreted -------------------------------------------------------------------------------------


def _divergence(graph: Graph, arrays: Sequence[np.ndarray], options: Options) -> Iterator[Finding]:
    """The first operation whose compiled result differs, if any output does."""
    want, got = evaluate(graph, *arrays), _compiled(graph, arrays, options)
    if all(_near(a, b) for a, b in zip(got, want, strict=True)):
        return
    nodes = [v for v in graph.nodes if v.op is not None and not v.op.is_region and v.args]
    wide = Graph(graph.params, tuple(nodes), graph.name)
    pairs = zip(nodes, _compiled(wide, arrays, options), evaluate(wide, *arrays), strict=True)
    for v, a, b in pairs:
        if not _near(a, b):
            yield Finding("divergence", f"{_called(v)} is {_compared(a, b)} of {v.type}")
            return
    k, a, b = next((k, a, b) for k, (a, b) in enumerate(zip(got, want, strict=True)) if not _near(a, b))
    loc = f" ({_called(graph.outs[k])})" if graph.outs[k].op else ""
    yield Finding("divergence", f"output {k}{loc} is {_compared(a, b)}; no operation alone differs")


def _compiled(graph: Graph, arrays: Sequence[np.ndarray], options: Options) -> list[np.ndarray]:
    n, m = len(graph.params), len(graph.outs)
    with config(disable_jit=False):
        entry = compile_traced(Traced(graph, n, (), (), (), m, (), created=False), options).call
    outs = entry(*[np.ascontiguousarray(a) if a.ndim else a for a in arrays])
    return [np.asarray(y) for y in (outs if isinstance(outs, tuple) else (outs,))]


def _near(a: np.ndarray, b: np.ndarray) -> bool:
    if not has_derivatives(a.dtype):
        return bool(np.array_equal(a, b))
    limit = NEAR[real_dtype(a.dtype).itemsize]
    scale = float(np.max(np.abs(b[np.isfinite(b)]), initial=0.0))
    with np.errstate(all="ignore"):
        return bool(np.allclose(a, b, rtol=limit, atol=limit * scale, equal_nan=True))


def _compared(a: np.ndarray, b: np.ndarray, names: tuple[str, str] = ("compiled", "interpreted")) -> str:
    with np.errstate(all="ignore"):
        apart = ~np.isclose(a, b, rtol=NEAR.get(real_dtype(a.dtype).itemsize, 0.0), atol=0.0, equal_nan=True)
    place = np.argwhere(apart)
    where = tuple(place[0]) if len(place) and a.ndim else ()
    at = f" at {list(map(int, where))}" if where else ""
    return f"{a[where]} {names[0]} and {b[where]} {names[1]}{at}"


# -- derivatives ------------------------------------------------------------------------------------------------------


def _derivatives(graph: Graph, arrays: Sequence[np.ndarray]) -> Iterator[Finding]:
    """Parameters along which the derivative of a weighted sum of the outputs is not its finite difference."""
    outs = [k for k, v in enumerate(graph.outs) if has_derivatives(v.dtype)]
    wrt = [k for k, p in enumerate(graph.params) if has_derivatives(p.dtype)]
    wide = [a.astype(in_double(a.dtype)) for a in arrays]
    held: list[np.ndarray] = []
    values = observed(graph, wide, _constants(held), wide=True)
    if not outs or not wrt or not all(_is_finite(values[k]) for k in outs):
        return
    rng = np.random.default_rng(0)
    seeds = [_drawn(rng, values[k]) for k in outs]
    found = observed(gradient_graph(graph, wrt), [*wide, *seeds], _ignore, wide=True)[len(graph.outs) :]
    for k, g in zip(wrt, found, strict=True):
        direction = _drawn(rng, wide[k])
        h = STEP * max(1.0, float(np.max(np.abs(wide[k]), initial=0.0)))
        left, right = (
            _weighted(graph, [a + s * h * direction if j == k else a for j, a in enumerate(wide)], held, outs, seeds)
            for s in (-1, 1)
        )
        slope, ours = (right - left) / (2 * h), _paired(g, direction)
        if not abs(ours - slope) <= SLOPE * max(1.0, abs(slope), abs(ours)):
            p = graph.params[k]
            text = f"by parameter {p.name or k} it is {ours:.6g}, by finite differences {slope:.6g}"
            yield Finding("derivative", f"{text}{_kink(graph, wide, k)}")


def _weighted(
    graph: Graph,
    arrays: Sequence[np.ndarray],
    held: Sequence[np.ndarray],
    outs: Sequence[int],
    seeds: Sequence[np.ndarray],
) -> float:
    values = observed(graph, arrays, _with_constants(iter(held)), wide=True)
    return sum(_paired(values[k], s) for k, s in zip(outs, seeds, strict=True))


def _drawn(rng: np.random.Generator, like: np.ndarray) -> np.ndarray:
    real = rng.uniform(0.5, 1.5, like.shape)
    return real + 1j * rng.uniform(0.5, 1.5, like.shape) if like.dtype.kind == "c" else real


def _paired(a: np.ndarray, b: np.ndarray) -> float:
    """The sum of products of real parts and of imaginary parts."""
    return float(np.sum((np.conj(a) * b).real))


_HELD = (OPS["stop_gradient"], OPS["credit"])


def _constants(held: list[np.ndarray]) -> Watch:
    """Keeps what is constant to derivatives: the results of stop_gradient, such as variables after an assignment."""

    def watch(v: Value, xs: Sequence[np.ndarray], y: np.ndarray) -> None:
        if v.op in _HELD:
            held.append(xs[-1])

    return watch


def _with_constants(held: Iterator[np.ndarray]) -> Watch:
    """Puts them in, so that a difference does not see them move."""

    def watch(v: Value, xs: Sequence[np.ndarray], y: np.ndarray) -> np.ndarray | None:
        if v.op not in _HELD:
            return None
        before = next(held, xs[-1])
        return before if len(xs) == 1 else y + (xs[-1] - before)

    return watch


def _ignore(v: Value, xs: Sequence[np.ndarray], y: np.ndarray) -> None:
    pass


def _kink(graph: Graph, arrays: Sequence[np.ndarray], k: int) -> str:
    """The first operation on the way from parameter `k` whose own rule is not what its differences say."""
    places: list[Value] = []

    def watch(v: Value, xs: Sequence[np.ndarray], y: np.ndarray) -> None:
        is_on_path = v.op is not None and v.op.vjp and has_derivatives(y.dtype) and graph.params[k] in reachable([v])
        if not places and is_on_path and not _rule_holds(v, xs, y):
            places.append(v)

    observed(graph, arrays, watch, wide=True)
    return f"; the first difference is in {_called(places[0])}" if places else ""


def _rule_holds(v: Value, xs: Sequence[np.ndarray], y: np.ndarray) -> bool:
    assert v.op is not None
    assert v.op.vjp is not None
    attrs = v.attributes
    if v.op.name in ("result", "stop_gradient", "credit") or any(not isinstance(x, np.ndarray) for x in xs):
        return True
    try:
        grads = v.op.vjp(np.ones_like(y), y, *xs, **attrs)
        for j, (x, g) in enumerate(zip(xs, grads, strict=True)):
            if kind_of(x.dtype) == "f":
                h = STEP * max(1.0, float(np.max(np.abs(x), initial=0.0)))
                moved = [[*xs[:j], x + s * h, *xs[j + 1 :]] for s in (-1, 1)]
                left, right = (np.sum(v.op.ref(*m, **attrs)) for m in moved)
                slope, ours = float(right - left) / (2 * h), 0.0 if g is None else float(np.sum(g))
                if not abs(slope - ours) <= SLOPE * max(1.0, abs(slope), abs(ours)):
                    return False
    except (TypeError, ValueError):  # attributes with symbols: the op is not looked at alone
        return True
    return True
