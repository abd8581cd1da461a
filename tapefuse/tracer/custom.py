"""Functions with derivative rules of their own (`custom_gradient`), or that are run again for theirs (`recompute`).

@custom_gradient
def log1pexp(x):
    e = tp.exp(x)
    return tp.log(1 + e), lambda dy: dy * (1 - 1 / (1 + e))
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from tapefuse._errors import MissingGradientError, ShapeError, TapeError
from tapefuse._tree import flatten, unflatten
from tapefuse.ir.op import OPS
from tapefuse.ir.types import Type, has_derivatives, show_shape
from tapefuse.tracer.arrays import python_kind
from tapefuse.tracer.custom_rules import Rule, linked, moved
from tapefuse.tracer.operators import Operators, functions
from tapefuse.tracer.record import Node, Pullback, Pushforward, Record
from tapefuse.tracer.rows import dense
from tapefuse.tracer.source import current_loc, user_loc
from tapefuse.tracer.state import state, tracing
from tapefuse.tracer.tape import GradientTape
from tapefuse.tracer.tensor import Tensor, as_tensor, key_of, still, wrap
from tapefuse.tracer.variable import Variable, alias


class _Reader(GradientTape):
    """Records nothing, and sees which variables are read."""

    def _watch_variable(self, variable: Variable) -> None:
        self._variables[variable._key] = variable


def custom_gradient(f: Any = None, *, jvp: Callable[..., Any] | None = None) -> Any:
    """`f(*args) -> (y, grad_fn)` as a function that returns y and whose derivative is what `grad_fn` says.

    `grad_fn(*dy)` takes a cotangent for each tensor in y (zeros where nothing depends on it), and gives one for each
    tensor, array or number among the positional arguments: of its shape, or None. If f reads trainable variables that
    are no arguments, it is called with `variables=[...]` and gives a pair: those, and a list for the variables. Outer
    tapes record what it computes, so it is differentiated again for higher derivatives.

    Forward mode takes `jvp(args, tangents)`, which gets the positional arguments and a tangent for each tensor in them
    (zeros where nothing moves it), and gives the tangents of y. Without it the transpose of grad_fn is taken:
    MissingGradientError if that is not linear in dy.

    In a traced function the rules become part of the program: they hold for tapes inside of it and around it, for
    `grad`, `vmap` and loops. A grad_fn that calls f itself has derivatives across that boundary up to the third order.
    Raises TypeError if f returns no such pair, or if its grad_fn does not take `variables` and has to; when the
    gradient is taken, ValueError for a wrong number of cotangents and ShapeError for a wrong shape.
    """
    if f is None:
        return functools.partial(custom_gradient, jvp=jvp)

    @functools.wraps(f)
    def call(*args: Any, **kwargs: Any) -> Any:
        args, inputs = _tensors(args)
        returned, variables = _watched(lambda: f(*args, **kwargs))
        if not (isinstance(returned, tuple) and len(returned) == 2 and callable(returned[1])):
            raise TypeError(f"{_name(f)} at {user_loc()} must return a pair (y, grad_fn), got {returned!r}")
        y, rule = returned
        types = [as_tensor(x).type for x in flatten(y)[0]]
        if variables and not _takes_variables(rule):
            raise TypeError(
                f"{_name(f)} at {user_loc()} reads the variables {', '.join(repr(v.name) for v in variables)}, so its "
                "grad_fn must take the keyword `variables` and return (gradients of inputs, gradients of variables)"
            )
        pull = _ruled(_name(f), rule, inputs, variables, types)
        push = None if jvp is None else _pushed(_name(f), jvp, args, variables, types)
        return _recorded(y, inputs, variables, Rule(_name(f), pull, push, tuple(types)))

    return call


def grad_pass_through(f: Callable[..., Any]) -> Callable[..., Any]:
    """f, with the derivative of the identity: `grad_pass_through(v.assign)(x)` stores x and hands its gradient on.

    The cotangent goes to the first argument, which must have the result's shape."""

    @custom_gradient
    def through(*args: Any, **kwargs: Any) -> Any:
        def rule(dy: Tensor, variables: Sequence[Variable] = ()) -> Any:
            found = [dy, *[None] * (len(_tensors(args)[1]) - 1)]
            return (found, [None] * len(variables)) if variables else found

        return f(*args, **kwargs), rule

    return functools.wraps(f)(through)


