"""The loop IR: scalar instructions inside nested loops over buffers, one `Kernel` per fused piece of a program.

A kernel that adds a bias and applies relu prints as

    kernel k0(b0: f32[B,10], b1: f32[10], b2: f32[B,10]) rows B
      for i0 in lo..hi:
        for i1 in 0..10:
          t0 = load b0[i0,i1]
          t1 = load b1[i1]
          t2 = add t0 t1
          t3 = relu t2
          store b2[i0,i1] = t3

Two emitters print it: `emit_llvm` as LLVM text, `emit_numba` as Python source.
"""

from __future__ import annotations

from dataclasses import field

import numpy as np

from tapefuse._records import dataclass
from tapefuse.ir.types import Dim, Type, show_dtype

INT = np.dtype(np.int64)
BOOL = np.dtype(bool)


@dataclass(frozen=True, slots=True)
class Var:
    """A named scalar: an instruction's result, a loop index, an accumulator or a dimension symbol."""

    name: str
    dtype: np.dtype

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class Num:
    """A literal scalar."""

    value: bool | int | float
    dtype: np.dtype

    def __str__(self) -> str:
        return str(self.value) if self.dtype == INT else f"{show_dtype(self.dtype)}({self.value!r})"


Scalar = Var | Num
ZERO = Num(0, INT)


@dataclass(frozen=True, slots=True)
class Buffer:
    """A row-major array that a kernel reads or writes; `name` is its parameter."""

    name: str
    type: Type


@dataclass(frozen=True, slots=True)
class Let:
    dst: Var
    op: str
    args: tuple[Scalar, ...]


@dataclass(frozen=True, slots=True)
class Load:
    dst: Var
    buffer: Buffer
    index: tuple[Scalar, ...]


@dataclass(frozen=True, slots=True)
class Store:
    buffer: Buffer
    index: tuple[Scalar, ...]
    value: Scalar


@dataclass(frozen=True, slots=True)
class Declare:
    """An accumulator: a scalar that `Update` changes."""

    acc: Var
    init: Scalar


@dataclass(frozen=True, slots=True)
class Update:
    """`acc = acc op value`; the order of a reduction's terms is free."""

    acc: Var
    op: str
    value: Scalar


@dataclass(frozen=True, slots=True)
class For:
    var: Var
    start: Scalar
    stop: Scalar
    body: tuple[Stmt, ...]


@dataclass(frozen=True, slots=True)
class Gemm:
    """`c[at_c] = op(a[at_a]) @ op(b[at_b])`, rows (or columns, `split` "n") start..stop of the result.

    Matrices are the last two axes; `at_*` index the leading ones. `m, n, k` are those of the whole product.
    """

    a: Buffer
    b: Buffer
    c: Buffer
    at_a: tuple[Scalar, ...]
    at_b: tuple[Scalar, ...]
    at_c: tuple[Scalar, ...]
    transpose_a: bool
    transpose_b: bool
    m: Scalar
    n: Scalar
    k: Scalar
    start: Scalar
    stop: Scalar
    split: str  # "m" or "n"


MOST_TERMS = 4  # nested sums of one contraction


@dataclass(frozen=True, slots=True)
class Term:
    """One of the sums of a contraction: its extent, and by how many elements its operands move from one to the next."""

    extent: Scalar
    a: Scalar
    b: Scalar


@dataclass(frozen=True, slots=True)
class Contract:
    """`c[at_c + i row_c + j] = sum over terms k of a[at_a + i row_a + k.a] * b[at_b + j + k.b]`, or `+=` if `add`.

    i counts `rows`, j counts `columns`; `at_*` index the first element, the other steps are in elements. At most
    MOST_TERMS terms, added in their order, the last one fastest, for each element by itself: how rows are cut changes
    no result. `c` is no part of `a` or `b`. `typical`: how many rows there mostly are, if `rows` does not say it.
    """

    c: Buffer
    a: Buffer
    b: Buffer
    at_c: tuple[Scalar, ...]
    at_a: tuple[Scalar, ...]
    at_b: tuple[Scalar, ...]
    rows: Scalar
    columns: Scalar
    row_c: Scalar
    row_a: Scalar
    terms: tuple[Term, ...]
    add: bool = False
    typical: int = 0


@dataclass(frozen=True, slots=True)
class Transpose:
    """`y[at_y + i row_y + j] = x[at_x + i + j row_x]`: i counts `rows`, j `columns`; both steps are in elements."""

    y: Buffer
    x: Buffer
    at_y: tuple[Scalar, ...]
    at_x: tuple[Scalar, ...]
    rows: Scalar
    columns: Scalar
    row_y: Scalar
    row_x: Scalar


@dataclass(frozen=True, slots=True)
class Substitute:
    """`y = op(a)^-1 y` for a triangular matrix of `rows` rows: y, row-major, has `columns` columns. BLAS's trsm.

    `lower`: which triangle of `a` is read; `transpose`: `op` transposes it; `unit`: its diagonal is taken for 1;
    `is_complex`: two elements are the parts of a number.
    """

    a: Buffer
    y: Buffer
    at_a: tuple[Scalar, ...]
    at_y: tuple[Scalar, ...]
    rows: Scalar
    columns: Scalar
    lower: bool
    transpose: bool
    unit: bool
    is_complex: bool = False


