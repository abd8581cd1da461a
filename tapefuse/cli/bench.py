"""Time a function: its first call, calls, memory, and each of its kernels.

    tapefuse bench examples/digits.py:train_step --sizes B=32
    tapefuse bench model.py:loss --args "f32[B,784], i64[B]" --sizes B=256 --grad --kernels --trace loss.json
"""

from __future__ import annotations

import argparse
import re
import statistics
import time
import timeit
from collections.abc import Mapping
from typing import Any

import numpy as np

import tapefuse as tp
from tapefuse.cli import output
from tapefuse.cli.errors import UsageError
from tapefuse.cli.run import FREE, random_array
from tapefuse.cli.source import trace
from tapefuse.cli.target import load_function, parse_specs
from tapefuse.function import TapeFunction
from tapefuse.ir.types import Type, symbols
from tapefuse.reports.profile import show_seconds

ROUNDS, ROUND_SECONDS = 9, 0.05


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("target", metavar="TARGET", help="file.py:function or module:function")
    parser.add_argument("--args", dest="specs", metavar="SPEC", help='types of arguments, e.g. "f32[B,784], i64[B]"')
    parser.add_argument("--sizes", metavar="B=32,...", default="", help=f"extents of free dimensions, default {FREE}")
    parser.add_argument("--grad", action="store_true", help="value and gradient by the first argument")
    parser.add_argument("--kernels", action="store_true", help="a table of the kernels")
    parser.add_argument("--trace", metavar="FILE", help="write a trace for Perfetto or chrome://tracing")
    parser.add_argument("--seed", type=int, default=0, help="of random inputs, default: %(default)s")
    parser.add_argument("-o", dest="out", metavar="FILE", help="write the figures there instead of stdout")


def main(options: argparse.Namespace) -> int:
    function = load_function(options.target)
    if options.grad:
        function = tp.tape_function(tp.value_and_grad(function))
    elif not isinstance(function, TapeFunction):
        function = tp.tape_function(function)
    arguments = _arguments(function, options)
    first = _seconds(lambda: function(*arguments))
    lines = [f"{options.target} on {', '.join(str(Type(x.dtype, x.shape)) for x in arguments) or 'no arguments'}"]
    lines += [f"  first call  {show_seconds(first)}", f"  a call      {_rounds(lambda: function(*arguments))}"]
    lines += ["", str(function.memory_report(*arguments))]
    if options.kernels or options.trace:
        profile = function.profile(*arguments)
        lines += ["", str(profile)] if options.kernels else []
        if options.trace:
            profile.save_trace(options.trace)
    output.write("\n".join(lines), "values", options.out)
    return 0


def _arguments(function: TapeFunction, options: argparse.Namespace) -> list[tp.Tensor]:
    """Random arguments of the types that `--args` or the input signature gives. Raises `UsageError`."""
    specs = None if options.specs is None else parse_specs(options.specs)
    traced = trace(function, specs, options.target)
    types = [p.type for p in traced.graph.params[: traced.n_inputs]]
    sizes = _sizes(options.sizes, {s for t in types for s in symbols(t.shape)})
    rng = np.random.default_rng(options.seed)
    return [tp.constant(random_array(rng, t.substitute(sizes))) for t in types]


def _sizes(text: str, names: set[str]) -> Mapping[str, int]:
    """`"B=32,T=10"` as extents; those not named are `FREE`. Raises `UsageError`."""
    found = dict.fromkeys(names, FREE)
    for part in filter(None, re.split(r"[,\s]+", text)):
        name, equals, number = part.partition("=")
        if not equals or not number.isdigit() or name not in names:
            known = ", ".join(sorted(names)) or "none"
            raise UsageError(f"--sizes: {part!r} is not DIMENSION=NUMBER; the free dimensions are: {known}")
        found[name] = int(number)
    return found


def _seconds(call: Any) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _rounds(call: Any) -> str:
    """The median of rounds' mean times, and their range."""
    timer = timeit.Timer(call)
    number = max(int(ROUND_SECONDS / max(timer.timeit(1), 1e-7)), 1)
    times = [timer.timeit(number) / number for _ in range(ROUNDS)]
    low, high = show_seconds(min(times)), show_seconds(max(times))
    return f"{show_seconds(statistics.median(times))} ({low} to {high} in {ROUNDS} rounds of {number})"
