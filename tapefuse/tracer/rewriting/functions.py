"""Functions whose control flow is staged: made from the user's functions when they are first traced, kept by code.

The new function shares globals, defaults and closure cells with the old one. Its code carries the user's file and
lines. `rewritten` gives back the function itself where nothing is to be done, or the source is not there.
"""

from __future__ import annotations
import __future__

import ast
import builtins
import dis
import functools
import os
import weakref
from collections.abc import Callable
from types import BuiltinFunctionType, CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np

from tapefuse._records import dataclass
from tapefuse.tracer.rewriting.calls import replaced
from tapefuse.tracer.rewriting.jumps import STAGER
from tapefuse.tracer.rewriting.nodes import has_control_flow
from tapefuse.tracer.rewriting.sources import source_of
from tapefuse.tracer.rewriting.staging import Stager
from tapefuse.tracer.rewriting.syntax import Rewriting
from tapefuse.tracer.source import PACKAGE, is_users_file

_AS_WRITTEN = "__tapefuse_as_written__"
_FUTURE = functools.reduce(int.__or__, [getattr(__future__, n).compiler_flag for n in __future__.all_feature_names])
_JUMPS = frozenset([*dis.hasjrel, *dis.hasjabs])
_OTHERS = "CALL", "MAKE_FUNCTION", "UNARY_NOT", "STORE_SUBSCR", "CONTAINS_OP"
_CALLS = frozenset(code for name, code in dis.opmap.items() if name.startswith(_OTHERS))


@dataclass(frozen=True, slots=True)
class _Made:
    """The new code of a function, None to leave it alone."""

    file: str
    code: CodeType | None
    stager: Stager | None = None


_made: weakref.WeakKeyDictionary[CodeType, _Made] = weakref.WeakKeyDictionary()
_ours: weakref.WeakSet[CodeType] = weakref.WeakSet()


def as_written(function: Callable[..., Any]) -> Callable[..., Any]:
    """Leave a function's control flow to Python when it is traced; as decorator. Callees are left alone as well."""
    setattr(function, _AS_WRITTEN, True)
    return function


def rewritten(function: Any) -> Any:
    """The function, method, partial or callable object with its control flow staged.

    Anything without Python source, and what was rewritten before, is given back as it is.
    """
    if isinstance(function, FunctionType):
        return _function(function) if not function.__code__.co_filename.startswith(PACKAGE) else _of_ours(function)
    if isinstance(function, MethodType):
        inner = rewritten(function.__func__)
        return function if inner is function.__func__ else MethodType(inner, function.__self__)
    if isinstance(function, functools.partial):
        inner = rewritten(function.func)
        return function if inner is function.func else functools.partial(inner, *function.args, **function.keywords)
    return function


def _function(function: FunctionType) -> FunctionType:
    if function.__code__ in _ours or function.__dict__.get(_AS_WRITTEN):
        return function
    made = _of_code(function)
    if made.code is None:
        return function
    cells = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
    cells[STAGER] = CellType(made.stager)
    closure = tuple([cells[name] for name in made.code.co_freevars])
    new = FunctionType(made.code, function.__globals__, function.__name__, function.__defaults__, closure)
    new.__kwdefaults__, new.__qualname__, new.__module__ = (
        function.__kwdefaults__,
        function.__qualname__,
        function.__module__,
    )
    return new


def _of_code(function: FunctionType) -> _Made:
    code = function.__code__
    found = _made.get(code)
    if found is None or found.file != code.co_filename:
        found = _made[code] = _make(function)
    return found


def _make(function: FunctionType) -> _Made:
    code = function.__code__
    alone = _Made(code.co_filename, None)
    if not _may_need(code):
        return alone
    source = source_of(function)
    if source is None:
        return alone
    if not has_control_flow(source.node) and _calls_libraries_only(source.node, function):
        return alone
    rewriting = Rewriting(code.co_filename)
    node: ast.stmt
    if isinstance(source.node, ast.Lambda):
        node = ast.copy_location(ast.Expr(rewriting.visit(_without_defaults(source.node))), source.node)
    else:
        node = source.node
        rewriting.function(_without_defaults(node))
        node.name = f"{STAGER}_function"  # a function that calls itself means the variable, not this definition
    new = _compiled(node, source.owner, code)
    if new is None or STAGER not in new.co_freevars:
        return alone
    _note_ours(new)
    return _Made(code.co_filename, new, Stager(tuple(rewriting.statements), _callee, code.co_name))


def _compiled(node: ast.stmt, owner: str | None, old: CodeType) -> CodeType | None:
    """The code of a function whose free names are those of the old one and ours."""
    if owner is not None:
        node = ast.copy_location(ast.ClassDef(owner, [], [], [node], []), node)
        if "type_params" in ast.ClassDef._fields:
            setattr(node, "type_params", [])  # noqa: B010  (Python 3.12)
    free = [ast.arg(name) for name in (STAGER, *old.co_freevars)]
    arguments = ast.arguments([], free, None, [], [], None, [])
    factory = ast.FunctionDef("factory", arguments, [node], [], None)
    if "type_params" in ast.FunctionDef._fields:
        setattr(factory, "type_params", [])  # noqa: B010  (Python 3.12)
    module = ast.fix_missing_locations(ast.Module([ast.copy_location(factory, node)], []))
    code = compile(module, old.co_filename, "exec", old.co_flags & _FUTURE, dont_inherit=True)
    for _ in range(2 + (owner is not None)):
        code = next(c for c in code.co_consts if isinstance(c, CodeType))
    return _renamed(code, old.co_name, old.co_qualname) if set(code.co_freevars) <= {STAGER, *old.co_freevars} else None


