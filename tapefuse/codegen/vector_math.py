"""Elementary functions as LLVM IR text, of scalars or vectors: no table, no branch but one to libm for huge angles.

`library([("exp", "f32", 1)])` gives

    define internal float @"tapefuse.exp.f32"(float %x) alwaysinline nounwind willreturn memory(none) {
      %1 = fcmp olt float %x, 0xC05A000000000000
      ...

The float operations carry `contract` and no other flag: with or without FMA a function keeps its error bound of 2 ulp,
and no pass may reassociate the compensated sums. The mathematics is in vector_math_functions and
vector_math_circular, its notation in vector_math_builder, the polynomials in vector_math_coefficients.

With a width, `("exp", "f32", 16)`, the same function takes and returns <16 x float>; where such vectors fill
registers of AVX-512 it uses their instructions for exponents and mantissas. `sincos` returns both.
"""

from collections.abc import Callable, Iterable
from functools import cache

from tapefuse.codegen import vector_math_circular as circular
from tapefuse.codegen import vector_math_functions as functions
from tapefuse.codegen.vector_math_builder import FORMATS, Body, Value

UNARY = (
    "exp", "exp2", "expm1", "log", "log2", "log1p", "sigmoid", "softplus", "tanh", "sinh", "cosh", "sin", "cos", "tan",
    "asin", "acos", "atan", "erf", "erfc",
)  # fmt: skip
BINARY = ("atan2", "pow")
FUNCTIONS: tuple[str, ...] = UNARY + BINARY
ARITY = dict.fromkeys((*UNARY, "sincos"), 1) | dict.fromkeys(BINARY, 2)
FAR = {"sin": ("sin",), "cos": ("cos",), "tan": ("tan",), "sincos": ("sin", "cos")}  # libm has arguments from 2**25 on
_PURE = "nounwind willreturn memory(none)"
Needed = tuple[str, str, int]  # function, dtype, lanes


def symbol(name: str, dtype: str, lanes: int = 1) -> str:
    """The LLVM name, without @ and quotes."""
    return f"tapefuse.{name}.{dtype}" if lanes == 1 else f"tapefuse.{name}.v{lanes}{dtype}"


def result_type(name: str, type: str) -> str:
    """`type`, or for `sincos` a structure of two of them."""
    return type if len(FAR.get(name, "1")) == 1 else f"{{ {type}, {type} }}"


@cache
def _printed(name: str, dtype: str, lanes: int, avx512: bool) -> tuple[str, dict[str, str]]:
    form = FORMATS[dtype]
    body = Body(lanes, avx512 and lanes * form.width % 512 == 0)
    arguments = [Value(body, form.llvm, text) for text in ("%x", "%y")[: ARITY[name]]]
    function: Callable[..., Value | tuple[Value, ...]] = (vars(functions) | vars(circular))[name]
    found = function(*arguments)
    results = found if isinstance(found, tuple) else (found,)
    signature = ", ".join(f"{a.shown} {a.text}" for a in arguments)
    shown = result_type(name, body.shown(form.llvm))
    head = f'define internal {shown} @"{symbol(name, dtype, lanes)}"({signature}) alwaysinline {_PURE} {{'
    if name not in FAR:
        return "\n".join([head, *body.lines, *_returned(*results), "}"]), body.intrinsics
    isfar = abs(arguments[0]).compare("uge", "", circular.CIRCULAR_BOUND)
    extra = _libm(name, isfar, form.llvm)
    return _with_libm(name, head, isfar, results), body.intrinsics | extra


def _returned(*results: Value, text: str = "") -> list[str]:
    """Instructions that return one or two results."""
    shown = results[0].shown
    if len(results) == 1:
        return [f"  ret {shown} {results[0].text}"]
    pair, first, second = f"{{ {shown}, {shown} }}", *(r.text for r in results)
    half, whole = f"%half{text}", f"%both{text}"
    return [
        f"  {half} = insertvalue {pair} poison, {shown} {first}, 0",
        f"  {whole} = insertvalue {pair} {half}, {shown} {second}, 1",
        f"  ret {pair} {whole}",
    ]


def _far(name: str, type: str) -> list[str]:
    """libm's functions for large arguments."""
    return [each + ("f" if type == "float" else "") for each in FAR[name]]


