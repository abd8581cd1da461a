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

from tapefuse._config import FLAGS, config
from tapefuse.cli import output

PACKAGES = ("tapefuse", "numpy", "numba", "llvmlite", "scipy-openblas32", "rich")
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
    for package in PACKAGES:
        yield package, _version(package)
    yield from _cpu()
    yield "threading layer", _threading_layer()
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
