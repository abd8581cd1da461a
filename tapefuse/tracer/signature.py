"""The arguments of a traced function: which of them are inputs of the program, and which trace serves a call.

`Signature(f).call(args, kwargs)` gives a `Call`: its `key` is equal for calls that one trace serves. Tensors and
arrays count by dtype and shape, variables by dtype, shape and which of them are the same, Python values by type and
value, other objects by identity.
"""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from tapefuse._errors import DTypeError
from tapefuse._records import dataclass
from tapefuse._tree import Tree, flatten, leaves_with_paths, tree_map, unflatten
from tapefuse.ir.types import Poly, Type
from tapefuse.tracer.arrays import check_dtype, python_kind
from tapefuse.tracer.rows import opened
from tapefuse.tracer.source import user_loc
from tapefuse.tracer.tensor import Tensor, as_tensor
from tapefuse.tracer.variable import Variable

# ("tensor", dtype, shape) | ("variable", dtype, shape, number) | ("value", type, value) | ("object", type, id)
Leaf = tuple


_BY_IDENTITY: Any = object.__hash__


@dataclass(frozen=True)
class TensorSpec:
    """What a tensor argument looks like: extents are ints, names of dimensions, or None for any extent.

    Equal names within one signature are equal extents. `TensorSpec((None, 784))`, `TensorSpec(("B", 784), tp.float32)`.
    """

    shape: Any
    dtype: Any = np.float32
    name: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "dtype", check_dtype(self.dtype, "a TensorSpec"))
        shape = (self.shape,) if isinstance(self.shape, (int, str, Poly)) else tuple(self.shape)
        for d in shape:
            if not (d is None or isinstance(d, Poly) or (isinstance(d, str) and d.isidentifier()) or _is_extent(d)):
                raise TypeError(f"TensorSpec: {d!r} is no extent; use a non-negative int, a name such as 'B', or None")
        object.__setattr__(self, "shape", tuple([int(d) if _is_extent(d) else d for d in shape]))

    def type(self, fresh: Callable[[], str]) -> Type:
        """The type with a symbol for each name, and for each None the one that `fresh()` names."""
        names = [fresh() if d is None else d for d in self.shape]
        dims = [Poly.symbol(d) if isinstance(d, str) else d for d in names]
        return Type(self.dtype, tuple(dims))


def _is_extent(d: Any) -> bool:
    return isinstance(d, (int, np.integer)) and not isinstance(d, bool) and bool(d >= 0)


def _spec_types(specs: Any) -> Any:
    """A structure of TensorSpecs with their types in place; None extents get the names B0, B1, ..."""
    names = {d for s in flatten(specs)[0] if isinstance(s, TensorSpec) for d in s.shape if isinstance(d, str)}
    free = (name for k in range(10**6) if (name := f"B{k}") not in names)
    return tree_map(lambda s: s.type(lambda: next(free)) if isinstance(s, TensorSpec) else s, specs)


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """One call, taken apart."""

    signature: Signature
    key: tuple
    tree: Tree  # of the tuple of parameters' values
    leaves: list[Any]
    inputs: list[Tensor | np.ndarray]  # the leaves that are inputs of the program, in order
    variables: list[Variable]  # the leaves that are variables, each once

    @property
    def kinds(self) -> tuple[Leaf, ...]:
        return self.key[1]

    @property
    def input_types(self) -> list[Type]:
        return [Type(k[1], k[2]) for k in self.kinds if k[0] == "tensor"]


