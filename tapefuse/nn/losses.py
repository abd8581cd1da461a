"""Losses, one number per example: take `.mean()` (or a weighted sum) of what they return."""

from __future__ import annotations

from typing import Any

from tapefuse import numpy as tp
from tapefuse._errors import DTypeError, ShapeError
from tapefuse.ir.halves import kind_of
from tapefuse.tracer.tensor import Tensor, as_tensor


def softmax_cross_entropy(logits: Any, labels: Any) -> Tensor:
    """-log(softmax(logits)[label]) per example.

    `logits`: floats, `[..., classes]`. `labels`: either integers `[...]` in `0 <= label < classes`, or probabilities
    (one-hot rows, say) of the shape of `logits`. Result: `[...]`, the dtype of `logits`.
    Raises `ShapeError`, `DTypeError`, and `IndexError` when run with a label outside the classes (also a negative one).
    """
    logits, labels = as_tensor(logits), as_tensor(labels)
    if not logits.shape:
        raise ShapeError(f"softmax_cross_entropy: logits need an axis of classes, got a scalar of dtype {logits.dtype}")
    if kind_of(logits.dtype) != "f":
        raise DTypeError(f"softmax_cross_entropy: logits must be floats, got {logits.dtype}; cast them first")
    if labels.dtype.kind in "iu":
        return _sparse(logits, labels)
    if tuple(labels.shape) != tuple(logits.shape):
        raise ShapeError(
            f"softmax_cross_entropy: labels {labels.dtype}{list(labels.shape)} are neither integers of shape "
            f"{list(logits.shape[:-1])} nor probabilities of the logits' shape {list(logits.shape)}"
        )
    return -tp.sum(labels * tp.log_softmax(logits), axis=-1)


def _sparse(logits: Tensor, labels: Tensor) -> Tensor:
    if tuple(labels.shape) != tuple(logits.shape[:-1]):
        raise ShapeError(
            f"softmax_cross_entropy: integer labels of shape {list(labels.shape)} do not fit logits of shape "
            f"{list(logits.shape)}; expected labels of shape {list(logits.shape[:-1])}"
        )
    classes = logits.shape[-1]
    index = labels if _are_all_positive(labels) else tp.where(labels < 0, classes, labels)
    z = logits - tp.stop_gradient(tp.max(logits, axis=-1, keepdims=True))
    picked = tp.take_along_axis(z, tp.reshape(index, (*labels.shape, 1)), axis=-1)
    return tp.log(tp.sum(tp.exp(z), axis=-1)) - tp.reshape(picked, labels.shape)


def _are_all_positive(labels: Tensor) -> bool:
    """Whether that is known already. A negative index would wrap; a negative label is a mistake."""
    return labels.dtype.kind == "u" or (type(labels) is Tensor and labels.size > 0 and bool(labels._array.min() >= 0))


def mse(prediction: Any, target: Any) -> Tensor:
    """Mean over the last axis of (prediction - target)**2: one number per example; a number for scalars.

    The shapes must be equal: `[B]` against `[B, 1]` would broadcast to `[B, B]` in silence. Raises `ShapeError`.
    """
    prediction, target = as_tensor(prediction), as_tensor(target)
    if tuple(prediction.shape) != tuple(target.shape):
        raise ShapeError(
            f"mse: prediction {list(prediction.shape)} and target {list(target.shape)} differ in shape; reshape one"
        )
    squares = (prediction - target) ** 2
    return tp.mean(squares, axis=-1) if prediction.shape else squares
