"""The training step of a relu network as a plain Python loop has it: a tape, gradients, an optimizer, no compiled
function. tapefuse compiles forward and reverse pass and the optimizer's step of its own accord when they repeat."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.case import Case
from benchmarks.training import training_steps
from benchmarks.workloads import mlp

TITLE = "Eager training step"

CASES = [
    Case("64-64-64-10, batch 32, Adam", "S", {"widths": mlp.SMALL, "batch": 32, "optimizer": "adam"}),
    Case("64-64-64-10, batch 32, SGD", "S", {"widths": mlp.SMALL, "batch": 32, "optimizer": "sgd"}),
    Case("784-256-128-10, batch 256, Adam", "M", {"widths": mlp.LARGE, "batch": 256, "optimizer": "adam"}),
]


def tapefuse_loss(tp, widths: Sequence[int], **options):
    network = lambda p, x: mlp.network(p, x, tp.relu, len(widths) - 1)
    return lambda p, x, y: tp.mean(tp.nn.softmax_cross_entropy(network(p, x), y))


FRAMEWORKS = training_steps({**mlp.LOSSES, "tapefuse": tapefuse_loss}, eager=True)
inputs, reference = mlp.inputs, mlp.reference

__all__ = ["CASES", "FRAMEWORKS", "TITLE", "inputs", "reference"]