class Signature:
    """The parameters of a Python function, with TensorSpecs for the first of them if `specs` are given.

    A function with the attribute `tells_names` (`vmap`) means something else by f(x, y=y) than by f(x, y), and by
    defaults: it is called as it was.
    """

    def __init__(self, function: Callable[..., Any], specs: Any = None, skip_first: bool = False):
        signature = _signature_of(function)
        tells_names = specs is None and getattr(function, "tells_names", False)
        self._as_called = Signature(lambda *args, **kwargs: None) if tells_names else None
        if skip_first:
            signature = signature.replace(parameters=list(signature.parameters.values())[1:])
        self._signature = signature
        kinds = [p.kind for p in signature.parameters.values()]
        self.is_plain = all(
            k in (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD) for k in kinds
        )
        self.star = next((k for k, kind in enumerate(kinds) if kind is inspect.Parameter.VAR_POSITIONAL), None)
        self._is_variadic = self.star is not None or inspect.Parameter.VAR_KEYWORD in kinds
        later = kinds[len(kinds) if self.star is None else self.star + 1 :]
        only_names = all(kind is inspect.Parameter.VAR_KEYWORD for kind in later)
        self.is_positional = self.is_plain or self.star is not None and only_names  # f(x, *rest, **names)
        self._name = getattr(function, "__name__", "function")
        self.names = tuple(signature.parameters)
        self.types = None if specs is None else self._checked(specs)

    def _checked(self, specs: Any) -> tuple:
        if not isinstance(specs, (list, tuple)) or hasattr(specs, "_fields"):
            raise TypeError(f"input_signature is a list of TensorSpecs, one for each parameter, not {specs!r}")
        for path, s in leaves_with_paths(specs, "input_signature"):
            if not isinstance(s, TensorSpec):
                raise TypeError(f"{path} is a {type(s).__name__}, {s!r}; expected a TensorSpec")
        if any(x is None for x in specs):
            raise TypeError("input_signature has a None entry; expected a TensorSpec for each parameter")
        required = [p for p in list(self._signature.parameters.values())[len(specs) :] if p.default is p.empty]
        if len(specs) > len(self.names) or any(p.kind <= p.POSITIONAL_OR_KEYWORD for p in required):
            raise TypeError(f"input_signature has {len(specs)} entries, {self._name} takes {self._signature}")
        return tuple(_spec_types(list(specs)))

    def call(self, args: tuple, kwargs: dict[str, Any]) -> Call:
        """Raises TypeError for arguments that do not fit the parameters or the input_signature, or cannot be keys."""
        if self._as_called is not None and (kwargs or len(args) != len(self.names)):
            self._bound(args, kwargs)
            return self._as_called.call(args, kwargs)
        values = self._values(args, kwargs)
        declared: list[Type] = []
        if self.types is not None:
            fitted = [_fit(t, v, n) for t, v, n in zip(self.types, values, self.names, strict=False)]
            declared = flatten(list(self.types))[0]
            values = (*fitted, *values[len(fitted) :])
        leaves, tree = flatten(opened(values))
        if any(type(x) is TensorSpec for x in leaves):
            leaves, tree = flatten(tuple(_spec_types(list(values))))
        kinds: list[Leaf] = [("tensor", t.dtype, t.shape) for t in declared]
        variables: dict[int, Variable] = {}
        for x in leaves[len(declared) :]:
            kinds.append(self._kind(x, variables))
        inputs = [x for x, kind in zip(leaves, kinds, strict=True) if kind[0] == "tensor"]
        return Call(self, (tree, tuple(kinds)), tree, leaves, inputs, list(variables.values()))

    def _values(self, args: tuple, kwargs: dict[str, Any]) -> tuple:
        if not kwargs and self.is_plain and len(args) == len(self.names):
            return args
        bound = self._bound(args, kwargs)
        bound.apply_defaults()
        return tuple(bound.arguments.values())

    def _bound(self, args: tuple, kwargs: dict[str, Any]) -> inspect.BoundArguments:
        try:
            return self._signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(
                f"{self._name} called at {user_loc()}: {error}; its parameters are {self._signature}"
            ) from None

    def parameters(self, n: int, names: Iterable[str]) -> list[int] | None:
        """The numbers of the parameters that `n` arguments and those with names are values of; None where one parameter
        takes several."""
        return None if self._is_variadic else [*range(n), *map(self.names.index, names)]

    def python_call(self, function: Callable[..., Any], values: tuple) -> Any:
        """Call `function` with one value per parameter."""
        bound = inspect.BoundArguments(self._signature, dict(zip(self.names, values, strict=True)))
        return function(*bound.args, **bound.kwargs)

    def leaf_names(self, call: Call) -> list[str]:
        """What each leaf of a call is called in the source: `x`, `batch['image']`."""
        values = unflatten(call.tree, range(len(call.leaves)))
        return [path for name, v in zip(self.names, values, strict=True) for path, _ in leaves_with_paths(v, name)]

    def _kind(self, x: Any, variables: dict[int, Variable]) -> Leaf:
        if isinstance(x, (Tensor, Type)):
            return "tensor", x.dtype, x.shape
        if isinstance(x, Variable):
            variables.setdefault(id(x), x)
            return "variable", x.dtype, x.shape, list(variables).index(id(x))
        if isinstance(x, (np.ndarray, np.generic)):
            return "tensor", check_dtype(x.dtype, f"an argument of {self._name!r}"), x.shape
        if isinstance(x, float):
            return "value", type(x), float.hex(x)  # tells -0.0 from 0.0, and nan equals itself
        if type(x).__hash__ is _BY_IDENTITY:
            return "object", type(x), id(x)
        try:
            hash(x)
        except TypeError:
            raise TypeError(
                f"the argument {x!r} of the tape_function {self._name!r} is a {type(x).__name__}, which cannot be "
                "hashed, so it cannot select a trace; pass tensors, numbers, strings, or tuples, lists and dicts of "
                "them"
            ) from None
        return "value", type(x), x


