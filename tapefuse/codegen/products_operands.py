"""Which products are our own contractions, which are BLAS calls, and what they read: decided by types alone.

Our kernel reads operands where they are (transposes of the left one, heads of attention, slices), and what is computed
from the product joins its kernel. It packs nothing, so the right operand has to stay in the second cache; beyond that
BLAS, which packs, is ahead. Extents that are known at run time only are taken for TYPICAL.
"""

from __future__ import annotations

import numpy as np

from tapefuse.codegen.contraction import registers
from tapefuse.codegen.costs import SECOND_CACHE, SMALL_PRODUCT, TYPICAL
from tapefuse.codegen.views import View, itself, view
from tapefuse.ir.graph import Value
from tapefuse.ir.types import Dim, size


def is_product(node: Value) -> bool:
    """A matrix product that is not computed by the textbook's formula."""
    return node.op is not None and node.op.library == "matmul" and node.dtype in (np.float32, np.float64)


def is_contraction(node: Value) -> bool:
    return is_product(node) and not why_blas(node)


def why_blas(node: Value) -> str:
    """Why a product is a BLAS call; empty if it is our own kernel's."""
    m, n = map(_typical, node.shape[-2:])
    k = _typical(node.args[0].shape[-1])
    if registers().nbytes < 32 and m * n * k > SMALL_PRODUCT:
        return f"{registers().nbytes}-byte vectors"
    nbytes = k * n * node.dtype.itemsize
    if nbytes > SECOND_CACHE:
        return f"its right operand of {nbytes >> 10} KB does not stay in the second cache"
    return ""


def _typical(n: Dim) -> int:
    return n if isinstance(n, int) else TYPICAL


def operands(node: Value) -> tuple[View, View]:
    """Where a contraction finds its operands. Columns of the right one lie next to each other: else it is copied."""
    left, right = map(view, node.args)
    if right.steps[-1] != 1 and node.shape[-1] != 1:
        right = itself(node.args[1])
    return _in_memory(node.args[0], left), _in_memory(node.args[1], right)


def _in_memory(value: Value, found: View) -> View:
    """A view of something that has memory: a literal has none of its own."""
    literal = found.base.op is not None and not found.base.args
    return itself(value) if literal else found


def folded(operand: Value) -> tuple[Value, bool]:
    """A BLAS operand without a transposition of its last two axes, and whether there was one."""
    if operand.op is not None and operand.op.name == "transpose":
        perm, rank = operand.attributes["perm"], len(operand.shape)
        if rank >= 2 and perm == (*range(rank - 2), rank - 1, rank - 2):
            return operand.args[0], True
    return operand, False


def called_bases(node: Value) -> tuple[Value, ...]:
    """The values whose memory a call of NumPy's reads: matrices without their transpositions."""
    return tuple(folded(a)[0] for a in node.args) if node.op and node.op.library == "numpy" else node.args


def bases(node: Value) -> tuple[Value, ...]:
    """The values whose memory a product reads."""
    if is_contraction(node):
        return tuple(x.base for x in operands(node))
    return tuple(folded(a)[0] for a in node.args)


def terms(node: Value) -> Dim:
    """Multiply-adds of a product."""
    return size(node.shape) * node.args[0].shape[-1]
