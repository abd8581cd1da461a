"""The LLVM engine: a `Program` becomes a builtin function of Python.

Text -> object code (kept on disk) -> linked into this process by LLJIT -> entered through `entry.ll`. Addresses come in
as symbols when linking, so the object code is the same in every process.
"""

from __future__ import annotations

import atexit
import ctypes
import itertools
import platform
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache as once
from pathlib import Path
from typing import Any, NamedTuple

from tapefuse._errors import CompileError
from tapefuse.ir.program import Program
from tapefuse.runtime import blas, cache, threads
from tapefuse.runtime.abi import Layout, check_abi
from tapefuse.runtime.compile import QUICK, compile_object, fingerprint, llvm_lock
from tapefuse.runtime.entry import build_table, entry_symbols, entry_text

_ENTRY, _PROGRAM, _RUN = "tapefuse_entry", "tapefuse_program", "tapefuse_run"
_POOL, _POOL_START = "tapefuse_parallel_for", "tapefuse_pool_start"
_PAUSES = {  # how a processor is told that a loop waits
    "x86_64": ("declare void @llvm.x86.sse2.pause()", "call void @llvm.x86.sse2.pause()"),
    "amd64": ("declare void @llvm.x86.sse2.pause()", "call void @llvm.x86.sse2.pause()"),
    "aarch64": ("declare void @llvm.aarch64.hint(i32)", "call void @llvm.aarch64.hint(i32 1)"),
    "arm64": ("declare void @llvm.aarch64.hint(i32)", "call void @llvm.aarch64.hint(i32 1)"),
}
_pools: list[Any] = []  # linked code of the pool: its threads run in it as long as the process lives
_METH_FASTCALL = 0x80
_names = itertools.count()


@dataclass(frozen=True, slots=True)
class Loaded:
    """A program in this process. Unloaded when neither this object nor `call` is referenced any more.

    `call(*flat)`: Tensors or exact ndarrays in; the Tensor or a tuple of Tensors out, or NotImplemented with nothing
    changed (see `entry`).
    `pointer`: address of `i64 tapefuse_program(ptr pointers, ptr dims)`, for callers in C or @njit.
    """

    call: Callable[..., Any]
    pointer: int
    object_size: int
    cached: bool  # the object code was on disk
    compile_seconds: float  # text, optimisation and code generation; 0.0 when cached
    link_seconds: float
    threads: threads.Count | None  # the word that its kernels read; None for a program without parallel regions
    _keep: Any = field(repr=False, default=None)


class _Parallel(NamedTuple):
    """What a program with parallel regions needs beside others."""

    word: threads.Count | None
    words: dict[str, int]  # fields of the table
    symbols: dict[str, int]
    keep: tuple


def load(
    program: Program,
    layout: Layout,
    states: Sequence[Any],
    handler: Callable[[int], Any],
    *,
    threads: int | None = None,
) -> Loaded:
    """Compile (or read from disk), link and wrap a program.

    `states`: one Variable per state of the program. `handler(status)` is called for a failed check; it raises.
    `threads`: for this program; None: the process's number. Raises CompileError.
    """
    if len(states) != len(program.states):
        raise CompileError(f"{program.name} has {len(program.states)} states, got {len(states)} variables")
    check_abi()
    entry = _linked_entry()
    start = time.perf_counter()
    text = program.llvm()
    object_code, cached = _object_code(text, program.name)
    compiled = time.perf_counter()
    word, words, symbols, kept = _parallel(program, threads)
    symbols |= {n: blas.address(n) for n in program.externals if n in blas.FUNCTIONS}
    launcher = _linked_launcher() if _RUN in program.externals else {_RUN: 0}
    tracker = _link(object_code, _PROGRAM, symbols | {_RUN: launcher[_RUN]}, text)
    table = build_table(program, layout, states, handler, {"program": tracker[_PROGRAM], **words})
    call = _builtin(program.name, entry[_ENTRY], table)
    table.keep += (tracker, entry, launcher, *kept)
    compile_seconds, link_seconds = compiled - start, time.perf_counter() - compiled
    pointer, size = tracker[_PROGRAM], len(object_code)
    return Loaded(call, pointer, size, cached, 0.0 if cached else compile_seconds, link_seconds, word, table)


def _object_code(text: str, name: str) -> tuple[bytes, bool]:
    """(object code, was it on disk)"""
    kept = cache.current()
    if kept is None:
        return compile_object(text), False
    key = cache.digest(text, *fingerprint())
    found = kept.load(key)
    if found is not None:
        return found, True
    object_code = compile_object(text)
    kept.store(key, object_code, {"name": name, "llvm": len(text), "compiler": " ".join(fingerprint()[:5])})
    return object_code, False


