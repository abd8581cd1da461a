"""SHA-256 without OpenSSL, which comes with `hashlib` and takes 3 ms to load."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

_MODULE = "_sha2" if sys.version_info >= (3, 12) else "_sha256"  # those of CPython, which `hashlib` falls back to


def _constructor() -> Any:
    try:
        return import_module(_MODULE).sha256
    except ImportError:  # another Python
        return import_module("hashlib").sha256


sha256 = _constructor()
