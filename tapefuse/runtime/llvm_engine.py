"""The LLVM engine: a `Program` becomes a builtin function of Python.

Text -> object code -> image (kept on disk) -> mapped into this process -> entered through `entry.ll`. Addresses come in
as symbols when an image is mapped, so it is the same in every process. A program that is on disk needs no LLVM.
"""

from __future__ import annotations

import atexit
import contextvars
import ctypes
import os
import platform
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from functools import cache as once
from typing import Any, NamedTuple

from tapefuse._errors import CompileError
from tapefuse._log import Logger
from tapefuse._records import dataclass
from tapefuse.ir.program import Program
from tapefuse.runtime import blas, cache, gufuncs, host, linking, threads
from tapefuse.runtime.abi import Layout, check_abi
from tapefuse.runtime.compile import QUICK, compile_object, fingerprint
from tapefuse.runtime.entry import arena_slots, build_table, entry_symbols, entry_text, source
from tapefuse.runtime.image import Mapped
from tapefuse.runtime.launch import WATCH, Stamps, launcher_text, timed_symbols
from tapefuse.runtime.linking import Code

_ENTRY, _PROGRAM, _RUN = "tapefuse_entry", "tapefuse_program", "tapefuse_run"
_KERNELS = ("tapefuse_launch", "tapefuse_take", "tapefuse_give")  # for kernels that run others, or allocate memory
_POOL, _POOL_START = "tapefuse_parallel_for", "tapefuse_pool_start"
_SHELF, _ARENA = "tapefuse_shelf", "tapefuse_arena"
_PAUSES = {  # how a processor is told that a loop waits
    "x86_64": ("declare void @llvm.x86.sse2.pause()", "call void @llvm.x86.sse2.pause()"),
    "amd64": ("declare void @llvm.x86.sse2.pause()", "call void @llvm.x86.sse2.pause()"),
    "aarch64": ("declare void @llvm.aarch64.hint(i32)", "call void @llvm.aarch64.hint(i32 1)"),
    "arm64": ("declare void @llvm.aarch64.hint(i32)", "call void @llvm.aarch64.hint(i32 1)"),
}
_METH_FASTCALL = 0x80
_SWITCH = 0.0005  # seconds until a busy Python thread lets the one that compiles go on to its next call of LLVM
_SUPPORT = {"name": "entry, launcher and pool"}
_log = Logger("cache")


class Built(NamedTuple):
    """Code of a program, and whether it was on disk."""

    code: Code
    cached: bool
    seconds: float  # that compiling took; 0.0 when it was on disk


class Found(NamedTuple):
    """What was on disk: code, and what was stored with it."""

    built: Built
    metadata: dict[str, Any]
    rest: bytes


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
    built: Built | None = None,
    stamps: Stamps | None = None,
) -> Loaded:
    """Map and wrap a program. `built`: its code; None: compile it, or find it on disk by its text. `stamps`: each call
    writes there when it began, and when each of its kernels ended, in ns.

    `states`: one Variable per state of the program. `handler(status)` is called for a failed check; it raises.
    `threads`: for this program; None: the process's number. Raises CompileError.
    """
    if len(states) != len(program.states):
        raise CompileError(f"{program.name} has {len(program.states)} states, got {len(states)} variables")
    check_abi()
    code, cached, compile_seconds = built or _filed_by_text(program)
    start = time.perf_counter()
    entry = _support()
    word, words, symbols, kept = _parallel(program, threads)
    words |= _process_words()
    symbols |= {n: blas.address(n) for n in program.externals if n in blas.FUNCTIONS}
    symbols |= {n: gufuncs.address(n) for n in program.externals if n.startswith(gufuncs.PREFIX)}
    launcher = entry if stamps is None else _timed_launcher(stamps)
    symbols[_RUN] = launcher[_RUN]
    symbols |= {name: entry[name] for name in program.externals & {*_KERNELS, *WATCH}}
    mapped = linking.loaded(code, symbols, (_PROGRAM,))
    table = build_table(program, layout, states, handler, {"program": mapped[_PROGRAM], **words})
    call = _builtin(program.name, entry[_ENTRY], table)
    table.keep += (mapped, launcher, stamps, *kept)
    link_seconds = time.perf_counter() - start
    return Loaded(call, mapped[_PROGRAM], code.size, cached, compile_seconds, link_seconds, word, table)


# -- code, from the compiler or from the disk -------------------------------------------------------------------------


def built(program: Program, key: str | None, metadata: Mapping[str, Any] | None = None, rest: bytes = b"") -> Built:
    """Compile a program, and keep it on disk under `key`, if any, with `metadata` (JSON) and `rest`.

    Raises CompileError.
    """
    start = time.perf_counter()
    code = linking.code_of(compile_object(program.llvm()))
    seconds = time.perf_counter() - start
    if key:
        _store(key, code, {"name": program.name, "seconds": round(seconds, 3), **(metadata or {})}, rest)
    return Built(code, False, seconds)