def _libm(name: str, isfar: Value, type: str) -> dict[str, str]:
    found = {far: f"declare {type} @{far}({type}) {_PURE}" for far in _far(name, type)}
    if (lanes := isfar.body.lanes) > 1:
        any_lane = f"llvm.vector.reduce.or.v{lanes}i1"
        found[any_lane] = f"declare i1 @{any_lane}(<{lanes} x i1>)"
    return found


def _with_libm(name: str, head: str, isfar: Value, results: tuple[Value, ...]) -> str:
    """The function with libm's results for arguments too large to reduce here, which are rare."""
    y, lanes, lines = results[0], isfar.body.lanes, isfar.body.lines
    t, libm = y.shown, _far(name, y.type)
    near = ["near:", *_returned(*results), "far:"]
    numbers = range(len(libm))
    fetched = [Value(y.body, y.type, f"%z{k}") for k in numbers]
    if lanes == 1:
        calls = [f"  %z{k} = call {t} @{far}({t} %x)" for k, far in enumerate(libm)]
        branch = f"  br i1 {isfar.text}, label %far, label %near"
        return "\n".join([head, *lines, branch, *near, *calls, *_returned(*fetched, text=".far"), "}"])
    function = symbol(name, y.format.name, lanes) + ".far"
    places = ", ".join(f"ptr %ys{k}" for k in numbers)
    text = [
        head,
        f"  %xs = alloca {t}",
        *(f"  %ys{k} = alloca {t}" for k in numbers),
        *lines,
        f"  %some = call i1 @llvm.vector.reduce.or.v{lanes}i1(<{lanes} x i1> {isfar.text})",
        "  br i1 %some, label %far, label %near",
        *near,
        f"  store {t} %x, ptr %xs",
        *(f"  store {t} {r.text}, ptr %ys{k}" for k, r in enumerate(results)),
        f'  call void @"{function}"(ptr %xs, {places})',
        *(f"  %z{k} = load {t}, ptr %ys{k}" for k in numbers),
        *_returned(*fetched, text=".far"),
        "}",
    ]
    one = [
        f"  %z{k} = call {y.type} @{far}({y.type} %x)\n"
        f"  %y{k}.at = getelementptr {y.type}, ptr %ys{k}, i64 %k\n"
        f"  store {y.type} %z{k}, ptr %y{k}.at"
        for k, far in enumerate(libm)
    ]
    bound = y.filled(circular.CIRCULAR_BOUND).text.removeprefix(f"splat ({y.type} ").removesuffix(")")
    words = {"NAME": function, "PLACES": places, "CALLS": "\n".join(one), "T": y.type}
    each = _FAR
    for word, meant in {**words, "BOUND": bound, "LANES": str(lanes)}.items():
        each = each.replace(f"<{word}>", meant)
    return "\n".join([*text, each])


# The lanes lie in memory: to index a vector's lanes takes LLVM longer to compile than all the rest.
_FAR = """\
define internal void @"<NAME>"(ptr %xs, <PLACES>) noinline nounwind willreturn memory(argmem: readwrite) {
entry:
  br label %next
next:
  %k = phi i64 [ 0, %entry ], [ %k1, %latch ]
  %x.at = getelementptr <T>, ptr %xs, i64 %k
  %x = load <T>, ptr %x.at
  %above = fcmp uge <T> %x, <BOUND>
  %minus = fneg <T> %x
  %below = fcmp uge <T> %minus, <BOUND>
  %isfar = or i1 %above, %below
  br i1 %isfar, label %far, label %latch
far:
<CALLS>
  br label %latch
latch:
  %k1 = add i64 %k, 1
  %again = icmp ult i64 %k1, <LANES>
  br i1 %again, label %next, label %end
end:
  ret void
}"""


def definition(name: str, dtype: str, lanes: int = 1, avx512: bool = False) -> str:
    """The function's text; `lanes` > 1: on vectors. `avx512`: for machines with AVX-512 only."""
    return _printed(name, dtype, lanes, avx512)[0]


def declarations(needed: Iterable[Needed], avx512: bool = False) -> dict[str, str]:
    """Name to `declare` line of the intrinsics, and of libm's functions, that `needed` calls."""
    return {intrinsic: line for each in needed for intrinsic, line in _printed(*each, avx512)[1].items()}


def library(needed: Iterable[Needed], avx512: bool = False) -> str:
    """Declarations and definitions, each once, ready to be pasted into a module."""
    needed = tuple(dict.fromkeys(needed))
    head = "\n".join(declarations(needed, avx512).values())
    return "\n\n".join([head, *(definition(*each, avx512) for each in needed)]) + "\n"