def _signature_of(function: Callable[..., Any]) -> inspect.Signature:
    """Functions in C have no signature, or one whose defaults cannot be passed: they take anything."""
    if inspect.isbuiltin(function) or isinstance(function, (np.ufunc, type)):
        return inspect.signature(lambda *args, **kwargs: None)
    return inspect.signature(function)


def _fit(types: Any, value: Any, path: str) -> Any:
    """`value` as tensors of the declared types. Raises TypeError naming the argument that does not fit."""
    if isinstance(types, Type):
        return _fit_one(types, value, path)
    tree = flatten(types)[1]
    if tree.kind is not None and isinstance(value, tree.kind) and len(value) == len(tree.children):
        if isinstance(value, dict) and set(value) == set(types):
            return type(types)((k, _fit(types[k], value[k], f"{path}[{k!r}]")) for k in types)
        if not isinstance(value, dict):
            parts = [_fit(t, v, f"{path}[{k}]") for k, (t, v) in enumerate(zip(types, value, strict=True))]
            return tree.kind(*parts) if hasattr(tree.kind, "_fields") else tree.kind(parts)
    raise TypeError(f"the argument {path} at {user_loc()} is {value!r}; the input_signature wants the structure {tree}")


def _fit_one(wanted: Type, value: Any, path: str) -> Tensor | Type | np.ndarray:
    if isinstance(value, TensorSpec):
        value = _spec_types(value)
    if not isinstance(value, (Tensor, Type, np.ndarray)):
        try:
            value = as_tensor(value, wanted.dtype if python_kind(value) is not None else None)
        except (DTypeError, ValueError) as error:
            raise DTypeError(
                f"the argument {path} at {user_loc()} cannot be cast to the input_signature's {wanted}: {error}"
            ) from None
    got = value if isinstance(value, Type) else Type(check_dtype(value.dtype, path), value.shape)
    fits = got.dtype == wanted.dtype and len(got.shape) == len(wanted.shape)
    if not fits or any(isinstance(w, int) and w != g for w, g in zip(wanted.shape, got.shape, strict=True)):
        raise DTypeError(
            f"the argument {path} at {user_loc()} is {got} (rank {len(got.shape)}) and cannot be cast to the "
            f"input_signature's {wanted} (rank {len(wanted.shape)}); reshape or cast it, or change the TensorSpec"
        )
    return value


def show_leaf(kind: Leaf) -> str:
    """A leaf of a key for people: `f32[3]`, `variable f32[]`, `2 (int)`."""
    if kind[0] == "tensor":
        return str(Type(kind[1], kind[2]))
    if kind[0] == "variable":
        return f"variable {Type(kind[1], kind[2])}"
    if kind[0] == "object":
        return f"a {kind[1].__name__} object"
    value = float.fromhex(kind[2]) if issubclass(kind[1], float) else kind[2]
    return f"{value!r} ({kind[1].__name__})"


def weak_guards(call: Call) -> tuple[weakref.ref, ...]:
    """References to the arguments that count by identity; when one dies, its key may come to mean another object."""
    objects = [x for x, kind in zip(call.leaves, call.kinds, strict=True) if kind[0] == "object"]
    return tuple([weakref.ref(x) for x in objects if type(x).__weakrefoffset__])
