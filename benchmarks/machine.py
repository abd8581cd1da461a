"""What the figures depend on beside the code: processor, system, threads, and what else the machine was doing."""

from __future__ import annotations

import os
import platform
import re
import time
from pathlib import Path
from typing import Any

VARIABLES = re.compile(r"(TAPEFUSE|JAX|XLA|OMP|GOMP|OPENBLAS|MKL|NUMBA)_")


def description() -> dict[str, Any]:
    """For the record; all values are text or numbers."""
    return {
        "date": time.strftime("%Y-%m-%d"),
        "cpu": _cpu(),
        "cpus": len(os.sched_getaffinity(0)),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "variables": {name: value for name, value in sorted(os.environ.items()) if VARIABLES.match(name)},
    }


def busy(seconds: float = 1.0) -> float:
    """How many CPUs are busy with something else, while this process sleeps."""
    before = _cpu_seconds()
    time.sleep(seconds)
    return (_cpu_seconds() - before) / seconds


def _cpu() -> str:
    found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    return found.group(1) if found else platform.processor()


def _cpu_seconds() -> float:
    """All CPUs' time that was not idle, since the machine started."""
    user, nice, system, _idle, _wait, *rest = map(int, Path("/proc/stat").read_text(encoding="ascii").split()[1:9])
    return (user + nice + system + sum(rest)) / os.sysconf("SC_CLK_TCK")
