"""Where the time of a compiled function goes: each kernel's time, data, arithmetic, and share of the machine's limit.

>>> print(step.profile(x, y))                     # doctest: +SKIP
step: 46.1 us a call, 29 kernels (median of 200 calls, 2 threads)
  kernel                      time  share       bytes  operations   of limit
  ...
"""

from __future__ import annotations

import ctypes
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tapefuse._config import Options, config
from tapefuse._records import dataclass
from tapefuse.codegen.context import Place, Step
from tapefuse.codegen.convolution_shape import extents as convolution_extents
from tapefuse.codegen.costs import weight
from tapefuse.codegen.groups import domain
from tapefuse.codegen.inline_values import chained
from tapefuse.codegen.plan import Plan
from tapefuse.codegen.recompute import within
from tapefuse.codegen.updates import is_placed
from tapefuse.compilation import handler, layout
from tapefuse.compiler import program, request
from tapefuse.ir.graph import Value, bind_symbols
from tapefuse.ir.halves import kind_of
from tapefuse.ir.types import Dim, size, substitute
from tapefuse.reports.limits import Limits, limits
from tapefuse.runtime import llvm_engine, threads
from tapefuse.runtime.launch import Stamps
from tapefuse.tracer.trace import Traced
from tapefuse.tracer.variable import Variable

CALLS = 1000  # most that are timed
SECONDS = 0.2  # for which calls are timed, at least three


@dataclass(frozen=True, slots=True)
class KernelProfile:
    """One kernel. `seconds`: median. `nbytes`: what it must read and write if every array passes once; of an array that
    is read by index, no more than as many elements as are read. `operations`: additions, multiplications, comparisons;
    an elementary function counts as its weight in the cost model, about its instructions. `of_limit`: the least time
    for these bytes and operations over `seconds`."""

    name: str
    title: str
    seconds: float
    nbytes: int
    operations: int
    of_limit: float


@dataclass(frozen=True, slots=True)
class Profile:
    """The kernels of one program, in the order in which they ran; `seconds`: median of a whole call; `last`: start and
    end of each kernel in the last call, in ns from its beginning."""

    name: str
    calls: int
    threads: int
    seconds: float
    kernels: tuple[KernelProfile, ...]
    last: tuple[tuple[int, int], ...]
    limits: Limits

    def __str__(self) -> str:
        head = (
            f"{self.name}: {show_seconds(self.seconds)} a call, {len(self.kernels)} kernels "
            f"(median of {self.calls} calls, {self.threads} thread{'s' * (self.threads != 1)})"
        )
        width = max((len(_label(k)) for k in self.kernels), default=6)
        rows = [f"  {'kernel':<{width}} {'time':>9} {'share':>6} {'bytes':>9} {'operations':>11} {'of limit':>9}"]
        for k in self.kernels:
            share = k.seconds / self.seconds if self.seconds else 0.0
            rows.append(
                f"  {_label(k):<{width}} {show_seconds(k.seconds):>9} {share:>6.1%} {k.nbytes:>9,} {k.operations:>11,} "
                f"{k.of_limit:>9.0%}"
            )
        inside = sum(k.seconds for k in self.kernels)
        rows.append(f"  {'outside kernels':<{width}} {show_seconds(max(self.seconds - inside, 0.0)):>9}")
        return "\n".join([head, *rows])

    def save_trace(self, file: str | Path) -> None:
        """Write the last call as a trace that Perfetto and chrome://tracing show (Trace Event Format, JSON)."""
        events = [
            {
                "name": k.title or k.name,
                "cat": "kernel",
                "ph": "X",
                "ts": start / 1000,
                "dur": (end - start) / 1000,
                "pid": os.getpid(),
                "tid": 1,
                "args": {"kernel": k.name, "bytes": k.nbytes, "operations": k.operations, "of_limit": k.of_limit},
            }
            for k, (start, end) in zip(self.kernels, self.last, strict=True)
        ]
        Path(file).write_text(json.dumps({"traceEvents": events, "displayTimeUnit": "ns"}, indent=1), encoding="utf-8")


def _label(k: KernelProfile) -> str:
    title = k.title if len(k.title) <= 40 else k.title[:37] + "..."
    return f"{k.name} {title}"


def show_seconds(seconds: float) -> str:
    """Three digits: `46.1 us`."""
    for unit, factor in (("s", 1.0), ("ms", 1e3), ("us", 1e6)):
        if seconds * factor >= 1:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds * 1e9:.0f} ns"


