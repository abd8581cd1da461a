"""`einsum`: sums of products named by indices, as matrix products one pair of operands after the other.

einsum("...ij,...jk", x, y)     axes that `...` stands for get letters of their own, the result is "...ik"
einsum(x, [0, 1], y, [1, 2])    lists of numbers in place of letters
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tapefuse._errors import ShapeError
from tapefuse.ir import ops
from tapefuse.ir.types import Dim, Shape, show_shape
from tapefuse.ir.types import size as _size
from tapefuse.numpy.diagonals import diagonal
from tapefuse.numpy.elementwise import astype
from tapefuse.numpy.linalg.products import product
from tapefuse.numpy.shape import _refuse, getitem, reshape, transpose
from tapefuse.tracer.promote import common
from tapefuse.tracer.source import called, user_loc
from tapefuse.tracer.tensor import Tensor, as_tensor

Term = str  # one character for each axis of an operand

_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
_DOTS = 0x2460  # the first of the characters that name the axes of an ellipsis, counted from the last axis


def einsum(
    subscripts: Any, *xs: Any, out: Any = None, optimize: Any = False, dtype: Any = None, order: str = "K",
    casting: str = "safe",
) -> Tensor:  # fmt: skip
    """Sums of products named by indices, `einsum("bij,bjk->bik", x, y)`.

    Ellipses, results that follow from the operands, indices named twice in an operand (diagonals) and lists of numbers
    in place of letters have NumPy's meaning. Operands are joined from left to right; `optimize` is accepted.
    Raises ValueError.
    """
    _refuse(out, order=order)
    text, operands = (subscripts, xs) if isinstance(subscripts, str) else _from_lists((subscripts, *xs))
    tensors = [as_tensor(x) for x in operands]
    terms, result = _parsed(text, tensors)
    tensors = common(*operands) if len(tensors) > 1 else tensors
    tensors = tensors if dtype is None else [astype(x, dtype) for x in tensors]
    pairs = [_diagonals(x, t, text) for x, t in zip(tensors, terms, strict=True)]
    _check_extents(text, pairs)
    y, term = pairs[0]
    for k in range(1, len(pairs)):
        later = set(result).union(*[t for _, t in pairs[k + 1 :]])
        y, term = _contracted(y, term, *pairs[k], later)
    y, term = _summed(y, term, set(result))
    return transpose(y, [term.index(c) for c in result])


def _from_lists(given: tuple) -> tuple[str, tuple]:
    """`einsum(x, [0, 1], y, [1, 2], [0, 2])` as text and operands."""
    n = len(given) // 2
    if len(given) < 2:
        raise ValueError(f"{called()}: needs subscripts and operands")

    def letters(numbers: Any) -> str:
        return "".join("..." if k is Ellipsis else _LETTERS[int(k)] for k in numbers)

    terms = ",".join(letters(given[2 * k + 1]) for k in range(n))
    return (f"{terms}->{letters(given[-1])}" if len(given) % 2 else terms), given[0 : 2 * n : 2]


# -- subscripts -----------------------------------------------------------------------------------------------------


def _parsed(subscripts: str, xs: Sequence[Tensor]) -> tuple[list[Term], Term]:
    """A term for each operand and one for the result, with ellipses written out."""
    text = subscripts.replace(" ", "")
    inputs, arrow, result = text.partition("->")
    given = inputs.split(",")
    bare = [t.replace("...", "", 1) for t in (*given, result)]
    if len(given) != len(xs) or not all(c in _LETTERS for t in bare for c in t):
        raise ValueError(
            f"einsum({subscripts!r}) at {user_loc()}: expected e.g. 'ij,jk->ik' with a term for each of {len(xs)} "
            "operands"
        )
    terms = [_written_out(subscripts, t, x) for t, x in zip(given, xs, strict=True)]
    dots = "".join(sorted({c for t in terms for c in t if ord(c) >= _DOTS}, reverse=True))
    if not arrow:
        together = "".join(terms)
        result = dots + "".join(sorted(c for c in set(together) if together.count(c) == 1 and c in _LETTERS))
    elif dots and "..." not in result:
        raise ValueError(f"einsum({subscripts!r}) at {user_loc()}: the result needs '...', since operands have it")
    else:
        result = result.replace("...", dots)
    if len(set(result)) != len(result) or not set(result) <= set("".join(terms)):
        raise ValueError(
            f"einsum({subscripts!r}) at {user_loc()}: the result names an index twice, or one that no operand has"
        )
    return terms, result


def _written_out(subscripts: str, term: str, x: Tensor) -> Term:
    before, dots, after = term.partition("...")
    hidden = x.ndim - len(before) - len(after)
    if hidden < 0 or hidden and not dots:
        raise ShapeError(f"einsum({subscripts!r}) at {user_loc()}: {term!r} does not name each axis of {x.type} once")
    return before + "".join(chr(_DOTS + k) for k in reversed(range(hidden))) + after


# -- operands -------------------------------------------------------------------------------------------------------


def _diagonals(x: Tensor, term: Term, subscripts: str) -> tuple[Tensor, Term]:
    """An operand with each index once: where it has one twice, the diagonal."""
    for c in term:
        while term.count(c) > 1:
            first, second = term.index(c), term.rindex(c)
            if x.shape[first] != x.shape[second]:
                raise ShapeError(f"einsum({subscripts!r}) at {user_loc()}: index {c!r} has two extents in {x.type}")
            x = diagonal(x, 0, first, second)
            term = "".join(t for k, t in enumerate(term) if k not in (first, second)) + c
    return x, term


def _check_extents(subscripts: str, pairs: Sequence[tuple[Tensor, Term]]) -> None:
    known: dict[str, Dim] = {}
    for x, term in pairs:
        for c, n in zip(term, x.shape, strict=True):
            if n != 1 and known.setdefault(c, n) != n:
                raise ShapeError(
                    f"einsum({subscripts!r}) at {user_loc()}: an index has two extents, {known[c]} and {n}, in "
                    f"{' and '.join(show_shape(x.shape) for x, _ in pairs)}"
                )


def _summed(x: Tensor, term: Term, needed: set[str]) -> tuple[Tensor, Term]:
    """The sum over the indices that are not needed, in the operand's dtype."""
    axes = tuple([k for k, c in enumerate(term) if c not in needed])
    if not axes:
        return x, term
    op = ops.reduce_any if x.dtype.kind == "b" else ops.reduce_sum
    return op(x, axes=axes), "".join(c for c in term if c in needed)


