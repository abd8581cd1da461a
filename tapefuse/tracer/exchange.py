"""Arrays for other libraries by DLPack: what they are told of memory that nobody may write to."""

from __future__ import annotations

from typing import Any

import numpy as np

from tapefuse.tracer.source import user_loc

CPU = 1  # kDLCPU among DLPack's device types


def on_cpu(device: Any) -> None:
    """Raises ValueError for a device that is another than the CPU."""
    if device not in (None, "cpu", (CPU, 0)):
        raise ValueError(f"device {device!r} at {user_loc()}: tensors are in the memory of the CPU; leave it out")


def exported(x: Any, stream: Any, max_version: Any, dl_device: Any, copy: bool | None) -> Any:
    """A DLPack capsule of a tensor or variable. Raises BufferError where it cannot be had."""
    if dl_device not in (None, (CPU, 0)):
        raise BufferError(f"device {dl_device!r} at {user_loc()}: tensors are in the memory of the CPU")
    array = np.asarray(x)  # read-only, shares memory
    if array.dtype.kind == "V":
        raise BufferError(f"{array.dtype} at {user_loc()} has no DLPack export; cast it to float32 first")
    marks = max_version is not None and max_version[0] >= 1
    if copy or not marks:
        if copy is False:
            raise BufferError(
                f"__dlpack__(copy=False) at {user_loc()}: a tensor is read-only, which DLPack can say from 1.0 on; "
                "ask for max_version=(1, 0), or take a copy"
            )
        array = array.copy()
    return array.__dlpack__(stream=stream, max_version=max_version)