def profile(traced: Traced, inputs: Sequence[Any], options: Options, name: str) -> Profile:
    """Time a traced function on these inputs. Its variables stay as they are: copies of them are updated.

    Raises ValueError for the Numba engine, whose kernels have no clock between them.
    """
    if (options.engine or config.engine) != "llvm":
        raise ValueError(f"{name!r} runs on the Numba engine; profile times the kernels of engine='llvm' only")
    plan = within(request(traced, options))
    arrays = [np.asarray(x) for x in inputs]
    env = _sizes(traced, arrays, traced.variables)
    count = sum(map(plan.launches, range(len(plan.steps))))
    stamps: Stamps = (ctypes.c_int64 * (count + 1))()
    copies = [Variable(v.numpy().copy(), name=v.name) for v in traced.variables]
    compiled = program(traced, options)
    loaded = llvm_engine.load(
        compiled, layout(), copies, handler(compiled.checks), threads=options.threads or config.threads, stamps=stamps
    )
    times, spans = _timed(lambda: loaded.call(*inputs), stamps)
    medians = [statistics.median(s[k + 1] - s[k] for s in spans) / 1e9 for k in range(count)]
    top = limits(options.threads or config.threads)
    kernels = tuple(_kernels(plan, medians, env, top))
    last = [(spans[-1][k] - spans[-1][0], spans[-1][k + 1] - spans[-1][0]) for k in _numbers(plan)]
    used = threads.count(options.threads or config.threads).value if loaded.threads is not None else 1
    return Profile(name, len(times), used, statistics.median(times), kernels, tuple(last), top)


def _sizes(traced: Traced, arrays: Sequence[np.ndarray], variables: Sequence[Variable]) -> dict[str, int]:
    shapes = [*(a.shape for a in arrays), *(v.shape for v in variables)]
    return bind_symbols([p.type for p in traced.graph.params[: len(shapes)]], shapes)


def _timed(call: Callable[[], Any], stamps: Stamps) -> tuple[list[float], list[list[int]]]:
    """Seconds of each call, and its stamps."""
    call()
    times: list[float] = []
    spans: list[list[int]] = []
    end = time.perf_counter() + SECONDS
    while len(times) < 3 or len(times) < CALLS and time.perf_counter() < end:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
        spans.append(list(stamps))
    return times, spans


def _numbers(plan: Plan) -> Iterator[int]:
    """For each kernel the number of its stamp; every further check after a kernel has a stamp of its own."""
    number = 0
    for k in range(len(plan.steps)):
        yield number
        number += plan.launches(k)


def _kernels(plan: Plan, times: Sequence[float], env: Mapping[str, int], top: Limits) -> Iterator[KernelProfile]:
    for step, number in zip(plan.steps, _numbers(plan), strict=True):
        seconds = times[number]
        nbytes = sum(_bytes(plan, step, place, env) for place in step.places if place.tag != "scratch")
        operations = _operations(step, env)
        itemsize = max((n.dtype.itemsize for n in step.group.nodes if kind_of(n.dtype) == "f"), default=4)
        least = top.seconds(nbytes, operations, itemsize)
        yield KernelProfile(
            step.kernel.name, step.kernel.title, seconds, nbytes, operations, least / seconds if seconds else 1.0
        )


def _number(dim: Dim, env: Mapping[str, int]) -> int:
    return int(substitute(dim, env))


def _bytes(plan: Plan, step: Step, place: Place, env: Mapping[str, int]) -> int:
    """What of an array a kernel touches."""
    whole = _number(place.type.nbytes, env)
    changes = place in step.written and not _is_start(step)
    parts = [n for n in step.group.nodes if changes and is_placed(n) and n.type == place.type]
    if parts:
        return min(whole, sum(_number(size(domain(n)), env) for n in parts) * place.type.dtype.itemsize)
    if step.group.kind == "scatter" and changes:
        added = sum(_number(size(domain(n)), env) for n in chained(step.group.nodes[0], plan.schedule.inline))
        return min(whole, added * place.type.dtype.itemsize)
    picked = [
        _number(size(domain(node)), env) * place.type.dtype.itemsize
        for node in step.group.nodes
        for a in plan.schedule.reads[node]
        if a.data and plan.schedule.base(a.value) is place.value
    ]
    if not picked or any(
        not a.data and plan.schedule.base(a.value) is place.value
        for node in step.group.nodes
        for a in plan.schedule.reads[node]
    ):
        return whole
    return min(whole, sum(picked))


def _is_start(step: Step) -> bool:
    """Whether a kernel makes the copy of which the next one changes a part."""
    return "_start" in step.kernel.name


def _operations(step: Step, env: Mapping[str, int]) -> int:
    """Of all values that the kernel computes; a kernel that adds up another one's partial results adds them."""
    if _is_start(step):
        return 0
    if step.rows_of:
        return sum(_number(p.type.size, env) for p in step.places if p not in step.written)
    return sum(_number(size(domain(n)), env) * _per_element(n, env) for n in step.group.nodes)


def _per_element(node: Value, env: Mapping[str, int]) -> int:
    assert node.op is not None
    if node.op.name == "matmul":
        return 2 * _number(node.args[0].shape[-1], env)
    if (extents := convolution_extents(node)) is not None:
        return 2 * _number(extents.products, env) // max(_number(node.type.size, env), 1)
    return weight(node)