def found(key: str) -> Found | None:
    """What is on disk under `key`."""
    folder = cache.current()
    kept = folder.load(key) if folder is not None else None
    if kept is None:
        return None
    n = kept.metadata["bytes"]
    code = Code.unpack(kept.code[:n], kept.metadata["code"])
    return Found(Built(code, True, 0.0), kept.metadata, kept.code[n:])


def _filed_by_text(program: Program) -> Built:
    key = cache.digest(program.llvm(), *fingerprint())
    kept = found(key)
    return kept.built if kept else built(program, key)


def _store(key: str, code: Code, metadata: dict[str, Any], rest: bytes = b"") -> None:
    folder = cache.current()
    if folder is not None:
        data, described = code.pack()
        folder.store(key, data + rest, {**metadata, "bytes": len(data), "code": described})


def begin() -> None:
    """Compile what all programs share in another thread, if it is not there yet, while this one plans a program."""
    if _Shared.code is None and not _Shared.lock.locked():
        threading.Thread(target=contextvars.copy_context().run, args=(_begun,)).start()


def _begun() -> None:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(_SWITCH)
    try:
        _support()
    except CompileError as e:
        _log.info("not compiled in advance: %s", e)  # whoever needs it tries again, and gets the error
    finally:
        sys.setswitchinterval(interval)


class _Shared:
    lock = threading.Lock()
    code: Mapped | None = None


def _support() -> Mapped:
    with _Shared.lock:
        if _Shared.code is None:
            _Shared.code = _loaded_support()
        return _Shared.code


def _loaded_support() -> Mapped:
    """What all programs share: the entry from Python, the launcher of kernels and the pool of threads.

    Compiled once per installation. Never unmapped: threads run in it, arrays may be freed by it.
    """
    machine = host.fingerprint()
    key = cache.digest("support", machine) if machine else cache.digest(_support_text(), *fingerprint())
    kept = found(key)
    code = kept.built.code if kept else linking.code_of(compile_object(_support_text(), QUICK))
    if kept is None and host.is_current():
        _store(key, code, {**_SUPPORT, "quick": True})
    if kept is None or kept.metadata.get("quick"):
        atexit.register(_keep_support, key)
    names = (_ENTRY, _RUN, _POOL, _POOL_START, _SHELF, _ARENA, *_KERNELS, *WATCH)
    mapped = linking.loaded(code, entry_symbols(), names)
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(mapped.keep))
    return mapped


def _keep_support(key: str) -> None:
    """Keep the best code for later processes, when this one ends.

    It takes LLVM several times as long as code that is a tenth slower, longer than most programs do.
    """
    if cache.current() is not None and host.is_current():
        _store(key, linking.code_of(compile_object(_support_text())), _SUPPORT)


def _support_text() -> str:
    pool = source("pool")
    declaration, pause = _PAUSES.get(platform.machine().lower(), ("", ""))
    pool = pool.replace("SPIN", str(threads.SPIN)).replace("PAUSE_DECLARATION", declaration).replace("PAUSE", pause)
    return "\n".join((entry_text(), launcher_text(), pool))


def _timed_launcher(stamps: Stamps) -> Mapped:
    """A launcher that reads the clock after each kernel."""
    code = linking.code_of(compile_object(launcher_text(timed=True), QUICK))
    entry = _support()
    return linking.loaded(code, timed_symbols(stamps, {name: entry[name] for name in WATCH}), (_RUN,))


def kept_memory(release: bool = False) -> int:
    """Bytes that are kept for later calls: memory of large outputs that were freed, scratch memory of loaded programs.

    `release`: give them back to the system.
    """
    code = _Shared.code
    if code is None:
        return 0
    shelf = ctypes.PYFUNCTYPE(ctypes.c_int64, ctypes.c_int64)(code[_SHELF])
    arena = ctypes.PYFUNCTYPE(ctypes.c_int64, ctypes.c_int64, ctypes.c_int64)(code[_ARENA])
    return shelf(release) + sum(arena(slot, release) for slot in arena_slots())


# -- threads ----------------------------------------------------------------------------------------------------------


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


def _process_words() -> dict[str, int]:
    """Fields of the table that are the same for all programs: words of this process."""
    return {"main_thread": threads.main_thread(), "away": threads.away()}


def pool() -> threads.Pool:
    """The pool that parallel programs run on. Raises CompileError."""
    return threads.pool(_started_pool)


@once
def _started_pool(size: int) -> threads.Pool:
    """Our own pool with `size` threads, the caller among them."""
    code = _support()
    start = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)(code[_POOL_START])
    return threads.Pool("tapefuse", 1 + start(size - 1), code[_POOL], 0, 0)


# -- the builtin ------------------------------------------------------------------------------------------------------


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


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_Shared.lock.acquire, after_in_parent=_Shared.lock.release, after_in_child=_Shared.lock.release
    )
