"""The elementary functions of compiled code: their largest errors on samples, and ns an element, by width of vectors.

`python -m benchmarks.functions` prints docs/vector-math.md.
"""

from __future__ import annotations

import ctypes
import sys
import timeit
from collections.abc import Callable

import llvmlite.binding as llvm
import numpy as np

from benchmarks import machine
from tapefuse.codegen import vector_math
from tapefuse.codegen.contraction import registers
from tapefuse.codegen.vector_math_circular import CIRCULAR_BOUND

DTYPES = {"f32": np.float32, "f64": np.float64}
WIDER = {"f32": np.float64, "f64": np.longdouble}
PAIRS = [(name, dtype) for name in vector_math.FUNCTIONS for dtype in DTYPES]
CIRCULAR = ("sin", "cos", "tan")
COUNT = 50_000  # points per sample

KERNEL = """
define void @"kernel.{name}.{dtype}"(ptr noalias %xs, ptr noalias %ys, ptr noalias %out, i64 %n) {{
entry: br label %loop
loop: %i = phi i64 [0, %entry], [%next, %loop]
  %px = getelementptr {type}, ptr %xs, i64 %i
  %x = load {type}, ptr %px, align 4
  %py = getelementptr {type}, ptr %ys, i64 %i
  %y = load {type}, ptr %py, align 4
  %r = call {type} @"{symbol}"({arguments})
  %po = getelementptr {type}, ptr %out, i64 %i
  store {type} %r, ptr %po, align 4
  %next = add nuw nsw i64 %i, 1
  %more = icmp ult i64 %next, %n
  br i1 %more, label %loop, label %exit
exit: ret void
}}
"""


def kernel(name: str, dtype: str, width: int) -> str:
    scalar = {"f32": "float", "f64": "double"}[dtype]
    type = scalar if width == 1 else f"<{width} x {scalar}>"
    arguments = ", ".join(f"{type} {v}" for v in ("%x", "%y")[: vector_math.ARITY[name]])
    symbol = vector_math.symbol(name, dtype, width)
    return KERNEL.format(name=name, dtype=dtype, type=type, symbol=symbol, arguments=arguments)


