"""Options that LLVM takes from its command line only: once in a process, which it ends if it is given one twice."""

from __future__ import annotations

import threading
from collections.abc import Callable

# LLVM's NewGVN merges a phi of an outer loop with a value of an inner loop that equals it in the last iteration only:
# wrong results (tests/codegen/test_convolution.py has a small program)
OPTIONS = ("-enable-phi-of-ops=false",)

_lock = threading.Lock()
_given: list[str] = []


def give(to: Callable[[str], None]) -> None:
    """Call `to` with each option, unless that has been done."""
    with _lock:
        for option in OPTIONS[len(_given) :]:
            to(option)
            _given.append(option)
