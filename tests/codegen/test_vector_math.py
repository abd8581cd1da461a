"""vector_math against wider arithmetic: error bounds over the whole range, special values, vectorised loops.

Every function is compiled several ways: a scalar function in a loop that LLVM vectorises for this machine, a function
of 8 lanes, a loop for plain x86-64, where `contract` finds no FMA, and one of 32 lanes with AVX-512's own instructions.
"""

import math
import platform
import re
from fractions import Fraction
from functools import cache

import llvmlite.binding as llvm
import numpy as np
import pytest

import tapefuse as tp
from benchmarks.functions import COUNT, DTYPES, EXACT, PAIRS, WIDER, Compiled, exact, sample, ulps
from tapefuse.codegen import vector_math
from tapefuse.codegen.contraction import registers
from tapefuse.codegen.vector_math_builder import Ratio, pieces
from tapefuse.codegen.vector_math_circular import CIRCULAR_BOUND, PI
from tapefuse.codegen.vector_math_functions import LN2
from tapefuse.runtime.compile import assembly

BOUNDS = {"pow": 4.0}  # ulp; all others 2
VARIANTS: dict[str, tuple] = {"host": (1,), "lanes": (8,)}
if platform.machine() in ("x86_64", "AMD64"):
    VARIANTS["baseline"] = (1, "x86-64")
if registers().nbytes == 64:
    VARIANTS["avx512"] = (32, None, True)


@pytest.fixture(scope="module", params=VARIANTS)
def compiled(request: pytest.FixtureRequest) -> Compiled:
    return Compiled(*VARIANTS[request.param])


@cache
def expected(name: str, dtype: str) -> tuple[list[np.ndarray], np.ndarray]:
    """A sample of arguments, and the results."""
    arguments = sample(name, dtype)
    return arguments, exact(name, dtype, arguments)


@pytest.mark.parametrize(("name", "dtype"), PAIRS)
@np.errstate(all="ignore")
def test_error_bound(compiled: Compiled, name: str, dtype: str) -> None:
    arguments, wanted = expected(name, dtype)
    error = ulps(compiled.run(name, dtype, *arguments), wanted)
    worst = np.argmax(error)
    assert error[worst] <= BOUNDS.get(name, 2.0), (error[worst], [x[worst] for x in arguments], wanted[worst])


INF, NAN = math.inf, math.nan
ODD = [(0.0, 0.0), (-0.0, -0.0), (NAN, NAN)]
SPECIAL = {
    "exp": [(0.0, 1.0), (-0.0, 1.0), (INF, INF), (-INF, 0.0), (NAN, NAN), (1e4, INF), (-1e4, 0.0)],
    "exp2": [(0.0, 1.0), (10.0, 1024.0), (-3.0, 0.125), (INF, INF), (-INF, 0.0), (NAN, NAN), (1e4, INF), (-1e4, 0.0)],
    "expm1": [*ODD, (INF, INF), (-INF, -1.0), (1e4, INF), (-1e4, -1.0)],
    "log": [(0.0, -INF), (-0.0, -INF), (-1.0, NAN), (-INF, NAN), (1.0, 0.0), (INF, INF), (NAN, NAN)],
    "log2": [(0.0, -INF), (-0.0, -INF), (-1.0, NAN), (-INF, NAN), (1.0, 0.0), (0.125, -3.0), (INF, INF), (NAN, NAN)],
    "log1p": [*ODD, (-1.0, -INF), (-1.5, NAN), (-INF, NAN), (INF, INF)],
    "sigmoid": [(0.0, 0.5), (-0.0, 0.5), (INF, 1.0), (-INF, 0.0), (NAN, NAN), (1e4, 1.0), (-1e4, 0.0)],
    "softplus": [(INF, INF), (-INF, 0.0), (NAN, NAN), (1e4, 1e4), (-1e4, 0.0)],
    "tanh": [*ODD, (INF, 1.0), (-INF, -1.0), (1e4, 1.0)],
    "sinh": [*ODD, (INF, INF), (-INF, -INF), (-1e4, -INF)],
    "cosh": [(0.0, 1.0), (-0.0, 1.0), (INF, INF), (-INF, INF), (NAN, NAN), (-1e4, INF)],
    "sin": [*ODD, (INF, NAN), (-INF, NAN), (CIRCULAR_BOUND, math.sin(CIRCULAR_BOUND))],
    "cos": [(0.0, 1.0), (-0.0, 1.0), (NAN, NAN), (INF, NAN), (-INF, NAN), (-CIRCULAR_BOUND, math.cos(CIRCULAR_BOUND))],
    "tan": [*ODD, (INF, NAN), (-INF, NAN), (CIRCULAR_BOUND, math.tan(CIRCULAR_BOUND))],
    "asin": [*ODD, (1.5, NAN), (-INF, NAN)],
    "acos": [(1.0, 0.0), (1.5, NAN), (-1.5, NAN), (INF, NAN), (NAN, NAN)],
    "atan": [*ODD],
    "erf": [*ODD, (INF, 1.0), (-INF, -1.0), (30.0, 1.0)],
    "erfc": [(0.0, 1.0), (INF, 0.0), (-INF, 2.0), (NAN, NAN), (-30.0, 2.0), (30.0, 0.0)],
}
VALUES = (0.0, 0.5, 1.0, 2.0, 3.0, 5.5, 1e30, INF)
GRID = [s * v for v in VALUES for s in (1.0, -1.0)] + [NAN]