class Compiled:
    """All functions for one target, of `width` lanes; `run(name, dtype, x[, y])` evaluates one.

    `cpu`: LLVM's name of a processor; none: this one.
    """

    def __init__(self, width: int, cpu: str | None = None, avx512: bool = False) -> None:
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        self.width = width
        needed = [(*pair, self.width) for pair in PAIRS]
        text = vector_math.library(needed, avx512) + "".join(kernel(*each) for each in needed)
        target = llvm.Target.from_default_triple()
        features = llvm.get_host_cpu_features().flatten() if cpu is None else ""
        self.machine = target.create_target_machine(cpu=cpu or llvm.get_host_cpu_name(), features=features, opt=3)
        module = llvm.parse_assembly(text)
        module.verify()
        module.triple, module.data_layout = llvm.get_default_triple(), str(self.machine.target_data)
        builder = llvm.create_pass_builder(self.machine, llvm.create_pipeline_tuning_options(speed_level=3))
        builder.getModulePassManager().run(module, builder)
        self.optimised = str(module)
        self.engine = llvm.create_mcjit_compiler(module, self.machine)
        self.engine.finalize_object()

    def kernel(self, name: str, dtype: str) -> Callable[[int, int, int, int], None]:
        """A function of three addresses and the number of vectors there."""
        address = self.engine.get_function_address(f"kernel.{name}.{dtype}")
        return ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)(address)

    def run(self, name: str, dtype: str, x: np.ndarray, y: np.ndarray | None = None) -> np.ndarray:
        padded = [np.concatenate([v, np.ones(-len(v) % self.width, v.dtype)]) for v in (x, x if y is None else y)]
        out = np.empty_like(padded[0])
        self.kernel(name, dtype)(*(v.ctypes.data for v in (*padded, out)), out.size // self.width)
        return out[: len(x)]


def any_float(rng: np.random.Generator, dtype: str, n: int) -> np.ndarray:
    """Uniform over the encodings: all exponents, subnormals, infinities, NaNs."""
    bits = rng.integers(0, 1 << 64, n, dtype=np.uint64)
    return bits.view(np.float64) if dtype == "f64" else (bits >> np.uint64(32)).astype(np.uint32).view(np.float32)


def around(rng: np.random.Generator, centre: float) -> np.ndarray:
    return centre + rng.standard_normal(COUNT) * 10 ** rng.uniform(-17, 0, COUNT)


def sample(name: str, dtype: str) -> list[np.ndarray]:
    """Arguments of one function: everything, and more where it bends, overflows, underflows or cancels."""
    rng = np.random.default_rng([ord(c) for c in name + dtype])
    top = {"f32": 89.5, "f64": 710.5}[dtype]
    subnormals = rng.integers(-99, 99, 100) * np.finfo(DTYPES[dtype]).smallest_subnormal
    special = np.concatenate([any_float(rng, dtype, COUNT), subnormals])
    if vector_math.ARITY[name] == 2:
        x = [rng.uniform(0, 3, COUNT), around(rng, 1), 10 ** rng.uniform(-30, 30, COUNT)]
        y = [rng.uniform(-99, 99, COUNT), 10 ** rng.uniform(0, 8, COUNT), rng.uniform(-12, 12, COUNT)]
        return [np.concatenate([any_float(rng, dtype, COUNT), *v]).astype(DTYPES[dtype]) for v in (x, y)]
    if name in CIRCULAR:
        turns = np.round(rng.uniform(-1, 1, COUNT) * 10 ** rng.uniform(0, 7, COUNT)) * (np.pi / 2)
        ranges = [turns, rng.uniform(-8, 8, COUNT), rng.uniform(-CIRCULAR_BOUND, CIRCULAR_BOUND, COUNT)]
        special = np.where(np.abs(special) < CIRCULAR_BOUND, special, 0)
    elif name in ("asin", "acos"):
        ranges = [rng.uniform(-1, 1, COUNT)]
    else:
        ranges = [rng.uniform(-3, 3, COUNT), rng.uniform(-1.5 * top, 1.5 * top, COUNT), rng.uniform(-28, 28, COUNT)]
        ranges.append(around(rng, 1 if name in ("log", "log2") else 0))
    return [np.concatenate([special, *ranges]).astype(DTYPES[dtype])]


def error_functions(a: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """erf and erfc of a >= 0, to 60 bits in 80-bit numbers: the series of positive terms below 3/2, Laplace's continued
    fraction above (Abramowitz & Stegun 7.1.6 and 7.1.14)."""
    number = a.dtype.type
    root = np.sqrt(number("3.14159265358979323846264338327950288"))
    near, far = np.minimum(a, 1.5), np.clip(a, 1.5, 200)
    series = term = np.ones_like(a)
    for k in range(3, 101, 2):
        term = term * (2 * near * near / k)
        series = series + term
    erf = 2 / root * near * np.exp(-near * near) * series
    fraction = np.zeros_like(a)
    for k in range(120, 0, -1):
        fraction = number(k) / 2 / (far + fraction)
    head = far.astype(np.float32).astype(a.dtype)  # its square is exact
    erfc = np.exp(-head * head) * np.exp((head - far) * (head + far)) / (root * (far + fraction))
    return np.where(a > 1.5, 1 - erfc, erf), np.where(a > 1.5, erfc, 1 - erf)


EXACT = {
    "sigmoid": lambda x: np.exp(np.minimum(x, 0)) / (1 + np.exp(-np.abs(x))),
    "softplus": lambda x: np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x))),
    "asin": np.arcsin,
    "acos": np.arccos,
    "atan": np.arctan,
    "atan2": np.arctan2,
    "pow": np.power,
    "erf": lambda x: np.copysign(error_functions(abs(x))[0], x),
    "erfc": lambda x: np.where(x < 0, 1 + error_functions(abs(x))[0], error_functions(abs(x))[1]),
}


