"""Locks that are free in a forked child, where threads that held them are no more."""

from __future__ import annotations

import os
import threading
import weakref
from typing import Any


class Lock:
    """Use it in a `with` block. `reentrant`: the thread that holds it may take it again.

    A fork may interrupt another thread anywhere in the block, so what is changed in it must be whole at each moment.
    """

    __slots__ = ("__weakref__", "_inner", "_kind", "_owner")

    def __init__(self, reentrant: bool = False):
        self._kind: Any = threading.RLock if reentrant else threading.Lock
        self._inner = self._kind()
        self._owner = 0
        _all.add(self)

    def __enter__(self) -> None:
        self._inner.acquire()
        self._owner = threading.get_ident()

    def __exit__(self, *exception: object) -> None:
        if self._kind is threading.Lock:
            self._owner = 0
        self._inner.release()

    def _renew(self) -> None:
        if self._owner != threading.get_ident():
            self._inner = self._kind()


_all: weakref.WeakSet[Lock] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for lock in list(_all):
        lock._renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
