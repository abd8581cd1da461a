"""Print what a bug report needs: versions, CPU, threads, BLAS, cache folder, flags.

    tapefuse doctor
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path

from tapefuse import __version__
from tapefuse._config import FLAGS, config
from tapefuse._errors import CompileError
from tapefuse.cli import output
from tapefuse.runtime import blas, cache, linking, llvm_engine, threads

PACKAGES = ("numpy", "numba", "llvmlite", "scipy-openblas32", "rich", "ml_dtypes")
VECTOR_FEATURES = ("sse4.2", "avx", "avx2", "fma", "avx512f", "avx512vl", "avx512bf16", "amx-tile", "neon", "sve")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-o", dest="out", metavar="FILE", help="write there instead of stdout")


def main(options: argparse.Namespace) -> int:
    rows = list(report())
    width = max(len(name) for name, _ in rows)
    output.write("\n".join(f"{name:<{width}}  {value}" for name, value in rows), "doctor", options.out)
    return 0


def report() -> Iterator[tuple[str, str]]:
    """`(what, value)` for each line of the report."""
    yield "python", f"{platform.python_version()} ({sys.executable})"
    yield "system", f"{platform.system()} {platform.release()} {platform.machine()}"
    yield "tapefuse", f"{__version__} ({Path(__file__).resolve().parents[1]})"
    for package in PACKAGES:
        yield package, _version(package)
    yield from _cpu()
    yield "threading layer", _threading_layer()
    yield "linker", linking.way()
    yield "BLAS", _blas()
    yield "cache", _cache()
    for name, flag in FLAGS.items():
        source = "environment" if flag.variable in os.environ else "default"
        yield f"config.{name}", f"{getattr(config, name)!r} ({source}, {flag.variable})"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _cpu() -> Iterator[tuple[str, str]]:
    import llvmlite.binding as llvm

    present = llvm.get_host_cpu_features()
    yield "CPU", f"{llvm.get_host_cpu_name()}, {threads.available()} usable of {os.cpu_count()}"
    yield "CPU features", " ".join(f for f in VECTOR_FEATURES if present.get(f)) or "no vector features"


def _threading_layer() -> str:
    try:
        pool = llvm_engine.pool()
    except CompileError as e:
        return f"none: {e}"
    return f"{pool.layer}, {pool.size} threads"


def _blas() -> str:
    try:
        return f"{blas.description()} ({blas.path()})"
    except CompileError as e:
        return f"none: {e}"


def _cache() -> str:
    folder = cache.default_folder()
    if not config.cache:
        return f"off ({folder})"
    found = cache.current()
    if found is None:
        return f"{folder} cannot be used"
    entries = list(found.entries())
    return f"{folder}, {len(entries)} programs, {sum(e.size for e in entries) / 1e6:.1f} MB"
