"""What `import` costs, over NumPy's own import, in fresh processes that take turns."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable

from benchmarks.frameworks import FOLDER, Framework, environment

REPETITIONS = 7

_PROGRAM = """
import time
start = time.perf_counter()
import numpy
between = time.perf_counter()
import {module}
print([between - start, time.perf_counter() - between])
"""


def measure_imports(frameworks: Iterable[Framework]) -> dict[str, dict[str, list[float]]]:
    """Seconds for NumPy and, after it, for each framework; the first, untimed, fills the file cache."""
    asked = [f for f in frameworks if not f.yardstick]
    frameworks = [f for k, f in enumerate(asked) if f.module not in [before.module for before in asked[:k]]]
    rows: dict[str, dict[str, list[float]]] = {f.name: {"numpy": [], "framework": []} for f in frameworks}
    for k in range(REPETITIONS + 1):
        for f in frameworks:
            numpy_seconds, seconds = _once(f)
            if k:
                rows[f.name]["numpy"].append(numpy_seconds)
                rows[f.name]["framework"].append(seconds)
    return rows


def _once(framework: Framework) -> list[float]:
    command = [framework.python, "-c", _PROGRAM.format(module=framework.module)]
    done = subprocess.run(command, cwd=FOLDER.parent, env=environment(), capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])
