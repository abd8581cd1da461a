"""Random Python functions with loops and branches: the same numbers as plain Python with NumPy, whatever runs them.

2,000 programs run eagerly on tensors, parts of them traced: interpreted and compiled. Gradients are compared with
finite differences of the plain function. TAPEFUSE_EXAMPLES=20000 draws ten times as many of everything;
TAPEFUSE_SHARE=1 runs all 2,000 in each way, and so many gradients: 5 minutes on LLVM, 10 on Numba.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import tapefuse as tp
from tests.loop_programs import Program, lines_of, load, random_program, reduced

PROGRAMS = int(os.environ.get("TAPEFUSE_EXAMPLES", "2000"))
PARTS = 4  # tests that share them, so that workers are equally busy
SHARE = os.environ.get("TAPEFUSE_SHARE")
SHARES = {"eager": 1.0, "interpreted": 0.1, "llvm": 0.1, "numba": 0.012}  # of the programs, that are run this way
GRADIENTS = {"eager": 0.05, "interpreted": 0.03, "llvm": 0.015, "numba": 0.002}  # that are differentiated
LARGEST = {"eager": 5, "interpreted": 5, "llvm": 4, "numba": 2}  # statements, nested ones aside
REFUSED = "is bounded by"  # in the message for a slice whose size is known at run time only
FLAGS: dict[str, dict[str, Any]] = {
    "interpreted": {"disable_jit": True},
    "llvm": {"engine": "llvm"},
    "numba": {"engine": "numba"},
}
STEP = 1e-6  # of finite differences
NEAR = 1e-9  # how far values may be apart, relative to 1
Results = tuple[Any, ...]


def budget(share: float, parts: int = 1) -> settings:
    examples = PROGRAMS * (share if SHARE is None else float(SHARE)) / parts
    phases, checks = (Phase.explicit, Phase.generate), list(HealthCheck)
    return settings(max_examples=max(1, round(examples)), deadline=None, phases=phases, suppress_health_check=checks)


def seeds(series: str) -> st.SearchStrategy[str]:
    return st.integers(0, 2**64 - 1).map(lambda seed: f"{series} {seed}")


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("programs")


def results(found: Any) -> Results:
    """As arrays; a Python float becomes a float32, what a function that returns one makes of it."""
    found = found if isinstance(found, tuple) else (found,)
    return tuple(np.float32(x) if type(x) is float else np.asarray(x) for x in found)


def plainly(function: Callable, arguments: Sequence[Any]) -> Results:
    with np.errstate(all="ignore"):
        return results(function(*(a.copy() if isinstance(a, np.ndarray) else a for a in arguments)))


def as_tensors(arguments: Sequence[Any]) -> list[Any]:
    return [tp.constant(a) for a in arguments]


def on(way: str, function: Callable) -> Callable[[Sequence[Any]], Results]:
    """The function as a callable on NumPy arguments: eagerly on tensors, or traced and run in one of the other ways."""
    if way == "eager":
        return lambda arguments: results(function(*as_tensors(arguments)))
    traced = tp.tape_function(function)

    def run(arguments: Sequence[Any]) -> Results:
        with tp.config(**FLAGS[way]):
            return results(traced(*as_tensors(arguments)))

    return run


# -- values -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("way", SHARES)
def test_values(way: str, part: int, directory: Path) -> None:
    counts: Counter[str] = Counter()

    @budget(SHARES[way], PARTS)
    @given(seeds(f"loops {way} {part}"))
    def agree(seed: str) -> None:
        program = random_program(seed, LARGEST[way])
        if disagreement(program, way, directory, counts):
            smaller = smallest(program, lambda p: disagreement(p, way, directory))
            raise AssertionError(f"{disagreement(smaller, way, directory)}\n{smaller.source}")

    agree()
    assert counts["unstable"] < 0.05 * counts["runs"] + 2, counts
    assert counts["refused"] < 0.05 * counts["runs"] + 2, counts


NUMPYS = """\
    b = -0.3
    for i in range(1, k):
        b = np.maximum(np.sin(-0.61 + b), 0.21)
    c = 0.5
    while c < s + 2.0:
        c += 0.1 + 0.1 * np.sin(c) ** 2
    return r, b, c"""


@pytest.mark.parametrize("way", SHARES)
def test_what_numpy_makes_of_a_python_number_is_no_python_number(way: str, directory: Path) -> None:
    """The programs that a loop of `np.sin(b)` was found in had a float32 for a float64."""
    program = Program(tuple(lines_of(NUMPYS)))
    assert disagreement(program, way, directory) is None


def smallest(program: Program, problem: Callable[[Program], str | None]) -> Program:
    """A smaller program with a problem of the same kind."""
    kind = _kind(problem(program))

    def fails(p: Program) -> bool:
        try:
            return _kind(problem(p)) == kind
        except (NameError, SyntaxError):  # plain Python refuses it
            return False

    return reduced(program, fails)


def _kind(problem: str | None) -> str:
    return re.sub(r"'[^']*'|[^A-Za-z ]+", "", str(problem))[:60]


def disagreement(program: Program, way: str, directory: Path, counts: Counter[str] | None = None) -> str | None:
    """Where a run of the program and plain Python differ, for two sets of arguments."""
    counts = Counter() if counts is None else counts
    function = load(program, directory)
    run = on(way, function)
    for number in range(2):
        arguments = program.arguments(number)
        wanted = plainly(function, arguments)
        counts["runs"] += 1
        if not is_stable(function, arguments, wanted):
            counts["unstable"] += 1
            continue
        try:
            found = run(arguments)
        except tp.ConcretizationError as e:
            if REFUSED not in str(e):
                return f"{way}, arguments {number}: {e}"
            counts["refused"] += 1
            continue
        except Exception as e:  # whatever it is, it should not be: plain Python runs the program
            return f"{way}, arguments {number}: {type(e).__name__}: {e}"
        if problem := difference(wanted, found):
            return f"{way}, arguments {number}: {problem}"
    return None


def is_stable(function: Callable, arguments: Sequence[Any], wanted: Results) -> bool:
    """Whether floats that are a little different lead to results that are: no condition is decided by rounding."""
    rng = np.random.default_rng(0)
    moved = [a * (1 + 1e-11 * rng.uniform(-1, 1, np.shape(a))) if a.dtype.kind == "f" else a for a in arguments]
    moved = [a if isinstance(a, np.ndarray) else a[()] if isinstance(a, np.generic) else np.float64(a) for a in moved]
    found = plainly(function, moved)
    return all(
        w.dtype == f.dtype and w.shape == f.shape and np.allclose(w, f, rtol=NEAR, atol=NEAR)
        for w, f in zip(wanted, found, strict=True)
    )


def difference(wanted: Results, found: Results) -> str | None:
    if len(wanted) != len(found):
        return f"{len(found)} results, expected {len(wanted)}"
    for k, (w, f) in enumerate(zip(wanted, found, strict=True)):
        if w.shape != f.shape or w.dtype.kind != f.dtype.kind or (w.dtype == np.float64 and f.dtype != np.float64):
            return f"result {k} is {f.dtype}{list(f.shape)}, expected {w.dtype}{list(w.shape)}"
        near = 1e-6 if w.dtype == np.float32 else NEAR
        if not np.allclose(w, f, rtol=near, atol=near):
            return f"result {k} is {f.tolist()}, expected {w.tolist()}"
    return None


# -- gradients --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", GRADIENTS)
def test_gradients(way: str, directory: Path) -> None:
    counts: Counter[str] = Counter()

    @budget(GRADIENTS[way])
    @given(seeds(f"gradients {way}"))
    def agree(seed: str) -> None:
        program = random_program(seed, LARGEST[way])
        if wrong_slope(program, way, directory, counts):
            smaller = smallest(program, lambda p: wrong_slope(p, way, directory))
            raise AssertionError(f"{wrong_slope(smaller, way, directory)}\n{smaller.source}")

    agree()
    assert counts["discarded"] < 0.3 * counts["slopes"] + 2, counts


def wrong_slope(program: Program, way: str, directory: Path, counts: Counter[str] | None = None) -> str | None:
    """Whether the derivative along a random direction is another one than finite differences show."""
    counts = Counter() if counts is None else counts
    function = load(program, directory)
    arguments = program.arguments(0)
    rng = np.random.default_rng(1)
    direction = [rng.normal(size=np.shape(a)) if a.dtype.kind == "f" else None for a in arguments]
    counts["slopes"] += 1
    expected = slope(function, arguments, direction)
    if expected is None:
        counts["discarded"] += 1
        return None
    try:
        gradients = gradient(way, function, arguments)
    except tp.ConcretizationError as e:
        counts["discarded"] += REFUSED in str(e)
        return None if REFUSED in str(e) else f"gradient, {way}: {e}"
    except Exception as e:  # as above
        return f"gradient, {way}: {type(e).__name__}: {e}"
    terms = [d * g for d, g in zip(direction, gradients, strict=True) if d is not None and g is not None]
    found = float(sum(np.sum(t) for t in terms))
    value, error = expected
    return None if abs(found - value) <= error else f"gradient, {way}: {found}, finite differences give {value}"


def gradient(way: str, function: Callable, arguments: Sequence[Any]) -> list[np.ndarray | None]:
    """The derivatives of the weighted sum of the float results by the float arguments."""

    def differentiated(*tensors: Any) -> tuple:
        with tp.GradientTape() as tape:
            sources = [t for t in tensors if t.dtype.kind == "f"]
            for t in sources:
                tape.watch(t)
            found = traced(*tensors)
            target = total(found if isinstance(found, tuple) else (found,)) + 0.0 * tensors[0]
        return tuple(tape.gradient(target, sources, unconnected_gradients="zero"))

    traced = function if way == "eager" else tp.tape_function(function)
    tensors = as_tensors(arguments)
    if way == "eager":
        found = differentiated(*tensors)
    else:
        with tp.config(**FLAGS[way]):
            found = tp.tape_function(differentiated)(*tensors)
    each = iter(found)
    return [np.asarray(next(each)) if a.dtype.kind == "f" else None for a in arguments]


def total(found: Sequence[Any]) -> Any:
    """A weighted sum of all elements that are floats."""
    parts: list[Any] = [0.0]
    for y in found:
        if isinstance(y, float) or hasattr(y, "dtype") and y.dtype.kind == "f" and not y.shape:
            parts.append(y)
        elif hasattr(y, "dtype") and y.dtype.kind == "f":
            weights = 1.0 + 0.1 * np.arange(int(np.prod(y.shape))).reshape(y.shape)
            parts.append((y * weights).sum())
    return sum(parts[1:], start=parts[0])


def slope(function: Callable, arguments: Sequence[Any], direction: Sequence[Any]) -> tuple[float, float] | None:
    """(derivative, error), or None near a kink or jump."""

    def at(step: float) -> float:
        moved = [a if d is None else a + step * d for a, d in zip(arguments, direction, strict=True)]
        moved = [np.float64(a) if not isinstance(a, np.ndarray) and a.dtype.kind == "f" else a for a in moved]
        return float(total(plainly(function, moved)))

    middle, values = at(0.0), {k: at(k * STEP) for k in (-2, -1, 1, 2)}
    wide, narrow = (values[2] - values[-2]) / (4 * STEP), (values[1] - values[-1]) / (2 * STEP)
    forward, backward = (values[1] - middle) / STEP, (middle - values[-1]) / STEP
    scale = 1 + abs(narrow) + abs(middle)
    if abs(wide - narrow) > 1e-5 * scale or abs(forward - backward) > 1e-3 * scale:
        return None
    return (4 * narrow - wide) / 3, 1e-6 * scale + 2 * abs(wide - narrow)


def test_programs_have_the_promised_variety() -> None:
    text = "".join(random_program(seed).source for seed in range(300))
    wanted = [
        "for ",
        "while ",
        "break",
        "continue",
        "elif",
        "else:",
        " and ",
        " or ",
        "not ",
        "range(n)",
        "range(4, -1, -1)",
    ]
    wanted += ["return", " if ", "in z:", "in m:", "[1:-1] +=", "a, b = b,", "% 5] +=", "[::2] *="]
    assert [w for w in wanted if w not in text] == []
