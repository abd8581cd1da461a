"""What compiled code depends on besides the program: this machine, the compiler's versions and our own sources.

All of it is told from files, in about a millisecond and without importing LLVM.
"""

from __future__ import annotations

import importlib.util
import mmap
import os
import re
import sys
from collections.abc import Iterator
from functools import cache

import numpy as np

from tapefuse import _config
from tapefuse._hash import sha256
from tapefuse._log import Logger
from tapefuse.runtime.compile import fingerprint as llvm_fingerprint

# What decides which code a graph becomes, in our package.
_SOURCES = ("ir", "codegen", "runtime", "compiler.py", "compilation.py", "_records.py")
_CPU = ("vendor_id", "cpu family", "model", "model name", "stepping", "flags",  # x86
        "CPU implementer", "CPU architecture", "CPU variant", "CPU part", "CPU revision", "Features")  # fmt: skip
_log = Logger("cache")


@cache
def fingerprint() -> str | None:
    """A digest; None when sources have changed since this process imported them: it would not stand for what runs."""
    return _digest()


def is_current() -> bool:
    """Whether the sources are still those of the fingerprint, so that what was compiled now may be filed under it."""
    return _digest() == fingerprint()


def _digest() -> str | None:
    lines = []
    for name, size, changed in _sources():
        if changed > _config.started:
            _log.info("%s has changed since this process began: programs are not filed by their graphs", name)
            return None
        lines.append(f"{name} {size} {changed}")
    return sha256("\n".join([*lines, *_machine()]).encode()).hexdigest() if lines else None


def _sources() -> Iterator[tuple[str, int, int]]:
    """(path, size, time of the last change in ns) of each source file, sorted."""
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    folders = [os.path.join(package, name) for name in _SOURCES]
    found = []
    while folders:
        path = folders.pop()
        try:
            if not os.path.isdir(path):
                info = os.stat(path)
                found.append((path, info.st_size, info.st_mtime_ns))
                continue
            with os.scandir(path) as items:
                for item in items:
                    if item.name.endswith((".py", ".ll")):
                        info = item.stat()
                        found.append((item.path, info.st_size, info.st_mtime_ns))
                    elif item.name[0] not in "._" and item.is_dir():
                        folders.append(item.path)
        except OSError as e:  # a package in an archive, say
            _log.info("the sources cannot be looked at, programs are not filed by their graphs: %s", e)
            return
    start = len(package) + 1
    yield from sorted((path[start:], size, changed) for path, size, changed in found)


@cache
def _machine() -> tuple[str, ...]:
    cpu = _cpu() or llvm_fingerprint()
    return (sys.version, sys.platform, str(mmap.PAGESIZE), np.__version__, *_compiler(), *cpu)


def _cpu() -> tuple[str, ...]:
    """What Linux says about the first processor; nothing on other systems."""
    try:
        handle = os.open("/proc/cpuinfo", os.O_RDONLY)
        try:
            text = os.read(handle, 1 << 14).decode("ascii", "replace")
        finally:
            os.close(handle)
    except OSError:
        return ()
    first = text.strip().partition("\n\n")[0]
    rows = dict(re.findall(r"^([^\t:]+)\s*: (.*)$", first, re.M))
    found = tuple(f"{name} {rows[name]}" for name in _CPU if name in rows)
    return found if any(name in rows for name in ("flags", "Features")) else ()


def _compiler() -> tuple[str, ...]:
    """Name, size and age of LLVM's library, which is not loaded for this."""
    spec = importlib.util.find_spec("llvmlite")
    folders = spec.submodule_search_locations or () if spec else ()
    found = []
    for folder in folders:
        for name in sorted(os.listdir(os.path.join(folder, "binding"))):
            if "llvmlite." in name:
                info = os.stat(os.path.join(folder, "binding", name))
                found.append(f"{name} {info.st_size} {info.st_mtime_ns}")
    return tuple(found)