def _contracted(x: Tensor, s: Term, y: Tensor, t: Term, later: set[str]) -> tuple[Tensor, Term]:
    """The product of two operands, summed over the indices that are not needed later, as one batched matrix product."""
    x, s = _summed(*_unstretched(x, s, y, t), set(t) | later)
    y, t = _summed(*_unstretched(y, t, x, s), set(s) | later)
    extents = {**dict(zip(s, x.shape, strict=True)), **dict(zip(t, y.shape, strict=True))}
    batch = [c for c in s if c in t and c in later]
    over = [c for c in s if c in t and c not in later]
    rows, columns = [c for c in s if c not in t], [c for c in t if c not in s]

    def shape(cs: Sequence[str]) -> Shape:
        return tuple([extents[c] for c in cs])

    left = transpose(x, [s.index(c) for c in (*batch, *rows, *over)])
    right = transpose(y, [t.index(c) for c in (*batch, *over, *columns)])
    left = reshape(left, (*shape(batch), _size(shape(rows)), _size(shape(over))))
    right = reshape(right, (*shape(batch), _size(shape(over)), _size(shape(columns))))
    return reshape(product(left, right), shape([*batch, *rows, *columns])), "".join([*batch, *rows, *columns])


def _unstretched(x: Tensor, s: Term, y: Tensor, t: Term) -> tuple[Tensor, Term]:
    """Without the axes of extent 1 that the other operand stretches."""
    stretched = [k for k, c in enumerate(s) if x.shape[k] == 1 and c in t and y.shape[t.index(c)] != 1]
    if not stretched:
        return x, s
    index = tuple([0 if k in stretched else slice(None) for k in range(x.ndim)])
    return getitem(x, index), "".join(c for k, c in enumerate(s) if k not in stretched)


def einsum_path(subscripts: Any, *xs: Any, optimize: Any = "greedy", einsum_call: bool = False) -> Any:
    """NumPy's plan for the order of contractions, from the operands' shapes."""
    shapes = [np.empty(x.shape) if hasattr(x, "shape") else x for x in xs]
    return np.einsum_path(subscripts, *shapes, optimize=optimize)


__all__ = ["einsum", "einsum_path"]
