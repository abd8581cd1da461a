"""How large a dimension gets while a loop's index runs: `bound(n - k, "k", n)` is n."""

from __future__ import annotations

from tapefuse.ir.types import Dim, Poly


def bound(d: Dim, index: str, trips: Dim) -> Dim:
    """A dimension without `index` that is no smaller than `d` for any index from 0 to `trips` - 1. Symbols are not
    negative."""
    if not isinstance(d, Poly) or index not in d.symbols:
        return d
    degree = max(mono.count(index) for mono, _ in d.terms)
    if isinstance(trips, int):
        last = max(trips - 1, 0)
        first, final = d.substitute({index: 0}), d.substitute({index: last})
        if degree == 1 or _is_convex(d, index):
            return _larger(first, final)
        return _grown(d, index, last)
    return _grown(d, index, trips)


def _is_convex(d: Poly, index: str) -> bool:
    return all(mono.count(index) < 2 or coef > 0 for mono, coef in d.terms) and all(
        mono.count(index) <= 2 for mono, _ in d.terms
    )


def _larger(a: Dim, b: Dim) -> Dim:
    """A bound of both."""
    gap = a - b
    if isinstance(gap, int):
        return a if gap > 0 else b
    if all(coef > 0 for _, coef in gap.terms):
        return a
    if all(coef < 0 for _, coef in gap.terms):
        return b
    return _positive(a) + _positive(b)


def _grown(d: Poly, index: str, last: Dim) -> Dim:
    """The sum of what each term is at most."""
    total: Dim = 0
    for mono, coef in d.terms:
        if coef > 0:
            term: Dim = coef
            for symbol in mono:
                term = term * (_positive(last) if symbol == index else Poly.symbol(symbol))
            total = total + term
        elif index not in mono:
            total = total + Poly(((mono, coef),)) if mono else total + coef
    return _positive(total)


def _positive(d: Dim) -> Dim:
    """Without the terms that are negative."""
    if isinstance(d, int):
        return max(d, 0)
    total: Dim = 0
    for mono, coef in d.terms:
        if coef > 0:
            total = total + (Poly(((mono, coef),)) if mono else coef)
    return total