def ulps(value: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """Distance in units of the last place of the exact result; inf where only one of the two is finite."""
    info = np.finfo(value.dtype)
    rounded = exact.astype(value.dtype)
    exponent = np.floor(np.log2(np.maximum(np.abs(exact), info.smallest_normal)))
    distance = np.abs(value - exact) / np.exp2(exponent - info.nmant)
    overflow = np.isinf(value) & (np.abs(exact) > info.max * (1 - info.eps)) & (np.sign(value) == np.sign(exact))
    agree = overflow | (value == rounded) | (np.isnan(value) & np.isnan(rounded))
    return np.where(np.isfinite(distance), distance, np.where(agree, 0, np.inf))


def exact(name: str, dtype: str, arguments: list[np.ndarray]) -> np.ndarray:
    """The function in the next wider format."""
    function = EXACT.get(name) or getattr(np, name)
    return function(*(x.astype(WIDER[dtype]) for x in arguments))


# -- the page ---------------------------------------------------------------------------------------------------------

WIDTHS = {"AVX-512": (None, True), "AVX2": ("x86-64-v3", False), "128 bits": ("x86-64", False)}
POINTS = 2048  # of a timing: they stay in the first cache
TYPICAL = {"log": (0.1, 9), "log2": (0.1, 9), "asin": (-1, 1), "acos": (-1, 1), "pow": (0.1, 9)}

PAGE = """\
# The elementary functions of compiled code

The largest error found in units of the last place, and ns an element on one thread, for vectors of 512 bits
(AVX-512), 256 bits (AVX2 and FMA) and 128 bits (SSE2, without FMA: what any x86-64 machine runs). Errors: samples of
{count:,} points and more per function: all exponents, subnormals, range ends and where it cancels; sin, cos and tan
below 2**25, from where libm computes them. The reference is the function in the next wider format. Times: the least
of many runs over {points:,} random numbers in the first cache, -3 to 3 unless the function's domain ends. sqrt and
division are the processor's, correctly rounded, and rsqrt is the quotient of 1 and sqrt. Written by
`python -m benchmarks.functions` on {cpu}.

{table}

`tests/codegen/test_vector_math.py` holds 2 ulp (pow 4), and the results at inf, nan, signed zeros and range
ends, for all widths. `strict=True` uses libm instead. [Special functions](special-functions.md) are built on these.
"""


@np.errstate(all="ignore")
def largest_error(code: Compiled, name: str, dtype: str) -> float:
    arguments = sample(name, dtype)
    return float(ulps(code.run(name, dtype, *arguments), exact(name, dtype, arguments)).max())


def nanoseconds(code: Compiled, name: str, dtype: str) -> float:
    rng = np.random.default_rng(0)
    x, y = (rng.uniform(*TYPICAL.get(name, (-3, 3)), POINTS).astype(DTYPES[dtype]) for _ in range(2))
    out, kernel = np.empty_like(x), code.kernel(name, dtype)
    arguments = (x.ctypes.data, y.ctypes.data, out.ctypes.data, POINTS // code.width)
    return min(timeit.repeat(lambda: kernel(*arguments), number=20, repeat=40)) / 20 / POINTS * 1e9


def table() -> str:
    """As Markdown: a row for each function, for each dtype and width the error and the time."""
    widths = {w: options for w, options in WIDTHS.items() if w != "AVX-512" or registers().nbytes == 64}
    codes = {
        (w, d): Compiled(64 // np.dtype(t).itemsize, *options)
        for w, options in widths.items()
        for d, t in DTYPES.items()
    }
    lines = ["| | " + " | ".join(f"{d} {w}" for w, d in codes) + " |", "|---|" + "---|" * len(codes)]
    for name in vector_math.FUNCTIONS:
        cells = [f"{largest_error(c, name, d):.2f}, {nanoseconds(c, name, d):.2f} ns" for (_, d), c in codes.items()]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    sys.stdout.write(PAGE.format(count=COUNT, points=POINTS, cpu=machine.description()["cpu"], table=table()))


if __name__ == "__main__":
    main()
