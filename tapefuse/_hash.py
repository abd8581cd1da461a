"""Digests without OpenSSL, which comes with `hashlib` and takes 3 ms to load."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

_SHA = "_sha2" if sys.version_info >= (3, 12) else "_sha256"  # of CPython, what `hashlib` falls back to


def _constructor(name: str, module: str) -> Any:
    try:
        return getattr(import_module(module), name)
    except ImportError:  # another Python
        return getattr(import_module("hashlib"), name)


sha256, blake2b = _constructor("sha256", _SHA), _constructor("blake2b", "_blake2")
