"""What is known of an innermost loop before it is printed with vectors: which scalars vary, and how addresses move."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tapefuse._records import dataclass
from tapefuse.codegen.llvm_instructions import LIBM
from tapefuse.codegen.loops import INT, Buffer, For, Let, Load, Num, Scalar, Store, Update, Var
from tapefuse.ir.types import size

REGISTER = 64  # bytes of the widest vector registers; LLVM splits vectors on machines with narrower ones
MOST_LANES = 32
Slopes = Mapping[Var, int | None]  # varying scalars: their step per iteration if affine, else None


@dataclass(frozen=True)
class Shape:
    """What is known of a loop before it is printed."""

    width: int
    slopes: dict[Var, int | None]  # varying scalars: their step per iteration if affine, else None
    trips: int | None  # number of iterations, if fixed


def slopes_of(s: For) -> dict[Var, int | None]:
    """Which scalars vary from one iteration to the next, and by how much if always the same."""
    slopes: dict[Var, int | None] = {s.var: 1}
    stored = {t.buffer for t in s.body if isinstance(t, Store)}
    for stmt in s.body:
        if isinstance(stmt, Load) and (stmt.buffer in stored or any(i in slopes for i in stmt.index)):
            slopes[stmt.dst] = None
        elif isinstance(stmt, Let) and (stmt.op == "read" or any(a in slopes for a in stmt.args)):
            slopes[stmt.dst] = _slope(stmt, slopes)
    return slopes


def _slope(s: Let, slopes: dict[Var, int | None]) -> int | None:
    if s.dst.dtype != INT or len(s.args) != 2:
        return None
    x, y = (0 if isinstance(a, Num) or a not in slopes else slopes[a] for a in s.args)
    if x is None or y is None:
        return None
    if s.op in ("add", "sub"):
        return x + y if s.op == "add" else x - y
    if s.op == "mul" and isinstance(s.args[1], Num):
        return x * int(s.args[1].value)
    if s.op == "mul" and isinstance(s.args[0], Num):
        return y * int(s.args[0].value)
    return None


def address_step(buffer: Buffer, index: Sequence[Scalar], slopes: dict[Var, int | None]) -> int | None:
    """By how many elements an address moves from one iteration to the next; None: not by a fixed number."""
    total = 0
    for axis, i in enumerate(index):
        slope = 0 if isinstance(i, Num) or i not in slopes else slopes[i]
        stride = size(buffer.type.shape[axis + 1 :])
        if slope == 0:
            continue
        if slope is None or not isinstance(stride, int):
            return None
        total += slope * stride
    return total


def is_strictly_scalar(s: For) -> bool:
    """Whether vectors would change the order of a sum, or a function of libm is called."""
    sums = any(isinstance(t, Update) and t.op in ("add", "mul") and t.acc.dtype.kind == "f" for t in s.body)
    return sums or any(isinstance(t, Let) and t.op in (*LIBM, "sigmoid", "softplus") for t in s.body)


def examined(s: For) -> Shape | None:
    """The loop's shape if it can be printed with vectors."""
    if not all(isinstance(t, Load | Store | Update) or isinstance(t, Let) and _is_readable(t, s) for t in s.body):
        return None
    slopes = slopes_of(s)
    columns = {t.buffer: _varying(t.index, slopes) for t in s.body if isinstance(t, Store)}
    bytes_ = 1
    for t in s.body:
        if isinstance(t, Store) and address_step(t.buffer, t.index, slopes) not in (1, -1):
            return None
        if isinstance(t, Load | Store) and columns.get(t.buffer, found := _varying(t.index, slopes)) != found:
            return None
        if isinstance(t, Let) and t.dst in slopes and not _is_vector_op(t, slopes):
            return None
        if isinstance(t, Let | Load) and slopes.get(t.dst, 0) is None or isinstance(t, Store):
            bytes_ = max(bytes_, (t.value if isinstance(t, Store) else t.dst).dtype.itemsize)
    trips = int(s.stop.value - s.start.value) if isinstance(s.stop, Num) and isinstance(s.start, Num) else None
    width = min(REGISTER // bytes_, MOST_LANES)
    if trips is not None and trips < width:
        width = 1 << max(trips - 1, 0).bit_length()
    elif any(isinstance(t, Update) for t in s.body) and not running_sums(s) and (trips is None or trips >= 4 * width):
        width *= 2  # two vectors at a time: their additions overlap
    return Shape(width, slopes, trips) if width > 1 else None


def _varying(index: Sequence[Scalar], slopes: dict[Var, int | None]) -> tuple[Scalar | None, ...]:
    """The part of an index that changes. Where it is the same in all that a loop does with an array, iterations touch
    different elements, in whichever rows."""
    return tuple(i if i in slopes else None for i in index)


def running_sums(s: For) -> dict[Var, Var]:
    """Running sums: the accumulators that the loop reads, and the scalars that hold what was read."""
    return {t.args[0]: t.dst for t in s.body if isinstance(t, Let) and t.op == "read"}  # type: ignore[misc]


def _is_readable(t: Let, s: For) -> bool:
    """Not a read of an accumulator, unless the loop's only statement about it before adds one term."""
    if t.op != "read":
        return True
    before = [u for u in s.body[: s.body.index(t)] if isinstance(u, Update) and u.acc == t.args[0]]
    after = [u for u in s.body[s.body.index(t) :] if isinstance(u, Update) and u.acc == t.args[0]]
    return len(before) == 1 and not after and before[0].op == "add" and list(running_sums(s)) == [t.args[0]]


def _is_vector_op(t: Let, slopes: dict[Var, int | None]) -> bool:
    """Integer division and power, and the float remainder, have no vector instructions."""
    if t.op not in ("pow", "floordiv", "mod") or slopes[t.dst] is not None:
        return True
    return t.op == "pow" and t.dst.dtype.kind == "f"
