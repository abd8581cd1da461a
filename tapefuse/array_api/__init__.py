"""The array API standard, version 2024.12: its names with its signatures, for code that asks arrays for their library.

    xp = x.__array_namespace__()
    y = xp.sum(xp.exp(x), axis=-1)

All of it is made of `tapefuse.numpy`, so it is recorded, differentiated and compiled like the rest. Python integers
become int64 here. What is missing, and what the conformance tests say: `docs/array-api.md`.
"""

from __future__ import annotations

import math
from sys import modules as _modules
from typing import Any

from tapefuse.array_api import creation, data_types, fft, functions, linalg
from tapefuse.array_api.creation import *  # noqa: F403
from tapefuse.array_api.data_types import *  # noqa: F403

__array_api_version__ = "2024.12"
VERSIONS = ("2021.12", "2022.12", "2023.12", "2024.12")

e, inf, nan, newaxis, pi = math.e, math.inf, math.nan, None, math.pi

globals().update(functions.FUNCTIONS)


def namespace(api_version: str | None) -> Any:
    """This module. Raises ValueError for a version that it is not."""
    if api_version is not None and api_version not in VERSIONS:
        raise ValueError(f"version {api_version!r} of the array API is not supported; {', '.join(VERSIONS)} are")
    return _modules[__name__]


__all__ = creation.__all__ + data_types.__all__ + list(functions.FUNCTIONS)
__all__ += ["__array_api_version__", "e", "fft", "inf", "linalg", "nan", "newaxis", "pi"]
