"""The minimum of Rosenbrock's function of n float64 by scipy's L-BFGS-B to a gradient of 1e-8: a whole run, in which
scipy's own work has its share (its BLAS with one thread, which is faster here and steadier)."""

from __future__ import annotations

from functools import partial

import numpy as np

from benchmarks.case import Arrays, Case, Program
from benchmarks.gradients import evaluation
from benchmarks.workloads.rosen import FORMULAS, inputs
from benchmarks.workloads.rosen import FRAMEWORKS as EVALUATED

TITLE = "Rosenbrock, L-BFGS-B"

CASES = [  # where a run ends depends on rounding, within what the gradient's bound leaves
    Case(f"n = {n:,}", size, {"n": n}, tolerance=1e-6) for size, n in (("S", 10), ("M", 1_000), ("L", 100_000))
]
ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1"}


def reference(arrays: Arrays, n: int) -> Arrays:
    return {"x": np.ones(n)}


def with_framework(name: str, arrays: Arrays, n: int) -> Program:
    from scipy.optimize import minimize

    formula = FORMULAS[name.removesuffix("_compile").removesuffix("_xla")]
    function, (x,) = evaluation(name, formula, arrays, 1, True, n=n)
    options = {"gtol": 1e-8, "ftol": 0.0, "maxiter": 10_000, "maxfun": 20_000}
    step = lambda: minimize(function, x, jac=True, method="L-BFGS-B", options=options)
    return Program(step, lambda first: {"x": first.x})


FRAMEWORKS = {name: partial(with_framework, name) for name in EVALUATED}

__all__ = ["CASES", "ENVIRONMENT", "FRAMEWORKS", "TITLE", "inputs", "reference"]
