"""What is asked of tapefuse: for each case, how many times our time the best peer must take at least.

A mark holds for the cases of a workload whose options contain `where`, by their sizes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from benchmarks.case import Case


@dataclass(frozen=True, slots=True)
class Mark:
    workload: str
    ratios: Mapping[str, float]  # by size
    where: Mapping[str, Any] = field(default_factory=dict)


SMALL, LARGE = (64, 64, 64, 10), (784, 256, 128, 10)
MARKS = (
    Mark("dispatch", {"S": 4}),
    Mark("rosen", {"S": 4, "M": 1.2, "L": 1}),
    Mark("logreg", {"S": 2, "M": 1, "L": 1}),
    Mark("ewchain", {"S": 3, "M": 1.5, "L": 1.3}, {"dtype": "float32"}),
    Mark("ewchain", {"M": 1.5, "L": 1.3}, {"dtype": "float64"}),
    Mark("reductions", {"S": 3, "M": 1.5, "L": 1.2}),
    Mark("xent", {"S": 3, "M": 1.3, "L": 2.5}),
    Mark("mlp", {"S": 2.5}, {"widths": SMALL}),
    Mark("mlp", {"S": 1.3, "M": 1.15, "L": 1.05}, {"widths": LARGE}),
    Mark("cnn", {"S": 1, "M": 1, "L": 1}),
    Mark("lstm", {"S": 2, "M": 1.5, "L": 1.2}),
    Mark("transformer", {"S": 1.3, "M": 1.1, "L": 1}),
    Mark("stencils", {"S": 2.5, "M": 6, "L": 5}),
    Mark("seidel2d", {"S": 1.7, "M": 1.7, "L": 1.7}),
    Mark("nbody", {"S": 3, "M": 3, "L": 3}),
    Mark("loops", {"S": 3, "M": 3, "L": 3}),
    Mark("black_scholes", {"S": 2.5, "M": 2, "L": 2}),
    Mark("second_order", {"S": 1.5}, {"batch": 32}),  # Hessian times vector
    Mark("second_order", {"L": 1.2}, {"batch": 512}),
    Mark("second_order", {"S": 5}, {"p": 5}),  # Hessian
    Mark("second_order", {"M": 3}, {"p": 20}),
    Mark("embedding", {"S": 3, "M": 2, "L": 1.2}),
)
JAX_MARKS = {"dispatch": {"S": 10.0}, "seidel2d": {"S": 30.0, "M": 300.0}}  # against JAX as users write it, by size
BY_HAND = 1.3  # our time over that of an adjoint written by hand, at most, where there is one
COSTS = {"import": 2.0, "cold": 1.0, "warm": 3.0, "peak_mb": 1.0}  # JAX's cost over ours, in every workload


def mark(workload: str, case: Case) -> float | None:
    """The ratio that is asked for, None if none is."""
    for m in MARKS:
        if m.workload == workload and m.where.items() <= dict(case.options).items() and case.size in m.ratios:
            return m.ratios[case.size]
    return None
