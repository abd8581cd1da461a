"""How the time to compile grows with the length of a program: python -m benchmarks.compile_scaling [length ...]

Chains of ops with their gradients, traced under a tape. Time per op should not depend on the length.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import tapefuse as tp
from tapefuse.codegen.pipeline import compiled
from tapefuse.codegen.plan import Request, plan
from tapefuse.ir.graph import Graph
from tapefuse.ir.passes import optimise
from tapefuse.ir.passes.adjoint import gradient_graph
from tapefuse.ir.types import Type
from tapefuse.runtime.compile import compile_object
from tapefuse.tracer.trace import trace_function

F32 = Type(np.dtype(np.float32), (16,))
LENGTHS = (1_000, 10_000)


def tanh_chain(x: Any, a: Any, b: Any, length: int) -> Any:
    """x <- tanh(a x + b): three ops a step."""
    for _ in range(length // 3):
        x = tp.tanh(a * x + b)
    return x


def mixed_chain(x: Any, a: Any, b: Any, length: int) -> Any:
    """Elementwise steps, with a reduction that all of the next step reads every eleventh: many kernels."""
    for _ in range(length // 11):
        x = tp.sin(a * x + b) * 0.5 + tp.exp(-x * x) * tp.where(x > 0, a, b)
        x = x - tp.mean(x)
    return x


CHAINS: dict[str, Callable[..., Any]] = {"tanh": tanh_chain, "mixed": mixed_chain}


def traced_chain(chain: str, length: int, gradients: bool = True) -> Graph:
    """The chain's result, and what a tape gives for its gradients by x, a and b."""

    def run(tensors: list[Any]) -> list[Any]:
        if not gradients:
            return [CHAINS[chain](*tensors, length)]
        with tp.GradientTape() as tape:
            tape.watch(tensors)
            y = CHAINS[chain](*tensors, length)
        return [y, *tape.gradient(y, tensors)]

    return trace_function(run, [F32, F32, F32], ["x", "a", "b"], chain).graph


def times(chain: str, length: int) -> dict[str, float]:
    """Seconds of each stage, by name."""
    seconds: dict[str, float] = {}

    def timed(name: str, make: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        made = make()
        seconds[name] = time.perf_counter() - start
        return made

    forward = timed("trace", lambda: traced_chain(chain, length, gradients=False))
    timed("trace+tape", lambda: traced_chain(chain, length))
    graph = timed("adjoint", lambda: gradient_graph(forward))
    graph = timed("passes", lambda: optimise(graph))
    request = Request(graph, len(graph.params))
    timed("plan", lambda: plan(request))
    program = timed("plan+emit", lambda: compiled(request))
    text = timed("text", program.llvm)
    timed("llvm", lambda: compile_object(text))
    return seconds


def main(lengths: list[int]) -> None:
    for chain in CHAINS:
        rows = {n: times(chain, n) for n in lengths}
        print(f"{chain:12}" + "".join(f"{n:>12,} ops   us/op" for n in lengths))
        for stage in rows[lengths[0]]:
            row = "".join(f"{r[stage]:14.3f} s {r[stage] / n * 1e6:7.1f}" for n, r in rows.items())
            print(f"{stage:12}{row}", flush=True)


if __name__ == "__main__":
    main([int(a.replace(",", "")) for a in sys.argv[1:]] or list(LENGTHS))
