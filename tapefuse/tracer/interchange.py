"""Arrays of other libraries as tensors, without copies: `tp.from_dlpack(torch_tensor)`."""

from __future__ import annotations

from typing import Any

import numpy as np

from tapefuse.tracer.arrays import check_dtype, normal
from tapefuse.tracer.exchange import on_cpu
from tapefuse.tracer.source import user_loc
from tapefuse.tracer.tensor import Tensor, wrap


def from_dlpack(x: Any, /, *, device: Any = None, copy: bool | None = None) -> Tensor:
    """The array of another library as a tensor, which shares its memory if that is row-major.

    Such memory must not be written to any more: a tensor is taken for what it was. `copy=True` gives the tensor memory
    of its own; `copy=False` raises BufferError where one is needed. Raises DTypeError for a dtype that tensors do not
    have, ValueError for another device, and what the other library raises if it does not export.
    """
    on_cpu(device)
    array = np.from_dlpack(x)
    check_dtype(array.dtype, "an array from DLPack")
    if copy:
        return wrap(np.array(array, order="C"))
    found = normal(array)
    if copy is False and found is not array:
        raise BufferError(f"from_dlpack(copy=False) at {user_loc()}: the array is not row-major, so it must be copied")
    return wrap(found)
