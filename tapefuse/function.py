"""`@tape_function`: a Python function is traced once per kind of arguments, compiled, and then run natively.

The way of a call, top to bottom: the entry of the most recent specialisation is tried; if it does not fit, the
arguments select a specialisation, or the function is traced for them; the trace's graph is compiled when it is first
run.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import warnings
import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from tapefuse._config import FLAGS, Options, busy, config, on_change
from tapefuse._errors import ConcretizationError, PerformanceWarning, TapefuseError
from tapefuse._locks import Lock
from tapefuse._tree import Tree, flatten, leaves_with_paths, unflatten
from tapefuse.compilation import compile_traced, memory_kept, njit_function
from tapefuse.ir.graph import Graph
from tapefuse.ir.ops.effects import printing
from tapefuse.ir.passes import budget
from tapefuse.tracer.debugging import Quiet
from tapefuse.tracer.direct import parted, without_scalars
from tapefuse.tracer.interpreted import Entry
from tapefuse.tracer.repeating import compile_with
from tapefuse.tracer.retracing import Arguments, Retraces, retrace
from tapefuse.tracer.rewriting import collected, rewritten
from tapefuse.tracer.rows import opened, without_rows
from tapefuse.tracer.signature import Call, Signature, TensorSpec
from tapefuse.tracer.source import user_loc, user_stacklevel
from tapefuse.tracer.specialisation import Specialisation, declines
from tapefuse.tracer.state import state
from tapefuse.tracer.tensor import Tensor, TracedTensor, as_tensor, settled
from tapefuse.tracer.trace import Traced, trace_function

if TYPE_CHECKING:
    from tapefuse.reports.check import CheckReport
    from tapefuse.reports.memory import MemoryReport
    from tapefuse.reports.profile import Profile

MANY_TRACES = 5  # as many traces in twice as many calls earn a warning
_trace_lock = Lock(reentrant=True)  # one for all functions: two that call each other must not wait for one another


def compile_graph(traced: Traced, options: Options) -> Entry:
    """The entry of a traced function: `entry(*inputs)` runs it, see `tracer.interpreted`."""
    return compile_traced(traced, options).call


compile_with(lambda traced: compile_graph(traced, Options()))


# -- running Python instead -----------------------------------------------------------------------------------------


class _Eagerly:
    on = False


def run_functions_eagerly(on: bool) -> None:
    """Call the Python function of every tape_function each time, for debugging. `False` switches back."""
    if on != _Eagerly.on:
        _Eagerly.on = on
        busy.append(None) if on else busy.pop()


# -- the function ---------------------------------------------------------------------------------------------------


class TapeFunction:
    """A traced and compiled function; made by `tape_function`."""

    __name__: str
    __qualname__: str

    def __init__(
        self,
        function: Callable[..., Any],
        input_signature: Any = None,
        options: Options = Options(),  # noqa: B008
        instance: Any = None,
    ):
        self._entry: Entry = declines
        self._entries: dict[tuple, Entry] = {}  # by the Python values of a call, which they are not given
        self._function = function
        self._instance = instance
        self._options = options
        self._input_signature = input_signature
        self._specialisations: dict[tuple, Specialisation] = {}
        self._log: list[Specialisation] = []
        self._slow_calls = 0
        self._warnings = 0
        functools.update_wrapper(self, function, updated=())
        _functions.add(self)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not busy:
            outs = NotImplemented if kwargs else self._entry(*args)
            if outs is NotImplemented:
                outs = self._by_values(args, kwargs)
            if outs is not NotImplemented:
                return outs
        return self._call(args, kwargs)

    def _by_values(self, args: tuple, kwargs: dict[str, Any]) -> Any:
        """The results for arguments with Python's own values, or NumPy's scalars, among them, if they are known."""
        entry: Entry = declines if kwargs else self._entry
        others: Sequence[Any] = args
        if self._entries:
            key, rest = parted(args, kwargs)
            if key in self._entries:
                entry, others = self._entries[key], rest
                outs = entry(*others)
                if outs is not NotImplemented:
                    return outs
        arrays = without_scalars(others)
        return NotImplemented if arrays is None else entry(*arrays)

    def _call(self, args: tuple, kwargs: dict[str, Any]) -> Any:
        if kwargs.get("mode") == "check" and "mode" not in self._signature.names:
            return self.check(*args, **{k: x for k, x in kwargs.items() if k != "mode"})
        if _Eagerly.on:
            return self._python(*args, **kwargs)
        self._slow_calls += 1
        call = self._signature.call(args, kwargs)
        specialisation = self._specialise(call)
        if state.trace is None and not state.tapes and not busy:
            self._remember(specialisation, call.signature, args, kwargs)
        return specialisation.run(call)

    def _remember(
        self, specialisation: Specialisation, signature: Signature, args: tuple, kwargs: dict[str, Any]
    ) -> None:
        """What later calls are to try first."""
        if signature.is_positional and not kwargs:
            entry = specialisation.direct_call(len(args), signature.star)
            if entry is not declines:
                self._entry = entry
                return
        parameters = signature.parameters(len(args), kwargs)
        if parameters is not None:
            key, _ = parted(args, kwargs)
            given = [p for p, mark in zip(parameters, key[1 + len(kwargs) :], strict=True) if mark is None]
            entry = specialisation.call_of(given)
            if entry is not declines:
                self._entries[key] = entry

    @functools.cached_property
    def _signature(self) -> Signature:
        return Signature(self._function, self._input_signature, skip_first=self._instance is not None)

    def _python(self, *args: Any, **kwargs: Any) -> Any:
        return self._called(self._function, args, kwargs)

    def _staged(self, *args: Any, **kwargs: Any) -> Any:
        """The Python function with its control flow on traced values as part of the program."""
        return self._called(rewritten(self._function), args, kwargs)

    def _called(self, function: Callable[..., Any], args: tuple, kwargs: dict[str, Any]) -> Any:
        return function(*args, **kwargs) if self._instance is None else function(self._instance, *args, **kwargs)

    # -- tracing --------------------------------------------------------------------------------------------------
    def _specialise(self, call: Call) -> Specialisation:
        found = self._specialisations.get(call.key)
        if found is not None and found.is_alive:
            return found
        with _trace_lock:
            found = self._specialisations.get(call.key)
            if found is None or not found.is_alive:
                found = self._trace(call)
                if not found.traced.captured:  # values of an enclosing trace mean nothing outside of it
                    self._specialisations[call.key] = found
                self._log.append(found)
                self._note_trace()
        return found

    def _note_trace(self) -> None:
        """Warn, twice at most, when the last calls that were not served directly were traced again and again."""
        recent = [s for s in self._log[-MANY_TRACES:] if s.number > self._slow_calls - 2 * MANY_TRACES]
        if len(recent) == MANY_TRACES and self._warnings < 2 and not recent[-1].traced.captured:
            self._warnings += 1
            warnings.warn(
                f"{self.__name__!r} was traced {len(self._log)} times, lately for {MANY_TRACES} of "
                f"{2 * MANY_TRACES} calls; tracing is slow. Usual causes: (1) tape_function inside a loop or function; "
                "define it once; (2) tensors of many shapes; use input_signature=[tp.TensorSpec((None, ...))]; "
                "(3) Python numbers that change; pass them as tensors. "
                f"Last reason: {recent[-1].why.reason}; {self.__name__}.explain_retrace() tells all of them",
                PerformanceWarning,
                stacklevel=user_stacklevel(),
            )

    def _trace(self, call: Call) -> Specialisation:
        tree: list[Tree] = []

        def results_of(inputs: list[TracedTensor]) -> list[Tensor]:
            leaves, shape = self._traced_results(call, inputs)
            if not leaves and state.trace is not None and state.trace.effects:
                leaves, shape = [as_tensor(True)], Quiet.around(shape)
            tree[:] = [shape]
            return leaves

        names = [n for n, kind in zip(call.signature.leaf_names(call), call.kinds, strict=True) if kind[0] == "tensor"]
        trace = functools.partial(trace_function, results_of, call.input_types, names, self.__name__)
        with budget.limited(self._options.memory_budget), collected() as statements:
            traced = trace(may_create=not self._log)
            if traced.created:  # once more, to see that later calls will not make variables again
                traced = trace(may_create=False)
        compile = functools.partial(compile_graph, options=self._options)
        inner = functools.partial(compile_graph, options=dataclasses.replace(self._options, outputs="tensor"))
        limit = self._options.memory_budget
        arguments = Arguments.of(call)
        why = retrace(arguments, [s.arguments for s in self._log])
        number, rest = self._slow_calls, (limit, tuple(statements.items()))
        return Specialisation(call, traced, tree[0], compile, inner, number, arguments, why, *rest)

    def _traced_results(self, call: Call, inputs: list[TracedTensor]) -> tuple[list[Tensor], Tree]:
        """Run the Python function on symbolic inputs: the tensors it returns, and their structure."""
        rest = iter(inputs)
        leaves = [next(rest) if k[0] == "tensor" else x for x, k in zip(call.leaves, call.kinds, strict=True)]
        values = unflatten(call.tree, leaves)
        returned = call.signature.python_call(self._staged, values)
        after, shape = flatten(opened(values))
        if shape != call.tree or any(a is not b for a, b in zip(after, leaves, strict=True)):
            raise ValueError(
                f"the tape_function {self.__name__!r} should not modify its inputs: a list or dict among its "
                "arguments changed while it was traced, which later calls would not repeat; copy it first"
            )
        returned = opened(returned) if self._options.outputs == "tensor" else without_rows(returned)
        results, shape = flatten(returned)
        paths = [path for path, _ in leaves_with_paths(returned, "the result")]
        return [self._result(x, path) for x, path in zip(results, paths, strict=True)], shape

    def _result(self, x: Any, path: str) -> Tensor:
        try:
            return settled(as_tensor(x))
        except ConcretizationError:
            raise
        except TapefuseError:
            raise TypeError(
                f"{path} of the tape_function {self.__name__!r} is {x!r}, a {type(x).__name__}; return tensors, "
                "numbers, arrays and lists, tuples and dicts of them"
            ) from None

    # -- looking inside ---------------------------------------------------------------------------------------------
    @property
    def trace_count(self) -> int:
        """How many times the Python function was traced."""
        return len(self._log)

    def specialise(self, *args: Any, **kwargs: Any) -> Specialisation:
        """The trace for these arguments, TensorSpecs standing for tensors; the same object for equal arguments."""
        if not args and not kwargs and self._signature.types is not None:
            args = self._signature.types
        return self._specialise(self._signature.call(args, kwargs))

    def graph(self, *args: Any, **kwargs: Any) -> Graph:
        """The traced program for these arguments: parameters are inputs, then variables, then constant arrays.

        Without arguments: that of the input_signature, or else of the only trace so far.
        """
        if not args and not kwargs and self._signature.types is None and self._signature.names:
            if len(self._log) != 1:
                raise TypeError(
                    f"{self.__name__} has {len(self._log)} traces; say which with graph(TensorSpec(...), ...)"
                )
            return self._log[0].graph
        return self.specialise(*args, **kwargs).graph

    def explain(self) -> str:
        """Every trace for people: for which arguments, why it was made, what it reads and writes, what runs it,
        and what became of its loops, and of branches on traced values: as they were traced, and which loops the
        compiler cuts into tiles or strips."""
        from tapefuse.reports.loops import cut_loops  # needs the compiler

        lines = [f"{self.__name__}: {self.trace_count} trace{'s' * (self.trace_count != 1)}"]
        for k, s in enumerate(self._log, 1):
            traced, engine, loc = s.traced, self._options.engine or config.engine, printing(s.graph)
            engine = f"interpreted with NumPy, since {loc} prints" if loc else f"engine: {engine}"
            written = [traced.variables[i].name for i in traced.written]
            lines += [
                f"  {k}. {s.describe()} -> {s.results}",
                f"     traced because: {s.why.reason}",
                f"     {len(s.graph.nodes)} operations, {len(traced.variables)} variables read, written: "
                f"{', '.join(written) or 'none'}",
                f"     {engine}, arguments {s.way}",
                *[f"     {statement}: {became}" for statement, became in s.statements],
                *[f"     {line}" for line in ([] if loc else cut_loops(traced, self._options))],
            ]
        lines.append("  arrays that are not C-contiguous, aligned and in native byte order are copied at each call")
        return "\n".join(lines)

    def explain_retrace(self) -> Retraces:
        """For each trace but the first: which argument differs from those of the most similar earlier trace, and how
        to have one trace for both. Print it."""
        return Retraces(self.__name__, tuple([s.why for s in self._log[1:]]))

    def memory_report(self, *args: Any, **kwargs: Any) -> MemoryReport:
        """How many bytes a call with these arguments takes, and for what, told without running it.

        TensorSpecs stand for tensors. Raises ValueError when a dimension is left open.
        """
        from tapefuse.reports.memory import memory_report  # needs the compiler

        call = self._signature.call(args, kwargs)
        traced = self._specialise(call).traced
        return memory_report(traced, [x.shape for x in call.inputs], self._options)

    def profile(self, *args: Any, **kwargs: Any) -> Profile:
        """Time, bytes, operations and share of the machine's limit of each kernel, for a call with these arguments.

        Print it for a table; `save_trace(file)` writes what Perfetto shows. The function is run for some tenths of a
        second, on copies of its variables. Raises ValueError for engine="numba".
        """
        from tapefuse.reports.profile import profile  # needs the compiler

        call = self._signature.call(args, kwargs)
        return profile(self._specialise(call).traced, call.inputs, self._options, self.__name__)

    def check(self, *args: Any, **kwargs: Any) -> CheckReport:
        """What is wrong with a call with these arguments: the first place where compiled and interpreted values differ,
        the first inf or nan, and derivatives that finite differences do not confirm, each with its line of source.

        Print it; `report.ok` says whether there is nothing. Variables stay as they are. The same as `fn(...,
        mode="check")`, unless the function has a parameter `mode`.
        """
        from tapefuse.reports.check import check  # for few programs

        call = self._signature.call(args, kwargs)
        return check(self._specialise(call).traced, call.inputs, self._options, self.__name__)

    def njit(self, *args: Any, **kwargs: Any) -> Callable[..., Any]:
        """The compiled function for these arguments as a function for callers in `@njit` code, of either engine.

        TensorSpecs stand for tensors; without arguments it is that of the input_signature. The function takes a tensor
        argument of the trace as an array of its dtype and rank (a number for rank 0), in the order of the parameters,
        and returns an array, a number, or a flat tuple of them. Variables keep the values that they have now; raises
        ValueError if the function assigns any.
        """
        return njit_function(self.specialise(*args, **kwargs).traced, self._options)

    def __repr__(self) -> str:
        return f"<tape_function {self.__qualname__}, {self.trace_count} traces>"

    # -- methods -----------------------------------------------------------------------------------------------------
    def __get__(self, instance: Any, owner: type | None = None) -> TapeFunction:
        """Each instance has traces of its own."""
        if instance is None:
            return self
        bound = _bound_functions(instance)
        found = bound.get(self.__name__)
        if found is None or found._function is not self._function or found._instance is not instance:
            found = TapeFunction(self._function, self._input_signature, self._options, instance)
            bound[self.__name__] = found
        return found

    def __reduce__(self) -> Any:
        """Functions are pickled and copied by name, methods through their instance."""
        return self.__qualname__ if self._instance is None else (getattr, (self._instance, self.__name__))


_functions: weakref.WeakSet[TapeFunction] = weakref.WeakSet()


def _forget_entries() -> None:
    """Flags changed: every function looks for its compiled form anew."""
    for function in list(_functions):
        function._entry, function._entries = declines, {}


on_change.append(_forget_entries)


_slotted: weakref.WeakKeyDictionary[Any, dict[str, TapeFunction]] = weakref.WeakKeyDictionary()


def _bound_functions(instance: Any) -> dict[str, TapeFunction]:
    """The tape_functions of an instance; kept in it, so that they live as long as it does."""
    if hasattr(instance, "__dict__"):
        return instance.__dict__.setdefault("_tape_functions", {})
    return _slotted.setdefault(instance, {})


def tape_function(
    fn: Any = None,
    *,
    input_signature: Any = None,
    engine: str | None = None,
    threads: int | None = None,
    strict: bool = False,
    memory_budget: int | None = None,
    outputs: str = "tensor",
) -> Any:
    """Compile a function of tensors, as decorator or as call.

    It is traced once for each combination of dtypes, shapes, Python values and argument structure, or once in all with
    `input_signature`, a list of TensorSpecs. `engine`: "llvm" or "numba". `threads`: at most so many. `strict`: sums
    in the order they are written, bit for bit. `memory_budget`: most bytes that a call may take beside its arguments
    (`memory_report` tells them); values that wait long for their readers are then computed again, and CompileError says
    when even that is too much. `outputs="numpy"`: calls return arrays, and Python's numbers for rank 0, as SciPy's
    optimizers want them; under tapes and in other traced functions they return tensors as ever. Raises TypeError if
    `fn` cannot be called, ValueError for an engine, a number of threads, a budget or outputs that there are not.
    """
    if fn is None:
        return functools.partial(
            tape_function,
            input_signature=input_signature,
            engine=engine,
            threads=threads,
            strict=strict,
            memory_budget=memory_budget,
            outputs=outputs,
        )
    if not callable(fn):
        raise TypeError(f"tape_function at {user_loc()} takes a function, got {fn!r} ({type(fn).__name__})")
    if not hasattr(fn, "__name__"):
        fn = _named(fn)
    options = Options(
        _option("engine", engine), _option("threads", threads), strict, _budget(memory_budget), _kind_of(outputs)
    )
    function = TapeFunction(fn, input_signature, options)
    if input_signature is not None and not _is_method(fn):
        function._signature  # a malformed signature is an error here  # noqa: B018
    return function


def _option(name: str, value: Any) -> Any:
    """An option that has a flag's name and values; None: as the flag says."""
    return None if value is None else FLAGS[name].parse(value, f"tape_function at {user_loc()}: {name}")


