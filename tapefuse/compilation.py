"""A traced function becomes native code: Traced -> entry.

What it compiles to is looked up on disk by a digest of the traced graph; on a hit neither the compiler (`compiler`) nor
LLVM is imported.
"""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from math import prod
from typing import Any

import numpy as np

from tapefuse._config import Options, config
from tapefuse._progress import progress
from tapefuse._records import dataclass
from tapefuse.ir.digest import digest
from tapefuse.ir.halves import is_half
from tapefuse.ir.ops.effects import printing
from tapefuse.ir.passes.checks import with_checks
from tapefuse.ir.program import Check, Program, State
from tapefuse.ir.types import Dim, parse_dim
from tapefuse.runtime import cache as disk
from tapefuse.runtime import host, llvm_engine
from tapefuse.runtime.abi import Layout, plain
from tapefuse.tracer.interpreted import interpreted
from tapefuse.tracer.tensor import Tensor
from tapefuse.tracer.trace import Traced
from tapefuse.tracer.variable import Variable, wanted


@dataclass(frozen=True, slots=True)
class Compiled:
    """What runs a traced function. `call(*inputs)`: tensors or arrays in, tensors out, or NotImplemented with nothing
    changed when an input does not fit. `program` and `loaded` are None for an interpreted function."""

    call: Callable[..., Any]
    engine: str
    program: Program | None = None
    loaded: Any = None


def compile_traced(traced: Traced, options: Options = Options()) -> Compiled:  # noqa: B008
    """Optimise, generate code and load it, or find it on disk; with `disable_jit`, and where it prints, interpret the
    graph instead.

    Raises CompileError for what compiled code cannot express.
    """
    if config.disable_jit or printing(traced.graph):
        return Compiled(_with_outputs(interpreted(traced), options.outputs), "interpreter")
    engine = options.engine or config.engine
    options = replace(options, strict=options.strict or config.strict)
    is_native = options.outputs == "tensor" or not any(is_half(v.dtype) and not v.shape for v in traced.graph.outs)
    made = layout(options.outputs if is_native else "tensor")  # native code makes no Python numbers of halves
    with progress(f"tapefuse compiles {traced.graph.name!r}"), _without_collections():
        program, load = ENGINES[engine](traced, options)
        loaded = load(
            program, made, traced.variables, handler(program.checks), threads=options.threads or config.threads
        )
    call = loaded.call if is_native else _with_outputs(loaded.call, options.outputs)
    return Compiled(call, engine, program, loaded)