def _renamed(code: CodeType, name: str, qualname: str) -> CodeType:
    """Blocks that became functions go by the name of the function that they are part of."""
    constants = []
    for c in code.co_consts:
        if isinstance(c, CodeType):
            is_block = c.co_name.startswith(STAGER)
            inner = f"{qualname}.<locals>.{c.co_name}"
            c = _renamed(c, name, qualname) if is_block else _renamed(c, c.co_name, inner)
        constants.append(c)
    return code.replace(co_name=name, co_qualname=qualname, co_consts=tuple(constants))


def _note_ours(code: CodeType) -> None:
    _ours.add(code)
    for c in code.co_consts:
        if isinstance(c, CodeType):
            _note_ours(c)


def _without_defaults(node: Any) -> Any:
    """Defaults, decorators and annotations belong to the function object, which keeps them."""
    node.args.defaults, node.args.kw_defaults = [], [None] * len(node.args.kwonlyargs)
    for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs, node.args.vararg, node.args.kwarg):
        if a is not None:
            a.annotation = None
    if isinstance(node, ast.FunctionDef):
        node.decorator_list, node.returns = [], None
    return node


# -- what is left alone -----------------------------------------------------------------------------------------------


def _may_need(code: CodeType) -> bool:
    """Whether there is a jump, a call, a `not` or a store in the bytecode; told without looking for the source."""
    return any(op in _JUMPS or op in _CALLS for op in code.co_code[::2]) or any(
        isinstance(c, CodeType) for c in code.co_consts
    )


def _calls_libraries_only(node: ast.AST, function: FunctionType) -> bool:
    return all(_is_library(_resolved(n.func, function)) for n in ast.walk(node) if isinstance(n, ast.Call))


def _resolved(node: ast.expr, function: FunctionType) -> Any:
    """What `f` or `module.f` means at this moment, None if that cannot be told from the globals."""
    if isinstance(node, ast.Attribute):
        module = _resolved(node.value, function)
        return getattr(module, node.attr, None) if isinstance(module, ModuleType) else None
    if not isinstance(node, ast.Name) or node.id in (*function.__code__.co_varnames, *function.__code__.co_freevars):
        return None
    return function.__globals__.get(node.id, getattr(builtins, node.id, None))


def _is_library(f: Any) -> bool:
    if isinstance(f, (BuiltinFunctionType, np.ufunc)):
        return replaced(f) is None
    if not isinstance(f, FunctionType) or is_users(f):
        return False
    return not f.__code__.co_filename.startswith(_TAKE_FUNCTIONS)  # those may be given the user's functions


def is_users(function: FunctionType) -> bool:
    """Whether it is code of the user's: not of Python, of an installed package, or ours."""
    return is_users_file(function.__code__.co_filename)


# -- calls ------------------------------------------------------------------------------------------------------------


def _callee(f: Any) -> Any:
    """What a rewritten function calls in place of `f`."""
    if isinstance(f, FunctionType):
        if is_users(f):
            return _function(f)
        return _of_ours(f)
    if isinstance(f, MethodType):
        inner = f.__func__
        return rewritten(f) if isinstance(inner, FunctionType) and is_users(inner) else f
    if isinstance(f, functools.partial):
        inner = _callee(f.func)
        return f if inner is f.func else functools.partial(inner, *f.args, **f.keywords)
    if isinstance(f, type):
        return replaced(f) or f
    if isinstance(f, BuiltinFunctionType):
        return replaced(f) or f
    method = getattr(type(f), "__call__", None)  # noqa: B004
    if isinstance(method, FunctionType) and is_users(method):
        inner = _function(method)
        return f if inner is method else MethodType(inner, f)
    return f


_HOLD_FUNCTIONS = (PACKAGE + "transforms" + os.sep, PACKAGE + "function.py")
_TAKE_FUNCTIONS = (PACKAGE + "transforms" + os.sep, PACKAGE + os.path.join("tracer", "control"))


def _of_ours(f: FunctionType) -> Any:
    """Functions of this package that call those which they are given: `tp.grad`, and what it returns."""
    file = f.__code__.co_filename
    if f.__closure__ and file.startswith(_HOLD_FUNCTIONS):
        return _with_rewritten_cells(f, f.__closure__)
    return _with_rewritten_arguments(f) if file.startswith(_TAKE_FUNCTIONS) else f


def _with_rewritten_cells(f: FunctionType, closure: tuple[CellType, ...]) -> FunctionType:
    """The same function with the user's functions that it holds rewritten."""
    cells = tuple([_rewritten_cell(c) for c in closure])
    if all(a is b for a, b in zip(cells, closure, strict=True)):
        return f
    new = FunctionType(f.__code__, f.__globals__, f.__name__, f.__defaults__, cells)
    new.__kwdefaults__ = f.__kwdefaults__
    return new


def _rewritten_cell(cell: CellType) -> CellType:
    try:
        old = cell.cell_contents
    except ValueError:  # empty
        return cell
    new = _argument(old)
    return cell if new is old else CellType(new)


def _with_rewritten_arguments(f: FunctionType) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        return f(*map(_argument, args), **{k: _argument(v) for k, v in kwargs.items()})

    return call


def _argument(x: Any) -> Any:
    """What may be a function, or a list of them."""
    if isinstance(x, (list, tuple)) and not hasattr(x, "_fields"):
        new = [_argument(part) for part in x]
        return x if all(a is b for a, b in zip(new, x, strict=True)) else type(x)(new)
    return x if isinstance(x, type) or not callable(x) else _callee(x)
