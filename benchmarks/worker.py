"""One workload in one framework, run in a process of its own: `python -m benchmarks.worker FRAMEWORK WORKLOAD`.

It answers lines of JSON with lines of JSON:

    {"do": "prepare", "case": NAME, "inputs": FILE, "results": FILE} -> {"first": seconds, "from_import": seconds}
    {"do": "time", "seconds": S}                                     -> {"median", "minimum": seconds, "calls": N}
    {"do": "tell"}                                                   -> {"peak_mb": M, "versions": {...}}

`first` is the first call, `from_import` also what is before it: importing the framework (in the first case), making its
arrays and parameters. `peak_mb` is counted from `prepare` on. Another case takes the place of the one before. An
exception is answered with {"error": text} and ends the process.
"""

from __future__ import annotations

import gc
import importlib.metadata
import json
import os
import re
import statistics
import sys
import time
import timeit
import traceback
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.case import Program, case_of, workload
from benchmarks.frameworks import BY_NAME

BATCH = 0.001  # seconds that a batch of calls lasts at least; the clock is read once per batch


class Worker:
    def __init__(self, framework: str, workload_name: str):
        self._framework = BY_NAME[framework]
        self._workload = workload_name
        self._step: Callable[[], Any] = lambda: None
        self._number = 0  # calls that are timed together

    def prepare(self, case: str, inputs: str, results: str) -> dict[str, float]:
        self._step, self._number = lambda: None, 0
        gc.collect()
        forget_peak_memory()
        make = workload(self._workload).FRAMEWORKS[self._framework.name]
        options = case_of(self._workload, case).options
        with np.load(inputs) as file:
            arrays = dict(file)
        start = time.perf_counter()
        program: Program = make(arrays, **options)
        ready = time.perf_counter()
        first = program.step()
        end = time.perf_counter()
        np.savez(results, **program.results(first))
        self._step = program.step
        return {"first": end - ready, "from_import": end - start}

    def time(self, seconds: float) -> dict[str, float]:
        """Time calls for about so long, at least one."""
        timer = timeit.Timer(self._step)  # without garbage collection while it measures
        number = self._number = self._number or _calls_per_batch(timer)
        gc.collect()
        times, end = [], time.perf_counter() + seconds
        while not times or time.perf_counter() < end:
            times.append(timer.timeit(number) / number)
        return {"median": statistics.median(times), "minimum": min(times), "calls": number * len(times)}

    def tell(self) -> dict[str, Any]:
        versions = {name: importlib.metadata.version(name) for name in self._framework.distributions}
        return {"peak_mb": peak_memory(), "versions": versions}


def _calls_per_batch(timer: timeit.Timer) -> int:
    number = 1
    while timer.timeit(number) < BATCH:
        number *= 2
    return number


def peak_memory() -> float:
    """The most memory this process has had in RAM, in MB (10^6 bytes). Not `ru_maxrss`, which a parent passes on."""
    with open("/proc/self/status", encoding="ascii") as file:
        found = re.search(r"VmHWM:\s*(\d+) kB", file.read())
    return int(found.group(1)) * 1024 / 1e6 if found else float("nan")


def forget_peak_memory() -> None:
    """The peak becomes what the process has now."""
    with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever the framework prints does not mix with answers
    try:
        worker = Worker(*sys.argv[1:])
        for line in sys.stdin:
            command = json.loads(line)
            do = command.pop("do")
            print(json.dumps(getattr(worker, do)(**command)), file=answers)
    except Exception as e:
        traceback.print_exc()
        print(json.dumps({"error": f"{type(e).__name__}: {e}"}), file=answers)


if __name__ == "__main__":
    main()
