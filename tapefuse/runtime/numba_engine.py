"""The Numba engine: a `Program`'s Python source, compiled by `@njit` or run as it is, entered from Python.

Numba compiles when a program is first called. There are two builds of one text: `parallel`, as printed, and `serial`,
in which `prange` is `range` and small programs become one function: half the time to compile, for calls too short to
be worth a second thread. Results do not depend on the build.
"""

from __future__ import annotations

import ctypes
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np

from tapefuse._errors import CompileError
from tapefuse._locks import Lock
from tapefuse._records import dataclass
from tapefuse.ir.program import Program
from tapefuse.runtime import threads as pools
from tapefuse.runtime.entry import Layout
from tapefuse.runtime.generated import Source
from tapefuse.runtime.numba_entry import Entry
from tapefuse.runtime.numba_source import written_out

WORTH_THREADS = 100_000  # nanoseconds of work from which a call uses the parallel build, which takes seconds to compile
INLINE_LIMIT = 30  # up to as many functions, one large one compiles faster than all of them
LAUNCHER = "_pieces"  # ends the name of a function that runs another one in pieces
_build_lock = Lock()
_pool_lock = Lock()  # Numba's workqueue layer ends the process when two Python threads enter it


@dataclass(frozen=True, slots=True)
class Loaded:
    """A program in this process.

    `call(*flat)`: Tensors or exact ndarrays in; the Tensor or a tuple of Tensors out, or NotImplemented with nothing
    changed. `function`: `program` of the source, an ordinary `@njit` function for callers in `@njit` code: inputs,
    states, constants, outputs, a uint8 array of scratch memory and the dimensions in, 0 or 1 + the number of the
    failed check out.
    """

    call: Callable[..., Any]
    function: Callable[..., int]
    text: str
    constants: tuple[np.ndarray, ...]
    threads: pools.Count | None  # how many threads it may use; None for a program without parallel regions


def load(
    program: Program,
    layout: Layout,
    states: Sequence[Any],
    handler: Callable[[int], Any],
    *,
    threads: int | None = None,
) -> Loaded:
    """Wrap a program. Its first call compiles it.

    `states`: one Variable per state of the program. `handler(status)` is called for a failed check; it raises.
    `threads`: for this program; None: the process's number. Raises CompileError, as the first call may.
    """
    if len(states) != len(program.states):
        raise CompileError(f"{program.name} has {len(program.states)} states, got {len(states)} variables")
    text = program.numba()
    source = _Source(text, program.name, threads)
    entry = Entry(program, layout, states, handler, source.run)
    return Loaded(entry.__call__, source.build(parallel=True), text, entry.constants, source.threads)


class _Source:
    """The text of a program and its builds, each made when first asked for."""

    def __init__(self, text: str, name: str, threads: int | None):
        self.name = name
        self.source = Source(text, "numba")
        self.threads = pools.count(threads) if "prange(" in text else None
        self.calls = Counter(re.findall(r"^ +(\w+)\(", text, re.MULTILINE))
        self.builds: dict[bool, Callable[..., int]] = {}

    def build(self, parallel: bool) -> Callable[..., int]:
        """`program`, not compiled yet."""
        parallel = parallel and self.threads is not None
        with _build_lock:
            if parallel not in self.builds:
                self.builds[parallel] = self._functions(parallel)["program"]
        return self.builds[parallel]

    def _functions(self, parallel: bool) -> dict[str, Any]:
        """The text's functions with the options that suit a build; without Numba's compiler they are plain Python."""
        import numba

        names = {"__name__": self.source.file.strip("<>").replace("-", "_")}
        if numba.config.DISABLE_JIT:  # type: ignore[attr-defined]
            return self.source.run(names)
        once = self._once(parallel)
        functions = self.source.run(names, lambda module: written_out(module, once))
        for name, f in functions.items():
            if hasattr(f, "targetoptions"):
                functions[name] = numba.jit(**{**f.targetoptions, **_options(name, parallel)})(f.py_func)
        return functions

    def _once(self, parallel: bool) -> set[str]:
        """The functions that are written out where they are called."""
        names = set(re.findall(r"^def (\w+)", self.source.text, re.MULTILINE)) - {"program"}
        if len(names) >= INLINE_LIMIT:
            return set()
        if parallel:
            names -= {part for name in names if name.endswith(LAUNCHER) for part in (name, name.removesuffix(LAUNCHER))}
        return {name for name in names if self.calls[name] == 1}

    def run(self, arguments: Sequence[Any], work: int) -> int:
        """The status of a call that takes about `work` nanoseconds. Raises CompileError when Numba rejects the text."""
        from numba.core.errors import NumbaError

        count = self._threads(work)
        program = self.build(count > 1)
        try:
            if not hasattr(program, "py_func"):
                with np.errstate(all="ignore"):
                    return program(*arguments)
            with _pool(count):
                return program(*arguments)
        except NumbaError as e:
            raise CompileError(f"Numba cannot compile {self.name} (its source is {self.source.file}):\n{e}") from e

    def _threads(self, work: int) -> int:
        """How many threads a call uses. After a fork it is one, and the first call warns."""
        if self.threads is None:
            return 1
        address, warn = pools.notice()
        if ctypes.c_int64.from_address(address).value:
            warn()
        return self.threads.value if work >= WORTH_THREADS else 1


def _options(name: str, parallel: bool) -> dict[str, Any]:
    """What only this engine knows: which functions Python calls, and that none allocates. Saves half of the time."""
    from tapefuse.runtime.numba_pipeline import Compiler

    options: dict[str, Any] = {"no_cfunc_wrapper": True, "no_cpython_wrapper": name != "program"}
    if parallel and name.endswith(LAUNCHER):
        return {**options, "_nrt": True}
    return {**options, "_nrt": False, "no_rewrites": True, "parallel": False, "pipeline_class": Compiler}


@contextmanager
def _pool(count: int) -> Iterator[None]:
    """Numba's threads, `count` of them, for the calling thread."""
    if count == 1:
        yield
        return
    import numba

    pool = pools.numba_pool()
    before = numba.get_num_threads()
    numba.set_num_threads(min(count, pool.size))
    try:
        with nullcontext() if pool.concurrent else _pool_lock:
            yield
    finally:
        numba.set_num_threads(before)