@contextmanager
def override_gradient(rules: Mapping[str, Callable[..., Any]]) -> Iterator[None]:
    """What tapes record in this block has these rules, by the name of the operation: `{"relu": rule}`.

    `rule(g, y, *xs, **attrs)` takes the cotangent, the result and the operands, and gives a cotangent or None for each
    operand. Names are those that `tapefuse dump` shows. Raises ValueError for a name that there is not, and TapeError
    where the block does not reach: graphs of compiled functions and loops that are called in it.
    """
    for name in rules:
        if name not in OPS or OPS[name].is_region:
            import difflib  # takes 0.6 ms

            close = difflib.get_close_matches(name, OPS, 3)
            raise ValueError(
                f"override_gradient at {user_loc()}: there is no operation {name!r}"
                f"{'; do you mean ' + ' or '.join(close) if close else ''}"
            )
    if state.trace is not None and not state.tapes:
        raise TapeError(f"override_gradient at {user_loc()}: no tape records here; enter it inside of a tape's block")
    for tape in state.tapes:
        tape.settle()
    before, state.overrides = state.overrides, {**state.overrides, **rules}
    try:
        yield
    finally:
        state.overrides = before


def recompute(f: Callable[..., Any]) -> Callable[..., Any]:
    """f, of which eager tapes keep the arguments only: for the gradient it is run again (checkpointing).

    It must give the same when run again: random numbers are not replayed. f itself is `__wrapped__`. In a traced
    function this is f: there `memory_budget` of `tape_function` decides what is computed again. Forward mode raises
    MissingGradientError.
    """

    @functools.wraps(f)
    def call(*args: Any, **kwargs: Any) -> Any:
        if state.trace is not None or not state.tapes:
            return f(*args, **kwargs)
        args, inputs = _tensors(args)
        outer = state.tapes
        with tracing(None):
            y, variables = _watched(lambda: f(*args, **kwargs))
        for tape in outer:
            for v in variables:
                tape.variable_read(v)
        held = [still(x) for x in inputs]

        def pullback(gs: Sequence[Tensor | None]) -> Sequence[Tensor | None]:
            with GradientTape() as tape:
                twins = [alias(x) for x in held]
                tape.watch([x for x in twins if has_derivatives(x.dtype)])
                again = [as_tensor(x) for x in flatten(f(*_with_tensors(args, twins), **kwargs))[0]]
            wanted = [k for k, g in enumerate(gs) if g is not None]
            return tape.gradient([again[k] for k in wanted], [*twins, *variables], [gs[k] for k in wanted])

        types = tuple([as_tensor(x).type for x in flatten(y)[0]])
        rule = Rule(_name(f), pullback, functools.partial(_no_forward, _name(f)), types)
        return _recorded(y, inputs, variables, rule)

    return call


def _is_input(x: Any) -> bool:
    return isinstance(x, (Operators, np.ndarray, np.generic, int, float, complex)) and not isinstance(x, bool)


def _tensors(args: tuple) -> tuple[tuple, list[Tensor]]:
    """The arguments with their numbers, arrays and variables as tensors, and these tensors."""
    leaves, tree = flatten(args)
    leaves = [as_tensor(x) if _is_input(x) else x for x in leaves]
    return unflatten(tree, leaves), [x for x in leaves if isinstance(x, Tensor)]


def _with_tensors(args: tuple, tensors: Sequence[Tensor]) -> tuple:
    leaves, tree = flatten(args)
    rest = iter(tensors)
    return unflatten(tree, [next(rest) if isinstance(x, Tensor) else x for x in leaves])


def _watched(run: Callable[[], Any]) -> tuple[Any, tuple[Variable, ...]]:
    """What `run` returns, and the trainable variables that it reads."""
    with _Reader() as reader:
        returned = run()
    return returned, reader.watched_variables()


def _takes_variables(rule: Callable[..., Any]) -> bool:
    parameters = inspect.signature(rule).parameters.values()
    return any(p.name == "variables" or p.kind is p.VAR_KEYWORD for p in parameters)


def _recorded(y: Any, inputs: Sequence[Tensor], variables: Sequence[Variable], rule: Rule) -> Any:
    """y, whose tensors are new to tapes, which get their derivatives from the rule alone."""
    leaves, tree = flatten(y)
    tensors = [as_tensor(x) for x in leaves]
    if state.trace is None:
        results = [wrap(x._array) for x in tensors]
    else:
        with tracing(state.trace):
            results = linked(tensors, [*inputs, *[v.read() for v in variables]], rule)
    keys = [*[key_of(x) for x in inputs], *[v._key for v in variables]]
    types = [*[x.type for x in inputs], *[v.type for v in variables]]
    outs = tuple([Node(key_of(r), r.type) for r in results])
    for tape in state.tapes:
        if tape.tracks(keys):
            xs = tuple([Node(k if tape.tracks((k,)) else None, t) for k, t in zip(keys, types, strict=True)])
            tape.add_record(Record(xs, outs, rule.pullback, functools.partial(moved, rule), current_loc()))
    return unflatten(tree, results)


