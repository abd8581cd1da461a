"""The training step of examples/digits.py: 64-128-64-10, batch 32, Adam; ours is compiled once for every batch size."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from benchmarks.case import Arrays, Case, Program
from benchmarks.workloads.mlp import inputs, reference, tapefuse_model, tapefuse_program, with_jax

TITLE = "Digits training step"

OPTIONS = {"widths": (64, 128, 64, 10), "batch": 32, "optimizer": "adam"}
CASES = [
    Case("native arrays", "S", OPTIONS),
    Case("NumPy batches", "S", {**OPTIONS, "numpy_in": True}),
]


def with_tapefuse(arrays: Arrays, widths: Sequence[int], batch: int, optimizer: str, numpy_in: bool = False) -> Program:
    import tapefuse as tp

    signature = [tp.TensorSpec(("B", widths[0]), np.float32), tp.TensorSpec(("B",), np.int64)]
    train_step, model = tapefuse_model(arrays, widths, optimizer, signature)
    x, y = (arrays["x"], arrays["y"]) if numpy_in else (tp.constant(arrays["x"]), tp.constant(arrays["y"]))
    return tapefuse_program(lambda: train_step(x, y), model)


FRAMEWORKS = {"tapefuse": with_tapefuse, "jax": with_jax}

__all__ = ["CASES", "FRAMEWORKS", "TITLE", "inputs", "reference"]
