"""What the figures depend on beside the code: processor, system, threads, and what else the machine was doing."""

from __future__ import annotations

import os
import platform
import re
import time
from pathlib import Path
from typing import Any

VARIABLES = re.compile(r"(TAPEFUSE|JAX|XLA|OMP|GOMP|OPENBLAS|MKL|NUMBA|TORCH\w*|PYTENSOR|ONEDNN|DNNL)_")


def description() -> dict[str, Any]:
    """For the record; all values are text or numbers."""
    return {
        "date": time.strftime("%Y-%m-%d"),
        "cpu": _cpu(),
        "cpus": len(os.sched_getaffinity(0)),
        "load": round(os.getloadavg()[0], 2),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "variables": {name: value for name, value in sorted(os.environ.items()) if VARIABLES.match(name)},
    }


class Watch:
    """How many CPUs were busy, since it was made, with something else than this process and its ended children."""

    def __init__(self) -> None:
        self._start = time.perf_counter(), _cpu_seconds() - _own_seconds()

    def others(self) -> float:
        start, before = self._start
        return max(0.0, (_cpu_seconds() - _own_seconds() - before) / (time.perf_counter() - start))


def _cpu() -> str:
    found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    return found.group(1) if found else platform.processor()


def _cpu_seconds() -> float:
    """All CPUs' time that was not idle, since the machine started."""
    user, nice, system, _idle, _wait, *rest = map(int, Path("/proc/stat").read_text(encoding="ascii").split()[1:9])
    return (user + nice + system + sum(rest)) / os.sysconf("SC_CLK_TCK")


def _own_seconds() -> float:
    return sum(os.times()[:4])
