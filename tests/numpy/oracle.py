"""What NumPy makes of a call, for the tables of calls."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np


def result_of(call: Callable[..., Any], *args: Any) -> Any:
    """The result, or the exception that it raises."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            return call(*args)
        except Exception as error:
            return error