@contextmanager
def _without_collections() -> Iterator[None]:
    """Compiling makes many objects and next to no garbage; with many, looking for it takes a fifth of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def njit_function(traced: Traced, options: Options) -> Callable[..., Any]:
    """A traced function for callers in `@njit` code, see `runtime.njit`. Variables keep the values they have now.

    Raises ValueError if it assigns variables, CompileError as `compile_traced`.
    """
    from tapefuse.runtime.njit import njit_function  # for few programs

    if traced.written:
        names = ", ".join(traced.variables[k].name for k in traced.written)
        raise ValueError(
            f"{traced.graph.name!r} assigns variables ({names}), which @njit code cannot see; return the new values "
            "instead, and assign them in Python"
        )
    with config(disable_jit=False):
        compiled = compile_traced(traced, options)
    assert compiled.program is not None
    return njit_function(compiled.program, compiled.loaded, [v.numpy() for v in traced.variables])


def _numba(traced: Traced, options: Options) -> tuple[Program, Callable[..., Any]]:
    from tapefuse.runtime.numba_engine import load  # 6 ms that the LLVM engine has no use for

    return _compiled(traced, options), load


def _llvm(traced: Traced, options: Options) -> tuple[Program, Callable[..., Any]]:
    key = filing_key(traced, options) if config.cache else None
    kept = llvm_engine.found(key) if key else None
    if kept is not None:
        program = _recalled(traced, options, kept)
        built: llvm_engine.Built | None = kept.built
    else:
        llvm_engine.begin()
        program = _compiled(traced, options)
        current = key if key and host.is_current() else None  # the compiler may have been imported just now
        built = llvm_engine.built(program, current, *_described(program, traced)) if current else None

    def load(*args: Any, **more: Any) -> Any:
        return llvm_engine.load(*args, **more, built=built)

    return program, load


ENGINES: dict[str, Callable[[Traced, Options], tuple[Program, Callable[..., Any]]]] = {"llvm": _llvm, "numba": _numba}


def _compiled(traced: Traced, options: Options) -> Program:
    from tapefuse.compiler import program  # 40 ms that a program found on disk has no use for

    return program(traced, options)


# -- programs on disk -------------------------------------------------------------------------------------------------


def filing_key(traced: Traced, options: Options) -> str | None:
    """What native code of a traced function is filed under, None if that cannot be told (see `digest`, `host`).

    Names and source lines are not in it: a program is found again after lines were moved.
    """
    machine, graph = host.fingerprint(), digest(traced.graph)
    if machine is None or graph is None:
        return None
    layout = traced.n_inputs, len(traced.variables), len(traced.arrays), traced.n_results, traced.written
    wanted = options.strict, options.memory_budget, config.code_key()
    return disk.digest("program", machine, graph, repr(layout), repr(wanted))


def _described(program: Program, traced: Traced) -> tuple[dict[str, Any], bytes]:
    """JSON and bytes from which `_recalled` makes the program again, given the same traced function."""
    lifted = program.constants[len(traced.arrays) :]
    described = {
        "arena": _dim_text(program.arena),
        "work": _dim_text(program.work),
        "externals": sorted(program.externals),
        "checks": len(program.checks),
        "constants": [(c.dtype.str, c.shape) for c in lifted],
    }
    return described, b"".join(np.ascontiguousarray(c).tobytes() for c in lifted)


def _recalled(traced: Traced, options: Options, kept: llvm_engine.Found) -> Program:
    """The program of a traced function as it was filed. Its texts, if they are asked for, are generated anew."""
    graph, described = traced.graph, kept.metadata
    written = set(traced.written)
    again = cache(lambda: _compiled(traced, options))
    return Program(
        name=graph.name,
        symbols=graph.symbols,
        inputs=tuple(p.type for p in graph.params[: traced.n_inputs]),
        states=tuple(State(v.type, k in written, v.name) for k, v in enumerate(traced.variables)),
        constants=(*traced.arrays, *_arrays(described["constants"], kept.rest)),
        outputs=tuple(v.type for v in graph.outs[: traced.n_results]),
        arena=_dim(described["arena"]),
        work=_dim(described["work"]),
        checks=with_checks(graph)[1] if described["checks"] else (),
        externals=frozenset(described["externals"]),
        llvm=lambda: again().llvm(),
        numba=lambda: again().numba(),
    )


def _dim_text(d: Dim) -> int | str:
    return d if isinstance(d, int) else str(d)


def _dim(x: int | str) -> Dim:
    return x if isinstance(x, int) else parse_dim(x)


def _arrays(described: Sequence[tuple[str, Sequence[int]]], data: bytes) -> list[np.ndarray]:
    found: list[np.ndarray] = []
    start = 0
    for dtype, shape in described:
        found.append(np.frombuffer(data, dtype, prod(shape), start).reshape(shape))
        start += found[-1].nbytes
    return found


def memory_kept(release: bool) -> int:
    return llvm_engine.kept_memory(release)


# -- what programs share ----------------------------------------------------------------------------------------------


@cache
def layout(outputs: str = "tensor") -> Layout:
    return Layout.of(Tensor, Variable, plain=outputs == "numpy", wanted=ctypes.addressof(wanted))


def _with_outputs(entry: Callable[..., Any], outputs: str) -> Callable[..., Any]:
    """An entry that returns Tensors as one that returns what `outputs` says."""
    if outputs == "tensor":
        return entry

    def call(*inputs: Any) -> Any:
        found = entry(*inputs)
        if found is NotImplemented:
            return found
        return tuple(plain(x.numpy()) for x in found) if isinstance(found, tuple) else plain(found.numpy())

    return call


def handler(checks: tuple[Check, ...]) -> Callable[[int], None]:
    def fail(status: int) -> None:
        raise checks[status - 1].exception()

    return fail
