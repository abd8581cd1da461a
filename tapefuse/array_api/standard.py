"""Our functions under the signatures of the array API standard: `standard(tp.sum, "x, /, *, axis=None")`."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable
from typing import Any

Function = Callable[..., Any]


def standard(function: Function, parameters: str, name: str | None = None) -> Function:
    """`function`, which takes what `parameters` says and nothing else. Raises TypeError for other arguments."""
    signature = _signature(parameters)
    kinds = [p.kind for p in signature.parameters.values()]
    named = {n for n, p in signature.parameters.items() if p.kind is not inspect.Parameter.POSITIONAL_ONLY}
    least = sum(p.default is p.empty for p in signature.parameters.values())
    most = sum(kind is not inspect.Parameter.KEYWORD_ONLY for kind in kinds)

    def call(*args: Any, **options: Any) -> Any:
        if not least <= len(args) <= most or not named.issuperset(options):
            signature.bind(*args, **options)  # says what is wrong, if anything is
        return function(*args, **options)

    call.__name__ = call.__qualname__ = name or function.__name__
    call.__doc__, call.__module__ = function.__doc__, __name__.rpartition(".")[0]
    call.__signature__ = signature  # type: ignore[attr-defined]
    return call


def _signature(text: str) -> inspect.Signature:
    """The signature of `def f(text)`, whose defaults are literals."""
    (definition,) = ast.parse(f"def f({text}): pass").body
    assert isinstance(definition, ast.FunctionDef)
    given = definition.args
    P, found = inspect.Parameter, []
    plain = [(a, P.POSITIONAL_ONLY) for a in given.posonlyargs] + [(a, P.POSITIONAL_OR_KEYWORD) for a in given.args]
    defaults = [None] * (len(plain) - len(given.defaults)) + list(given.defaults)
    for (a, kind), default in zip(plain, defaults, strict=True):
        found.append(P(a.arg, kind, default=P.empty if default is None else ast.literal_eval(default)))
    for a, value in zip(given.kwonlyargs, given.kw_defaults, strict=True):
        found.append(P(a.arg, P.KEYWORD_ONLY, default=P.empty if value is None else ast.literal_eval(value)))
    return inspect.Signature(found)


def all_of(functions: Any, rows: str) -> dict[str, Function]:
    """A function for each row `name(parameters)`, under that name in `functions`."""
    found = {}
    for row in rows.strip().splitlines():
        name, _, parameters = row.strip().rstrip(")").partition("(")
        found[name] = standard(getattr(functions, name), parameters, name)
    return found