@dataclass(frozen=True, slots=True)
class Core:
    """An operand of a `Call`: element `at` is its first one; `steps`, in bytes, lead from one repetition to the next
    and then along each axis of one repetition's elements."""

    buffer: Buffer
    at: tuple[Scalar, ...]
    steps: tuple[Scalar, ...]


@dataclass(frozen=True, slots=True)
class Call:
    """The inner loop of one of NumPy's generalised functions ("linalg.inv.dd": `d->d` of `inv`).

    `sizes`: how often it is repeated, then the extents that its signature names. `failed`: whether it says, by the flag
    of an invalid operation, that it has failed. It may write to all operands.
    """

    function: str
    operands: tuple[Core, ...]
    sizes: tuple[Scalar, ...]
    failed: Var

    @property
    def scalars(self) -> tuple[Scalar, ...]:
        return (*self.sizes, *(x for o in self.operands for x in (*o.at, *o.steps)))


# -- regions: what only a kernel of a loop, a branch or a sized body has ---------------------------------------------
@dataclass(frozen=True, slots=True)
class Assign:
    """`acc = value`, an accumulator of an enclosing scope."""

    acc: Var
    value: Scalar


@dataclass(frozen=True, slots=True)
class While:
    """Run `before`, end unless `condition` holds, run `body`, and again. `body` sees the scalars of `before`."""

    before: tuple[Stmt, ...]
    condition: Scalar
    body: tuple[Stmt, ...]


@dataclass(frozen=True, slots=True)
class If:
    condition: Scalar
    then: tuple[Stmt, ...]
    otherwise: tuple[Stmt, ...] = ()


@dataclass(frozen=True, slots=True)
class View:
    """`buffer` is, to the end of this scope, the memory of `source` from byte `at` on, seen as its own type.

    `local`: what is written there is read in no other way, so that it need not be in memory at all.
    """

    buffer: Buffer
    source: Buffer
    at: Scalar = ZERO  # other than 0 in a source of bytes only
    local: bool = False


@dataclass(frozen=True, slots=True)
class Move:
    """Each of `targets` is from now on the memory that its one of `sources` was, all at once: no element moves.

    Sources are the targets in another order, all of one type; each was made by a `View` in a scope around the loop.
    """

    targets: tuple[Buffer, ...]
    sources: tuple[Buffer, ...]


@dataclass(frozen=True, slots=True)
class Launch:
    """Run rows 0..`rows` of another kernel in `pieces` pieces, on threads if there is more than one; in a single one,
    rows `first`..`rows`.

    `buffers` are its buffers in order, `sizes` its symbols.
    """

    kernel: Kernel
    buffers: tuple[Buffer, ...]
    sizes: tuple[Scalar, ...]
    rows: Scalar
    pieces: Scalar
    first: Scalar = ZERO


@dataclass(frozen=True, slots=True)
class Allocate:
    """New memory for `buffer` (u8[n]) until `Free`; where there is none, `status[1] = True` and the kernel ends."""

    buffer: Buffer
    nbytes: Scalar
    status: Buffer


@dataclass(frozen=True, slots=True)
class Grow:
    """`nbytes` for `buffer`, of which `Allocate` gave `used`: these are kept, at another place. Else as `Allocate`."""

    buffer: Buffer
    used: Scalar
    nbytes: Scalar
    status: Buffer


@dataclass(frozen=True, slots=True)
class Free:
    buffer: Buffer


@dataclass(frozen=True, slots=True)
class Poll:
    """If the program is to stop, `status[0] = True` and the kernel ends."""

    status: Buffer


Stmt = (
    Let | Load | Store | Declare | Update | For | Gemm | Contract | Transpose | Substitute | Call
    | Assign | While | If | View | Move | Launch | Allocate | Grow | Free | Poll
)  # fmt: skip


def bodies(s: Stmt) -> tuple[tuple[Stmt, ...], ...]:
    """The statements inside a statement."""
    match s:
        case For():
            return (s.body,)
        case While():
            return (s.before, s.body)
        case If():
            return (s.then, s.otherwise)
    return ()


LO, HI, CHUNK = Var("lo", INT), Var("hi", INT), Var("chunk", INT)


@dataclass(frozen=True, slots=True)
class Kernel:
    """A function over buffers and dimension symbols that computes rows `lo..hi` (chunk number `chunk`) of `rows`."""

    name: str
    buffers: tuple[Buffer, ...]
    symbols: tuple[str, ...]
    body: tuple[Stmt, ...]
    rows: Dim
    cost: Dim  # rough nanoseconds of all rows at one thread
    title: str = field(default="", compare=False)  # what it computes, for people


def dimension(symbol: str) -> Var:
    """The scalar that holds a dimension symbol's value; its name is unlike all that a builder makes up."""
    return Var(f"dim.{symbol}", INT)


def identity(kind: str, dtype: np.dtype) -> Num:
    """The neutral element of a reduction."""
    if kind in ("maximum", "minimum"):
        low = kind == "maximum"
        if dtype.kind == "f":
            return Num(-np.inf if low else np.inf, dtype)
        if dtype.kind == "b":
            return Num(not low, dtype)
        info = np.iinfo(dtype)
        return Num(int(info.min if low else info.max), dtype)
    return Num(dtype.type({"add": 0, "mul": 1, "and": 1, "or": 0}[kind]).item(), dtype)