def _no_forward(name: str, tangents: Sequence[Any]) -> Sequence[Any]:
    raise MissingGradientError(f"{name} has a rule for reverse mode only; take its gradient instead of a jvp")


def _pushed(
    name: str, jvp: Callable[..., Any], args: tuple, variables: Sequence[Variable], types: Sequence[Type]
) -> Pushforward:
    """The user's rule for tangents, checked."""

    def pushforward(ts: Sequence[Tensor | None]) -> Sequence[Tensor]:
        if any(t is not None for t in ts[len(ts) - len(variables) :]):
            raise MissingGradientError(
                f"{name} reads the variables {', '.join(repr(v.name) for v in variables)}, which its jvp knows nothing "
                "of; make them arguments of the function"
            )
        xs = [x for x in flatten(args)[0] if isinstance(x, Tensor)]
        tangents = [functions.zeros_like(x) if t is None else t for t, x in zip(ts, xs, strict=False)]
        found = flatten(jvp(args, _with_tensors(args, tangents)))[0]
        if len(found) != len(types):
            raise ValueError(f"the jvp of {name} is expected to return {len(types)} tangents, returned {len(found)}")
        pairs = enumerate(zip(found, types, strict=True))
        return [_as_type(f"the jvp of {name}", t, y, f"result {k}", "a tangent") for k, (t, y) in pairs]

    return pushforward


def _ruled(
    name: str,
    rule: Callable[..., Any],
    inputs: Sequence[Tensor],
    variables: Sequence[Variable],
    types: Sequence[Type],
) -> Pullback:
    """The user's rule, checked."""

    def pullback(gs: Sequence[Tensor | None]) -> Sequence[Tensor | None]:
        dys = [functions.zeros(t.shape, t.dtype) if g is None else dense(g) for g, t in zip(gs, types, strict=True)]
        if not variables:
            return _checked(name, rule(*dys), inputs, "input")
        pair = rule(*dys, variables=list(variables))
        if not (isinstance(pair, tuple) and len(pair) == 2):
            raise TypeError(f"the grad_fn of {name} must return (gradients of inputs, gradients of variables)")
        of_variables = [pair[1]] if isinstance(pair[1], Operators) else pair[1]
        return [*_checked(name, pair[0], inputs, "input"), *_checked(name, of_variables, variables, "variable")]

    return pullback


def _checked(name: str, given: Any, xs: Sequence[Tensor | Variable], what: str) -> list[Tensor | None]:
    """One cotangent for each of `xs`, of its shape and dtype."""
    found = list(_flat(given))
    if len(found) != len(xs):
        raise ValueError(
            f"the grad_fn of {name} is expected to return {len(xs)} {what} gradients, returned {len(found)}"
        )
    return [_fitting(name, g, x, f"{what} {k}") for k, (g, x) in enumerate(zip(found, xs, strict=True))]


def _flat(given: Any) -> Iterator[Any]:
    """Leaves, None among them."""
    if isinstance(given, dict):
        given = [given[k] for k in sorted(given)]
    if isinstance(given, (list, tuple)):
        for g in given:
            yield from _flat(g)
    else:
        yield given


def _fitting(name: str, g: Any, x: Tensor | Variable, what: str) -> Tensor | None:
    if g is None or not has_derivatives(x.dtype):
        return None
    return _as_type(f"the grad_fn of {name}", g, x.type, what, "a gradient")


def _as_type(giver: str, g: Any, wanted: Type, what: str, kind: str) -> Tensor:
    """A derivative in its place's dtype. Raises ShapeError."""
    found = as_tensor(g, wanted.dtype) if python_kind(g) is not None else as_tensor(g)
    if found.shape != wanted.shape:
        raise ShapeError(
            f"{giver} gives {what} {kind} of shape {show_shape(found.shape)}, but that is {wanted}; reduce or reshape "
            "it to the same shape"
        )
    return found if found.dtype == wanted.dtype else functions.astype(found, wanted.dtype)


def _name(f: Any) -> str:
    return f"the custom function {getattr(f, '__name__', repr(f))!r}"
