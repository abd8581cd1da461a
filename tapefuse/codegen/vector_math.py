"""Elementary functions as LLVM IR text, of scalars or vectors: no table, no branch but one to libm for huge angles.

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
FAR = ("sin", "cos", "tan")  # these leave arguments from 2**25 on to libm
_PURE = "nounwind willreturn memory(none)"
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
    lines = [f"{head} alwaysinline {_PURE} {{", *body.lines, f"  ret {result.shown} {result.text}", "}"]
    if name not in FAR:
        return "\n".join(lines), body.intrinsics
    return _with_libm(name, result, "\n".join(lines[:-2])), body.intrinsics | _libm(name, result)


def _libm(name: str, y: Value) -> dict[str, str]:
    far = name + ("f" if y.format.name == "f32" else "")
    found = {far: f"declare {y.type} @{far}({y.type}) {_PURE}"}
    if y.body.lanes > 1:
        any_lane = f"llvm.vector.reduce.or.v{y.body.lanes}i1"
        found[any_lane] = f"declare i1 @{any_lane}(<{y.body.lanes} x i1>)"
    return found


def _with_libm(name: str, y: Value, text: str) -> str:
    """The function with libm's results where its own is NaN: for arguments too large to reduce here, which are rare."""
    t, lanes, far = y.shown, y.body.lanes, next(iter(_libm(name, y)))
    head = [text, f"  %isnan = fcmp uno {t} {y.text}, {y.text}"]
    near = ["near:", f"  ret {t} {y.text}", "far:"]
    if lanes == 1:
        lines = ["  br i1 %isnan, label %far, label %near", *near, f"  %z = call {t} @{far}({t} %x)"]
        return "\n".join([*head, *lines, f"  ret {t} %z", "}"])
    function = symbol(name, y.format.name, lanes) + ".far"
    start, body = text.split("\n", 1)
    lines = [
        start,
        f"  %xs = alloca {t}",
        f"  %ys = alloca {t}",
        body,
        *head[1:],
        f"  %some = call i1 @llvm.vector.reduce.or.v{lanes}i1(<{lanes} x i1> %isnan)",
        "  br i1 %some, label %far, label %near",
        *near,
        f"  store {t} %x, ptr %xs",
        f"  store {t} {y.text}, ptr %ys",
        f'  call void @"{function}"(ptr %xs, ptr %ys)',
        f"  %z = load {t}, ptr %ys",
        f"  ret {t} %z",
        "}",
    ]
    each = _FAR.replace("NAME", function).replace("FAR", far).replace("T", y.type).replace("LANES", str(lanes))
    return "\n".join([*lines, each])


# The lanes lie in memory: to index a vector's lanes takes LLVM longer to compile than all the rest.
_FAR = """\
define internal void @"NAME"(ptr %xs, ptr %ys) noinline nounwind willreturn memory(argmem: readwrite) {
entry:
  br label %next
next:
  %k = phi i64 [ 0, %entry ], [ %k1, %latch ]
  %y.at = getelementptr T, ptr %ys, i64 %k
  %y = load T, ptr %y.at
  %isnan = fcmp uno T %y, %y
  br i1 %isnan, label %far, label %latch
far:
  %x.at = getelementptr T, ptr %xs, i64 %k
  %x = load T, ptr %x.at
  %z = call T @FAR(T %x)
  store T %z, ptr %y.at
  br label %latch
latch:
  %k1 = add i64 %k, 1
  %again = icmp ult i64 %k1, LANES
  br i1 %again, label %next, label %end
end:
  ret void
}"""


def definition(name: str, dtype: str, lanes: int = 1) -> str:
    """The function's text; `lanes` > 1: on vectors."""
    return _printed(name, dtype, lanes)[0]


def declarations(needed: Iterable[Needed]) -> dict[str, str]:
    """Name to `declare` line of the intrinsics, and of libm's functions, that `needed` calls."""
    return {intrinsic: line for each in needed for intrinsic, line in _printed(*each)[1].items()}


def library(needed: Iterable[Needed]) -> str:
    """Declarations and definitions, each once, ready to be pasted into a module."""
    needed = tuple(dict.fromkeys(needed))
    return "\n\n".join(["\n".join(declarations(needed).values()), *(definition(*each) for each in needed)]) + "\n"
