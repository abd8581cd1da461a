"""Objects that own variables: a `Module` finds every variable that its attributes hold, at any depth.

class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.hidden = nn.Dense(128, activation="relu", inputs=64)
        self.out = nn.Dense(10, inputs=128)

Classifier().trainable_variables  # hidden's kernel and bias, then out's
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, ClassVar

from tapefuse._tree import sorted_keys
from tapefuse.random import Generator
from tapefuse.tracer.variable import Variable


class Module:
    """Collects the variables in its attributes, also inside lists, tuples, dicts, other modules and random generators.

    Attributes are visited sorted by name, a module's own variables before those of the modules in it, and a variable
    that is held twice counts once. Nothing is registered: what an attribute holds now is what is found, so
    variables that a layer makes on its first call appear after that call.

    Raises `ValueError` for a `name` that is not an identifier. The default is the class name in snake case.
    """

    attribute_order: ClassVar[tuple[str, ...]] = ()
    """Names of attributes that come before the sorted others."""

    def __init__(self, name: str | None = None):
        name = _snake_case(type(self).__name__) if name is None else name
        if not name.isidentifier():
            raise ValueError(f"{name!r} is not a module name; use letters, digits and '_', not starting with a digit")
        self._name = name

    @property
    def name(self) -> str:
        """The name given, or the class name in snake case."""
        return getattr(self, "_name", None) or _snake_case(type(self).__name__)

    @property
    def variables(self) -> tuple[Variable, ...]:
        """All variables, trainable or not."""
        return tuple(v for _, v in _walk(self, Variable))

    @property
    def trainable_variables(self) -> tuple[Variable, ...]:
        """The variables made with `trainable=True`: what to pass to `tape.gradient` and to an optimizer."""
        return tuple(v for v in self.variables if v.trainable)

    @property
    def non_trainable_variables(self) -> tuple[Variable, ...]:
        return tuple(v for v in self.variables if not v.trainable)

    @property
    def submodules(self) -> tuple[Module, ...]:
        """All modules below this one: direct ones first, then those inside each."""
        return tuple(m for _, m in _walk(self, Module))

    def named_variables(self) -> dict[str, Variable]:
        """Every variable under its attribute path, e.g. `"classifier/hidden/kernel"`: stable keys for checkpoints."""
        return {"/".join((self.name, *path)): v for path, v in _walk(self, Variable)}

    def __repr__(self) -> str:
        sizes = [v.size for v in self.variables]
        return f"<{type(self).__name__} {self.name!r}: {len(sizes)} variables, {sum(sizes):,} numbers>"


def _walk(module: Module, kind: type) -> Iterator[tuple[tuple[str, ...], Any]]:
    """`(path, object)` for every object of `kind` under `module`, each object once; `module` itself is left out."""
    seen = {id(module)}

    def visit(module: Module, prefix: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
        below: list[tuple[tuple[str, ...], Module]] = []
        for path, leaf in _attributes(module):
            if id(leaf) in seen:
                continue
            seen.add(id(leaf))
            if isinstance(leaf, kind):
                yield (*prefix, *path), leaf
            if isinstance(leaf, Module):
                below.append(((*prefix, *path), leaf))
        for path, child in below:
            yield from visit(child, path)

    return visit(module, ())


def _attributes(module: Module) -> Iterator[tuple[tuple[str, ...], Variable | Module]]:
    order = {name: k for k, name in enumerate(module.attribute_order)}
    for name in sorted(vars(module), key=lambda n: (order.get(n, len(order)), n)):
        yield from _leaves((name,), vars(module)[name])


def _leaves(path: tuple[str, ...], value: Any) -> Iterator[tuple[tuple[str, ...], Variable | Module]]:
    """Variables and modules in nested lists, tuples and dicts; dict entries sorted by key."""
    if isinstance(value, (Variable, Module)):
        yield path, value
    elif isinstance(value, Generator):
        yield (*path, "state"), value.state
    elif isinstance(value, dict):
        for key in sorted_keys(value):
            yield from _leaves((*path, str(key)), value[key])
    elif isinstance(value, (list, tuple)):
        for k, item in enumerate(value):
            yield from _leaves((*path, str(k)), item)


def _snake_case(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()
