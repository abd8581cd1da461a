"""Attention: rows of values, averaged with weights that depend on how queries and keys agree."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from tapefuse import numpy as tp
from tapefuse._errors import DTypeError, ShapeError
from tapefuse.ir.halves import limits
from tapefuse.nn.dense import Dense, Initializer, width_of
from tapefuse.nn.module import Module
from tapefuse.tracer.tensor import Tensor, as_tensor


def scaled_dot_product_attention(
    query: Any, key: Any, value: Any, mask: Any = None, causal: bool = False, scale: float | None = None
) -> Tensor:
    """softmax(query key^T * scale) value, the softmax over the keys. (Vaswani et al. 2017)

    `query`: `[..., T, d]`, `key`: `[..., S, d]`, `value`: `[..., S, e]`; the result: `[..., T, e]`. Leading axes
    broadcast. `scale` is 1/sqrt(d) if not given. Query t sees key s where `mask`, bools that broadcast to
    `[..., T, S]`, is true, and, if `causal`, s <= t. A query that sees no key gets the mean of the values.
    Raises `ShapeError`, `DTypeError`.
    """
    query, key, value = as_tensor(query), as_tensor(key), as_tensor(value)
    _check(query, key, value)
    scale = 1.0 / float(width_of("scaled_dot_product_attention", query.shape[-1])) ** 0.5 if scale is None else scale
    scores = tp.matmul(query, tp.swapaxes(key, -1, -2)) * scale
    hidden = float(0.7 * limits(scores.dtype).min)  # finite, so that a row in which all is hidden is no nan
    if mask is not None:
        mask = as_tensor(mask)
        if mask.dtype.kind != "b":
            raise DTypeError(f"scaled_dot_product_attention: the mask must hold bools, got {mask.dtype}")
        scores = tp.where(mask, scores, hidden)
    if causal:
        rows, columns = tp.arange(scores.shape[-2]), tp.arange(scores.shape[-1])
        scores = tp.where(tp.expand_dims(rows, -1) >= columns, scores, hidden)
    return tp.matmul(tp.softmax(scores), value)


def _check(query: Tensor, key: Tensor, value: Tensor) -> None:
    shapes = f"query {tuple(query.shape)}, key {tuple(key.shape)}, value {tuple(value.shape)}"
    if min(query.ndim, key.ndim, value.ndim) < 2:
        raise ShapeError(f"scaled_dot_product_attention: {shapes}: each needs two axes at least")
    if query.shape[-1] != key.shape[-1] or key.shape[-2] != value.shape[-2]:
        raise ShapeError(
            f"scaled_dot_product_attention: {shapes}: query and key must end alike, key and value have as many rows"
        )


class MultiHeadAttention(Module):
    """Attention in `heads` subspaces at once: x is `[..., T, inputs]`, and so is the result. (Vaswani et al. 2017)

    query, key and value are `Dense` layers `[inputs, inputs]`, of which head h owns columns h * d to (h + 1) * d with
    d = inputs / heads; `output` mixes the heads' results. Keys and values come from `context`, `[..., S, inputs]`, or
    from x itself. `mask` and `causal` are those of `scaled_dot_product_attention`; the mask broadcasts to
    `[..., heads, T, S]`. Raises `ValueError` if `heads` does not divide `inputs`, `ShapeError` for x of other widths.
    """

    attribute_order: ClassVar[tuple[str, ...]] = ("query", "key", "value", "output")

    def __init__(
        self,
        heads: int,
        *,
        inputs: int | None = None,
        use_bias: bool = True,
        kernel_initializer: str | Initializer = "glorot_uniform",
        seed: int | np.random.Generator | None = None,
        dtype: Any = np.float32,
        name: str | None = None,
    ):
        super().__init__(name)
        if isinstance(heads, bool) or not isinstance(heads, (int, np.integer)) or heads < 1:
            raise ValueError(f"MultiHeadAttention needs a positive integer of heads, got {heads!r}")
        self.heads = int(heads)
        self.query: Dense | None = None
        self.key: Dense | None = None
        self.value: Dense | None = None
        self.output: Dense | None = None
        self._options = {
            "use_bias": use_bias,
            "kernel_initializer": kernel_initializer,
            "seed": np.random.default_rng(seed),
            "dtype": dtype,
        }
        if inputs is not None:
            self.build(inputs)

    def build(self, inputs: int) -> None:
        """Make the layers for inputs of that width; does nothing if they exist."""
        if self.query is not None:
            return
        if inputs % self.heads:
            raise ValueError(f"{self.name}: {self.heads} heads do not divide {inputs} inputs")
        self.query, self.key, self.value, self.output = (
            Dense(inputs, inputs=inputs, name=name, **self._options) for name in self.attribute_order
        )

    def __call__(self, x: Any, context: Any = None, mask: Any = None, causal: bool = False) -> Tensor:
        x = as_tensor(x)
        if x.ndim < 2:
            raise ShapeError(f"{self.name} takes rows of inputs, [..., T, inputs]; got {tuple(x.shape)}")
        self.build(width_of(self.name, x.shape[-1]))
        assert self.query is not None and self.key is not None and self.value is not None and self.output is not None
        context = x if context is None else as_tensor(context)
        q, k, v = self._split(self.query(x)), self._split(self.key(context)), self._split(self.value(context))
        y = tp.swapaxes(scaled_dot_product_attention(q, k, v, mask, causal), -2, -3)
        return self.output(tp.reshape(y, x.shape))

    def _split(self, x: Tensor) -> Tensor:
        """`[..., T, inputs]` as `[..., heads, T, d]`."""
        *lead, width = x.shape
        return tp.swapaxes(tp.reshape(x, (*lead, self.heads, width_of(self.name, width) // self.heads)), -2, -3)