def same(value: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Equal including the sign of zero, all NaNs alike."""
    return (np.isnan(value) & np.isnan(expected)) | ((value == expected) & (np.signbit(value) == np.signbit(expected)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", SPECIAL)
def test_special_values(compiled: Compiled, name: str, dtype: str) -> None:
    x, expected = np.array(SPECIAL[name], DTYPES[dtype]).T.copy()
    value = compiled.run(name, dtype, x)
    assert same(value, expected).all(), [row for row in zip(x, value, expected, strict=True) if not same(*row[1:])]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["pow", "atan2"])
@np.errstate(all="ignore")
def test_special_values_of_two_arguments(compiled: Compiled, name: str, dtype: str) -> None:
    x, y = (v.ravel().astype(DTYPES[dtype]) for v in np.meshgrid(GRID, GRID))
    value, exact = compiled.run(name, dtype, x, y), EXACT[name](x, y)
    plain = np.isfinite(exact) & (exact != 0)
    good = np.where(plain, np.abs(value - exact) <= 4 * np.spacing(np.abs(exact)), same(value, exact))
    assert good.all(), np.array([x, y, value, exact])[:, ~good].T


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["sin", "cos"])
def test_large_angles_keep_an_absolute_bound(compiled: Compiled, name: str, dtype: str) -> None:
    rng = np.random.default_rng(7)
    x = (2 ** rng.uniform(25, 50, COUNT) * rng.choice([-1, 1], COUNT)).astype(DTYPES[dtype])
    error = np.abs(compiled.run(name, dtype, x) - getattr(np, name)(x.astype(WIDER[dtype])))
    assert error.max() < np.finfo(DTYPES[dtype]).eps


def test_every_loop_is_vectorised(compiled: Compiled) -> None:
    kernels = re.findall(r'define[^\n]*@"?kernel\.(\w+)\.(\w+)"?\(.*?\n}', compiled.optimised, re.S)
    texts = re.findall(r'define[^\n]*@"?kernel\..*?\n}', compiled.optimised, re.S)
    assert sorted(kernels) == sorted(PAIRS)
    for (name, dtype), text in zip(kernels, texts, strict=True):
        callees = re.findall(r'call [^@]*@"?([\w.]+)', text)
        foreign = {c for c in callees if not c.startswith("llvm.")}
        if name in vector_math.FAR:  # as a scalar it has a branch; with lanes, one call for lanes with huge arguments
            assert foreign <= {name, f"{name}f", vector_math.symbol(name, dtype, compiled.width) + ".far"}
            continue
        assert re.search(r"fmul contract <\d+ x (float|double)>", text), (name, dtype)
        assert not foreign, (name, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("avx512", [False, True] if "avx512" in VARIANTS else [False])
def test_sine_and_cosine_of_one_argument_share_its_reduction(dtype: str, avx512: bool) -> None:
    both = vector_math.definition("sincos", dtype, 16, avx512).split(".far")[0]
    for name in ("sin", "cos"):
        alone = vector_math.definition(name, dtype, 16, avx512).split(".far")[0]
        assert both.count("fmul") == alone.count("fmul")


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_loop_with_sine_and_cosine_calls_both_at_once(dtype: str) -> None:
    x = np.concatenate([np.linspace(-9, 9, 101), [np.inf, -np.inf, np.nan, 1e9, -3e7, 0.0, -0.0]]).astype(DTYPES[dtype])
    apart = [tp.tape_function(f)(x).numpy() for f in (tp.sin, tp.cos)]
    together = tp.tape_function(lambda x: (tp.sin(x), tp.cos(x), tp.sum(tp.sin(x) * tp.cos(x))))
    for one, two in zip(apart, together(x), strict=False):
        assert same(one, two.numpy()).all()
    strict = tp.tape_function(lambda x: (tp.sin(x), tp.cos(x)), strict=True)
    for one, two in zip(apart, strict(x), strict=True):
        np.testing.assert_allclose(one, two.numpy(), rtol=4 * np.finfo(x.dtype).eps, atol=0)


ERF_AND_EXPONENTIAL = """
define {t} @f({t} %x) {{
  %y = call {t} @"tapefuse.erf.{dtype}"({t} %x)
  %square = fmul contract {t} %x, %x
  %minus = fneg {t} %square
  %e = call {t} @"tapefuse.exp.{dtype}"({t} %{argument})
  %z = fdiv {t} %y, %e
  ret {t} %z
}}
"""


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_error_function_shares_the_exponential_of_its_derivative(dtype: str) -> None:
    t = {"f32": "float", "f64": "double"}[dtype]
    needed = [("erf", dtype, 1), ("exp", dtype, 1)]
    shared, apart = (
        len(
            assembly(vector_math.library(needed) + ERF_AND_EXPONENTIAL.format(t=t, dtype=dtype, argument=a)).split("\n")
        )
        for a in ("minus", "x")
    )
    assert apart - shared > 15


def test_library_holds_each_definition_and_declaration_once() -> None:
    needed = [("tanh", "f32", 1), ("tanh", "f32", 1), ("erf", "f32", 1), ("tanh", "f64", 1), ("tanh", "f32", 4)]
    text = vector_math.library(needed)
    definitions = re.findall(r'^define .*@"([\w.]+)"', text, re.M)
    assert definitions == ["tapefuse.tanh.f32", "tapefuse.erf.f32", "tapefuse.tanh.f64", "tapefuse.tanh.v4f32"]
    declared = re.findall(r"^declare .*@([\w.]+)\(", text, re.M)
    assert len(declared) == len(set(declared)) and set(declared) == set(vector_math.declarations(needed))
    llvm.parse_assembly(text).verify()


@pytest.mark.parametrize(("name", "dtype"), PAIRS)
def test_no_flag_but_contract(name: str, dtype: str) -> None:
    assert not re.search(r"\b(fast|reassoc|nnan|ninf|nsz|arcp|afn)\b", vector_math.definition(name, dtype))


RATIOS = [LN2, PI, LN2.inverse.times(2, 3), Ratio(1, 3), Ratio(7, 1), Ratio(8, 1), Ratio(1, 64)]


@pytest.mark.parametrize("ratio", RATIOS)
def test_pieces_add_up_and_their_products_are_exact(ratio: Ratio) -> None:
    value = Fraction(*ratio)
    assert float(ratio) == float(value)
    head, middle, tail = (Fraction(p) for p in pieces(ratio, 26, 26))
    assert abs(head + middle + tail - value) <= value / 2**104
    for piece, unit in ((head, value / 2**26), (middle, value / 2**52)):
        assert piece.denominator <= 2 / unit and Fraction(float(piece * (2**27 - 1))) == piece * (2**27 - 1)
