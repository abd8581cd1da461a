"""Library ops of complex matrices on real numbers: what programs run in place of them.

    %x = solve %a, %b : c128[3,2]      becomes      %x = solve_in_pairs %a, %b : f64[3,2,2]

Operands and a complex result hold real and imaginary parts along a last axis, which is how arrays of complex numbers
lie in memory, so NumPy's loops for complex numbers run on them where they are. The pass `complex` makes these ops after
all derivatives have been taken, so they have no rules for them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from tapefuse._records import dataclass
from tapefuse.ir.op import OPS, Op, register
from tapefuse.ir.ops.family import same_dtype
from tapefuse.ir.ops.fourier import check_pairs
from tapefuse.ir.types import Shape, Type, complex_dtype, real_dtype

SUFFIX = "_in_pairs"
from_pairs, pairs = OPS["from_pairs"], OPS["pairs"]


@dataclass(frozen=True, slots=True)
class Numbers:
    """A value of pairs as the complex numbers that a rule `calls` takes it for; `value` is what is in memory."""

    value: Any

    @property
    def dtype(self) -> np.dtype:
        return complex_dtype(self.value.dtype)

    @property
    def shape(self) -> Shape:
        return self.value.shape[:-1]

    @property
    def type(self) -> Type:
        return Type(self.dtype, self.shape)


def _paired(type: Type) -> Type:
    return Type(real_dtype(type.dtype), (*type.shape, 2)) if type.dtype.kind == "c" else type


def _numbers(type: Type) -> Type:
    check_pairs(type)
    return Type(complex_dtype(same_dtype([type], "f")), type.shape[:-1])


def in_pairs(op: Op, real: Sequence[int] = ()) -> Op:
    """`op` of complex operands, as an op of pairs. Its result is one of pairs if that of `op` is complex.

    `real`: positions of operands that are real beside complex ones.
    """

    def each(f: Callable[[Any], Any], xs: Iterable[Any]) -> list[Any]:
        return [x if k in real else f(x) for k, x in enumerate(xs)]

    def type(*xs: Type, **attrs: Any) -> Type:
        return op.type(*each(_numbers, xs), **attrs)

    def ref(*xs: np.ndarray, **attrs: Any) -> np.ndarray:
        y = op.ref(*each(from_pairs.ref, xs), **attrs)
        return np.asarray(pairs.ref(y) if y.dtype.kind == "c" else y)

    def batch(flags: Sequence[bool], *xs: Any, **attrs: Any) -> Any:
        y = op.batch(flags, *each(from_pairs, xs), **attrs)
        return pairs(y) if y.dtype.kind == "c" else y

    def calls(k: Any, y: Any, *xs: Any, **attrs: Any) -> None:
        assert op.calls is not None
        is_complex = type(*(x.type for x in xs), **attrs).dtype.kind == "c"
        op.calls(k, Numbers(y) if is_complex else y, *each(Numbers, xs), **attrs)

    def sample(rng: np.random.Generator, dtype: Any) -> list[tuple[tuple, dict]]:
        return [(tuple(each(pairs.ref, xs)), attrs) for xs, attrs in op.sample(rng, complex_dtype(np.dtype(dtype)))]

    return register(
        Op(
            name=op.name + SUFFIX,
            doc=f"`{op.name}` of complex numbers, whose parts stand along a last axis.",
            ref=ref,
            type=lambda *xs, **attrs: _paired(type(*xs, **attrs)),
            vjp=None,
            jvp=None,
            batch=batch,
            sample=sample,
            calls=calls,
            failure=op.failure,
            library=op.library,
        )
    )


for _name in (
    *("solve", "triangular_solve", "inv", "cofactors", "det", "slogdet"),
    *("cholesky", "eigh", "eigvalsh", "svd", "svdvals", "qr"),
):
    in_pairs(OPS[_name])
in_pairs(OPS["pinv"], real=(1,))
