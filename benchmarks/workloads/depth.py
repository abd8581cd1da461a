"""Compile time by depth: one SGD step of a relu network of many layers of 32 units, batch 32."""

from __future__ import annotations

from benchmarks.case import Case
from benchmarks.workloads import mlp

TITLE = "Deep networks"

CASES = [
    Case(f"{depth} layers", size, {"widths": (32,) * depth + (10,), "batch": 32, "optimizer": "sgd"}, tolerance=1e-3)
    for size, depth in (("S", 10), ("M", 50), ("L", 200))
]

FRAMEWORKS = {name: mlp.FRAMEWORKS[name] for name in ("tapefuse", "jax")}
inputs, reference = mlp.inputs, mlp.reference

__all__ = ["CASES", "FRAMEWORKS", "TITLE", "inputs", "reference"]
