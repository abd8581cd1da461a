"""Eigenvalues and eigenvectors of general matrices, under NumPy's names. They are complex, whatever the matrix."""

from __future__ import annotations

from typing import Any, NamedTuple

from tapefuse.ir import ops
from tapefuse.ir.ops.matrices import rows, the_row
from tapefuse.numpy.linalg.matrices import squares
from tapefuse.tracer.tensor import Tensor


class EigResult(NamedTuple):
    eigenvalues: Tensor
    eigenvectors: Tensor


def _operand(a: Any) -> tuple[Tensor, dict[str, bool]]:
    x = squares(a)
    paired = x.dtype.kind == "c"
    return ops.pairs(x) if paired else x, {"paired": paired}


def eig(a: Any) -> EigResult:
    """Eigenvalues in no order, and eigenvectors: columns of length 1 whose largest elements are real. Both complex.

    No derivatives are passed on between equal eigenvalues; matrices without n independent eigenvectors have none.
    Raises LinAlgError where there are infs or nans, or nothing converges.
    """
    x, attrs = _operand(a)
    y = ops.from_pairs(ops.eig(x, **attrs))
    return EigResult(the_row(y, 0), rows(y, 1, y.shape[-2]))


def eigvals(a: Any) -> Tensor:
    """The eigenvalues, complex, in no order. Raises LinAlgError as `eig` does."""
    x, attrs = _operand(a)
    return ops.from_pairs(ops.eigvals(x, **attrs))