def _parallel(program: Program, wanted: int | None) -> _Parallel:
    if not program.externals & {"numba_parallel_for", "tapefuse_threads"}:
        return _Parallel(None, {}, {}, ())
    workers, word = pool(), threads.count(wanted)
    notice, warn = threads.notice()
    words = {"get_mask": workers.get_mask, "set_mask": workers.set_mask, "notice": notice, "warning": id(warn)}
    if not workers.concurrent:
        words["gil_limit"] = (1 << 63) - 1
    symbols = {"numba_parallel_for": workers.parallel_for, "tapefuse_threads": ctypes.addressof(word)}
    return _Parallel(word, words, symbols, (word, warn))


@once
def _jit() -> Any:
    import llvmlite.binding as llvm

    fingerprint()  # initialises LLVM's targets
    return llvm.create_lljit_compiler(suppress_errors=True)  # they come as exceptions


@once
def _linked_entry() -> Any:
    text = entry_text()
    return _link(_soon(text, "entry"), _ENTRY, entry_symbols(), text)


@once
def _linked_launcher() -> Any:
    numbers = ", ".join(f"i64 {k}" for k in range(64))
    text = (Path(__file__).parent / "launch.ll").read_text().replace("NUMBERS", numbers)
    return _link(_soon(text, "launch"), _RUN, {}, text)


def _soon(text: str, name: str) -> bytes:
    """Object code that every program needs, without waiting for the best: that is made when this process ends.

    Level 2 takes 50 ms for the entry, more than most programs do; level 0 takes 8 and costs 0.05 us a call.
    """
    kept = cache.current()
    found = kept.load(cache.digest(text, *fingerprint())) if kept is not None else None
    if found is not None:
        return found
    if kept is not None:
        atexit.register(_object_code, text, name)
    return compile_object(text, QUICK)


def pool() -> threads.Pool:
    """The pool that parallel programs run on. Raises CompileError."""
    return threads.pool(_started_pool)


@once
def _started_pool(size: int) -> threads.Pool:
    """Our own pool with `size` threads, the caller among them."""
    text = (Path(__file__).parent / "pool.ll").read_text().replace("SPIN", str(threads.SPIN))
    declaration, pause = _PAUSES.get(platform.machine().lower(), ("", ""))
    text = text.replace("PAUSE_DECLARATION", declaration).replace("PAUSE", pause)
    tracker = _link(_object_code(text, "pool")[0], _POOL, {}, text, _POOL_START)
    start = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)(tracker[_POOL_START])
    _pools.append(tracker)
    return threads.Pool("tapefuse", 1 + start(size - 1), tracker[_POOL], 0, 0)


def _link(object_code: bytes, name: str, symbols: dict[str, int], text: str, *more: str) -> Any:
    import llvmlite.binding as llvm

    builder = llvm.JITLibraryBuilder().add_object_img(object_code).add_current_process()
    for exported in (name, *more):
        builder.export_symbol(exported)
    for symbol, address in symbols.items():
        builder.import_symbol(symbol, address)
    with llvm_lock:
        try:
            return builder.link(_jit(), f"tapefuse{next(_names)}")
        except RuntimeError as e:
            missing = ", ".join(_undefined(name, symbols, text)) or str(e)
            raise CompileError(f"the compiled program cannot be linked, it lacks: {missing}") from None


def _undefined(name: str, symbols: dict[str, int], text: str) -> list[str]:
    """Names that a program's text uses and nobody defines."""
    declared = re.findall(r"^declare [^@]*@(?!llvm\.)([\w.$]+)|^@([\w.$]+) = external", text, re.M)
    needed = {a or b for a, b in declared}
    if not re.search(rf"^define [^@]*@{name}\(", text, re.M):
        needed.add(name)
    return sorted(n for n in needed if n not in symbols and not hasattr(ctypes.pythonapi, n))


class _MethodDef(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char_p),
        ("method", ctypes.c_void_p),
        ("flags", ctypes.c_int),
        ("doc", ctypes.c_char_p),
    )


def _builtin(name: str, address: int, table: Any) -> Callable[..., Any]:
    """A builtin function whose `self` is the table; the table keeps the definition, which the builtin points to."""
    definition = _MethodDef(name.encode("ascii", "replace"), address, _METH_FASTCALL, b"a compiled program")
    make = ctypes.pythonapi.PyCFunction_NewEx
    make.restype, make.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.py_object, ctypes.c_void_p]
    table.keep += (definition,)
    return make(ctypes.addressof(definition), table, None)
