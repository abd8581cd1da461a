"""Run a graph on `.npy` files, or on random inputs, and print its outputs.

    tapefuse run graph.ir                      # random inputs; every free dimension is 8
    tapefuse run graph.ir x.npy y.npy --engine interp --seed 3
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

import tapefuse as tp
from tapefuse._errors import DTypeError, ShapeError
from tapefuse.cli import output
from tapefuse.cli.errors import UsageError
from tapefuse.cli.target import load_graph
from tapefuse.ir.graph import Graph
from tapefuse.ir.halves import kind_of
from tapefuse.ir.interp import bind, evaluate, replay
from tapefuse.ir.types import Type, type_of

FREE = 8  # the extent of a dimension that nothing fixes
ENGINES = ("llvm", "numba", "interp")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE.ir")
    parser.add_argument("inputs", nargs="*", metavar="INPUT.npy", help="one per parameter; none: random numbers")
    parser.add_argument("--engine", choices=ENGINES, default="llvm", help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="of random inputs, default: %(default)s")
    parser.add_argument("-o", dest="out", metavar="FILE", help="write the printed outputs there instead of stdout")


def main(options: argparse.Namespace) -> int:
    graph = load_graph(options.file)
    arrays = _load(graph, options.inputs) if options.inputs else random_inputs(graph, options.seed)
    results = run_graph(graph, arrays, options.engine)
    lines = [f"{k}: {type_of(y)}\n{y}" for k, y in enumerate(results)]
    output.write("\n".join(lines), "values", options.out)
    return 0


def run_graph(graph: Graph, arrays: list[np.ndarray], engine: str) -> list[np.ndarray]:
    """The graph's outputs. Raises `UsageError` when an array does not fit its parameter."""
    try:
        bind(graph, arrays)
    except (ShapeError, DTypeError) as e:
        raise UsageError(str(e)) from None
    if engine == "interp":
        return list(evaluate(graph, *arrays))
    compiled = tp.tape_function(lambda *xs: replay(graph, xs), engine=engine)
    return [np.asarray(y) for y in compiled(*arrays)]


def _load(graph: Graph, files: list[str]) -> list[np.ndarray]:
    if len(files) != len(graph.params):
        wanted = ", ".join(f"{p.name or k}: {p.type}" for k, p in enumerate(graph.params)) or "none"
        raise UsageError(f"{graph.name} takes {len(graph.params)} inputs ({wanted}), got {len(files)}")
    return [_read(file) for file in files]


def _read(file: str) -> np.ndarray:
    try:
        return np.load(Path(file), allow_pickle=False)
    except OSError as e:
        raise UsageError(f"cannot read {file}: {e.strerror or e}; expected a .npy file") from None
    except (ValueError, EOFError):
        raise UsageError(f"{file} is not a .npy file of numbers") from None


def random_inputs(graph: Graph, seed: int) -> list[np.ndarray]:
    """Normally distributed floats, small non-negative integers, both truth values."""
    rng = np.random.default_rng(seed)
    free = dict.fromkeys(graph.symbols, FREE)
    return [random_array(rng, p.type.substitute(free)) for p in graph.params]


def random_array(rng: np.random.Generator, type: Type) -> np.ndarray:
    """An array of a type without free dimensions."""
    shape = tuple(int(d) for d in type.shape)
    if kind_of(type.dtype) == "f":
        return rng.normal(size=shape).astype(type.dtype)
    return rng.integers(0, 2, shape).astype(type.dtype)  # 0 and 1 are good indices of nearly every axis
