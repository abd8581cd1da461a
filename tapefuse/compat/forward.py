"""`tf.autodiff.ForwardAccumulator`: forward mode in TensorFlow's spelling, on a persistent tape."""

from __future__ import annotations

from types import TracebackType
from typing import Any

from tapefuse._tree import flatten
from tapefuse.tracer.arrays import python_kind
from tapefuse.tracer.source import user_loc
from tapefuse.tracer.state import state
from tapefuse.tracer.tape import GradientTape
from tapefuse.tracer.tape_arguments import UnconnectedGradients
from tapefuse.tracer.tensor import Tensor, as_tensor
from tapefuse.tracer.variable import Variable


class ForwardAccumulator:
    """Derivatives of what is computed in its `with` block, along `tangents` of `primals`.

    Raises ValueError for a primal that is given twice, a wrong number of tangents, or one of another shape. It keeps
    what was computed until it is deleted: `tp.jvp` and `tape.jvp` are the native ways.
    """

    def __init__(self, primals: Any, tangents: Any):
        self._primals: list[Tensor | Variable] = flatten(primals)[0]
        given = flatten(tangents)[0] if isinstance(primals, (list, tuple, dict)) else [tangents]
        if len({id(x) for x in self._primals}) != len(self._primals):
            raise ValueError(f"ForwardAccumulator at {user_loc()}: a primal is given twice; add its tangents instead")
        if len(given) != len(self._primals):
            raise ValueError(
                f"ForwardAccumulator at {user_loc()}: {len(given)} tangents for {len(self._primals)} primals"
            )
        self._tangents = [_tangent(x, t) for x, t in zip(self._primals, given, strict=True)]
        self._tape = GradientTape(persistent=True, watch_accessed_variables=False)
        self._active = False

    def __enter__(self) -> ForwardAccumulator:
        if self._active:
            raise ValueError("this accumulator is already recording; leave its `with` block before entering it again")
        self._active = True
        self._tape.__enter__()
        self._tape.watch(self._primals)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._active = False
        self._tape.__exit__(kind, error, trace)

    def jvp(self, primals: Any, unconnected_gradients: UnconnectedGradients | str = UnconnectedGradients.NONE) -> Any:
        """The derivatives of tensors computed in the block, in their structure; None, or zeros, where unconnected."""
        if self._tape not in state.tapes:
            return self._tape.jvp(primals, self._primals, self._tangents, unconnected_gradients)
        with self._tape.stop_recording():
            return self._tape.jvp(primals, self._primals, self._tangents, unconnected_gradients)


def _tangent(primal: Tensor | Variable, tangent: Any) -> Tensor:
    t = as_tensor(tangent, primal.dtype) if python_kind(tangent) is not None else as_tensor(tangent)
    if t.shape != primal.shape:
        raise ValueError(
            f"ForwardAccumulator at {user_loc()}: a tangent is {t.type}, its primal {primal.type}; give the primal's "
            "shape"
        )
    return t
