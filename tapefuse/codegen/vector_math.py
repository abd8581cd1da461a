"""Elementary functions as LLVM IR text that the loop vectoriser turns into vector code: no branch, table or libm call.

`library([("exp", "f32", 1)])` gives

    define internal float @"tapefuse.exp.f32"(float %x) alwaysinline nounwind willreturn memory(none) {
      %1 = fcmp olt float %x, 0xC05A000000000000
      ...

The float operations carry `contract` and no other flag: with or without FMA a function keeps its error bound (2 ulp;
erfc 3), and no pass may reassociate the compensated sums. The mathematics is in vector_math_functions, its notation in
vector_math_builder, the polynomials in vector_math_coefficients.

With a width, `("exp", "f32", 16)`, the same function takes and returns <16 x float>.
"""

from collections.abc import Callable, Iterable
from functools import cache

from tapefuse.codegen import vector_math_functions as functions
from tapefuse.codegen.vector_math_builder import FORMATS, Body, Value

UNARY = (
    "exp", "exp2", "expm1", "log", "log2", "log1p", "sigmoid", "softplus", "tanh", "sinh", "cosh", "sin", "cos", "tan",
    "asin", "acos", "atan", "erf", "erfc",
)  # fmt: skip
BINARY = ("atan2", "pow")
FUNCTIONS: tuple[str, ...] = UNARY + BINARY
ARITY = dict.fromkeys(UNARY, 1) | dict.fromkeys(BINARY, 2)
Needed = tuple[str, str, int]  # function, dtype, lanes


def symbol(name: str, dtype: str, lanes: int = 1) -> str:
    """The LLVM name, without @ and quotes."""
    return f"tapefuse.{name}.{dtype}" if lanes == 1 else f"tapefuse.{name}.v{lanes}{dtype}"


@cache
def _printed(name: str, dtype: str, lanes: int) -> tuple[str, dict[str, str]]:
    form, body = FORMATS[dtype], Body(lanes)
    arguments = [Value(body, form.llvm, text) for text in ("%x", "%y")[: ARITY[name]]]
    function: Callable[..., Value] = getattr(functions, name)
    result = function(*arguments)
    signature = ", ".join(f"{a.shown} {a.text}" for a in arguments)
    head = f'define internal {result.shown} @"{symbol(name, dtype, lanes)}"({signature})'
    attributes = "alwaysinline nounwind willreturn memory(none)"
    text = "\n".join([f"{head} {attributes} {{", *body.lines, f"  ret {result.shown} {result.text}", "}"])
    return text, body.intrinsics


def definition(name: str, dtype: str, lanes: int = 1) -> str:
    """The function's text; `lanes` > 1: on vectors."""
    return _printed(name, dtype, lanes)[0]


def declarations(needed: Iterable[Needed]) -> dict[str, str]:
    """Intrinsic name to `declare` line, for all of `needed`: the functions call nothing else."""
    return {intrinsic: line for each in needed for intrinsic, line in _printed(*each)[1].items()}


def library(needed: Iterable[Needed]) -> str:
    """Declarations and definitions, each once, ready to be pasted into a module."""
    needed = tuple(dict.fromkeys(needed))
    return "\n\n".join(["\n".join(declarations(needed).values()), *(definition(*each) for each in needed)]) + "\n"
