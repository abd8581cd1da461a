"""What a workload's file gives: cases, inputs, a reference, and a function for each framework.

    CASES         the cases
    inputs        (**options) -> NumPy arrays by name, from a fixed seed
    reference     (inputs, **options) -> float64 arrays by name, computed with NumPy
    FRAMEWORKS    name of a framework -> function(inputs, **options) -> Program
    MISSING       optional: name of a framework that has no function -> why
    ENVIRONMENT   optional: environment variables of the processes that are measured

The functions import their framework themselves: a worker process has only one of them.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True, slots=True)
class Case:
    """One row of the tables. `size`: S, M or L. `options`: what the workload's functions take."""

    name: str
    size: str
    options: Mapping[str, Any] = field(default_factory=dict)
    tolerance: float = 1e-4  # relative, by norm: 1e-4 for float32, 1e-9 for float64


class Program(NamedTuple):
    """A workload in one framework, ready for its first call.

    `step()` is the timed call and returns when its results are there. `results(first)` are the arrays to be checked,
    given what the first call returned; it may call `step` again.
    """

    step: Callable[[], Any]
    results: Callable[[Any], Arrays]


def workload(name: str) -> ModuleType:
    """The workload's module."""
    return importlib.import_module(f"benchmarks.workloads.{name}")


def case_of(name: str, case_name: str) -> Case:
    """A workload's case by its name."""
    return next(c for c in workload(name).CASES if c.name == case_name)


def error(found: Arrays, expected: Arrays) -> float:
    """The largest relative distance, by norm, of an array to the expected one. Raises KeyError, ValueError."""
    return max(_distance(found[name], expected[name], name) for name in expected)


def _distance(found: np.ndarray, expected: np.ndarray, name: str) -> float:
    if found.shape != expected.shape:
        raise ValueError(f"{name} has shape {found.shape}, expected {expected.shape}")
    distance = float(np.linalg.norm(np.ravel(found.astype(np.float64) - expected)))
    return distance / max(float(np.linalg.norm(np.ravel(expected))), 1e-300) if np.isfinite(distance) else np.inf