def _budget(value: Any) -> int | None:
    """A number of bytes, checked."""
    if value is None or isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    raise ValueError(f"tape_function at {user_loc()}: memory_budget is a positive number of bytes, got {value!r}")


def _kind_of(outputs: Any) -> str:
    if outputs in ("tensor", "numpy"):
        return outputs
    raise ValueError(f"tape_function at {user_loc()}: outputs is 'tensor' or 'numpy', got {outputs!r}")


def _named(fn: Any) -> Callable[..., Any]:
    """Callable objects and partials as plain functions."""

    @functools.wraps(fn, updated=())
    def function(*args: Any, **kwargs: Any) -> Any:
        return fn(*args, **kwargs)

    function.__signature__ = inspect.signature(fn)  # type: ignore[attr-defined]
    function.__name__ = function.__qualname__ = type(fn).__name__
    return function


def _is_method(fn: Any) -> bool:
    """Whether a function is being defined in a class body, as far as its signature tells."""
    names = list(inspect.signature(fn).parameters)
    return bool(names) and names[0] == "self"


def kept_memory(release: bool = False) -> int:
    """Bytes that compiled functions of the LLVM engine keep for later calls; with `release` they are given back.

    Kept are the scratch memory of each function, and memory of results of 1 MB and more that nobody holds any more:
    at most 256 MB, and as much as results alive at once have taken, 32 MB aside. That is given back, too, when no
    memory is left, and when it was of no use for a while.
    """
    return memory_kept(release)


__all__ = ["TapeFunction", "TensorSpec", "compile_graph", "kept_memory", "run_functions_eagerly", "tape_function"]
