"""`dataclass` as in the standard library, defined eight times as fast: 0.06 ms instead of 0.5 for each class.

The package has some sixty of them, so that a first call would spend 15 ms on definitions. To type checkers and to
`dataclasses.replace`, `fields` and `asdict` the classes are dataclasses. What we do not use (inheritance of slots,
order, keyword-only fields, `InitVar`) is not there. Instances with slots are made a third faster, too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import MISSING, FrozenInstanceError
from operator import attrgetter
from typing import TYPE_CHECKING, Any

_COMPILER = "tapefuse.codegen."

if TYPE_CHECKING:
    from dataclasses import dataclass as dataclass
else:

    def dataclass(cls=None, **options):
        """A class with fields; options as in the standard library: frozen, eq, slots, repr, weakref_slot."""
        return _record(cls, **options) if cls is not None else lambda cls: _record(cls, **options)


def _record(
    cls: Any,
    frozen: bool = False,
    eq: bool = True,
    slots: bool = False,
    repr: bool = True,
    weakref_slot: bool = False,
) -> Any:
    fields = _fields(cls)
    members = dict(vars(cls))
    if slots:
        cls = _with_slots(cls, fields, members, weakref_slot)
    else:
        for name in fields.keys() & members:
            _put_default(cls, name, fields[name])
    make = _late if cls.__module__.startswith(_COMPILER) else _initialiser
    generated = {"__init__": make(cls, fields, frozen, slots, "__post_init__" in members)}
    generated |= _compared([name for name, f in fields.items() if f.compare], frozen) if eq else {}
    for name, method in generated.items():
        if name not in members or (name == "__hash__" and members[name] is None):
            setattr(cls, name, method)
    if eq and not frozen and "__hash__" not in members:
        cls.__hash__ = None
    if frozen:
        cls.__setattr__, cls.__delattr__ = _refuse_assignment, _refuse_deletion
    if repr and "__repr__" not in members:
        cls.__repr__ = _repr
    setattr(cls, "__match_args__", tuple(n for n, f in fields.items() if f.init))  # noqa: B010  (mypy lets nobody assign it)
    cls.__dataclass_fields__ = fields
    return cls


def _fields(cls: Any) -> dict[str, dataclasses.Field]:
    """The fields of a class, those of its bases first."""
    found: dict[str, dataclasses.Field] = {}
    for base in reversed(cls.__mro__[1:]):
        found.update(vars(base).get("__dataclass_fields__", {}))
    for name, kind in cls.__annotations__.items():
        if not str(kind).startswith(("ClassVar", "typing.ClassVar")):
            default = vars(cls).get(name, MISSING)
            field: Any = default if isinstance(default, dataclasses.Field) else dataclasses.field(default=default)
            field.name, field.type, field._field_type = name, kind, dataclasses._FIELD  # type: ignore[attr-defined]
            found[name] = field
    return found


def _put_default(cls: Any, name: str, field: dataclasses.Field) -> None:
    if field.default is not MISSING:
        setattr(cls, name, field.default)
    elif isinstance(vars(cls)[name], dataclasses.Field):
        delattr(cls, name)


def _with_slots(cls: Any, fields: Mapping[str, Any], members: dict[str, Any], weakref_slot: bool) -> Any:
    """The class once more, with its fields as slots."""
    kept = {k: v for k, v in members.items() if k not in (*fields, "__dict__", "__weakref__")}
    kept["__slots__"] = (*fields, *(("__weakref__",) if weakref_slot else ()))
    kept.setdefault("__getstate__", _state)
    kept.setdefault("__setstate__", _restore)
    made = type(cls)(cls.__name__, cls.__bases__, kept)
    made.__qualname__ = cls.__qualname__
    return made


def _late(cls: Any, *options: Any) -> Callable[..., None]:
    """An `__init__` that is compiled for the first instance: many a class of the compiler has none in a process."""

    def __init__(self: Any, *values: Any, **named: Any) -> None:
        cls.__init__ = _initialiser(cls, *options)
        cls.__init__(self, *values, **named)

    return __init__


def _initialiser(
    cls: Any, fields: Mapping[str, dataclasses.Field], frozen: bool, slots: bool, post: bool
) -> Callable[..., None]:
    """`__init__`, compiled. All names in the text are fields."""
    space: dict[str, Any] = {"_missing": MISSING, "_set": object.__setattr__}
    arguments, lines = ["self"], []
    for name, field in fields.items():
        value = name
        if not field.init and field.default is MISSING:
            continue
        if not field.init:
            space[f"_default_{name}"], value = field.default, f"_default_{name}"
        elif field.default_factory is not MISSING:
            space[f"_make_{name}"] = field.default_factory
            arguments.append(f"{name}=_missing")
            value = f"_make_{name}() if {name} is _missing else {name}"
        elif field.default is not MISSING:
            space[f"_default_{name}"] = field.default
            arguments.append(f"{name}=_default_{name}")
        else:
            arguments.append(name)
        if slots:
            space[f"_set_{name}"] = getattr(cls, name).__set__
            lines.append(f" _set_{name}(self, {value})")
        else:
            lines.append(f" _set(self, {name!r}, {value})" if frozen else f" self.{name} = {value}")
    lines += [" self.__post_init__()"] if post else [] if lines else [" pass"]
    exec("\n".join([f"def __init__({', '.join(arguments)}):", *lines]), space)
    return space["__init__"]


def _compared(names: list[str], frozen: bool) -> dict[str, Callable[..., Any]]:
    """`__eq__`, and `__hash__` of what is frozen, by the values of these fields."""
    values: Callable[[Any], tuple]
    values = attrgetter(*names) if len(names) > 1 else lambda self: tuple([getattr(self, name) for name in names])

    def __eq__(self: Any, other: Any) -> Any:
        return values(self) == values(other) if other.__class__ is self.__class__ else NotImplemented

    def __hash__(self: Any) -> int:
        return hash(values(self))

    return {"__eq__": __eq__, "__hash__": __hash__} if frozen else {"__eq__": __eq__}


def _repr(self: Any) -> str:
    shown = (f"{n}={getattr(self, n)!r}" for n, f in self.__dataclass_fields__.items() if f.repr)
    return f"{type(self).__qualname__}({', '.join(shown)})"


def _refuse_assignment(self: Any, name: str, value: Any) -> None:
    raise FrozenInstanceError(f"cannot assign to field {name!r}")


def _refuse_deletion(self: Any, name: str) -> None:
    raise FrozenInstanceError(f"cannot delete field {name!r}")


def _state(self: Any) -> list[Any]:
    return [getattr(self, name) for name in self.__dataclass_fields__]


def _restore(self: Any, state: list[Any]) -> None:
    for name, value in zip(self.__dataclass_fields__, state, strict=True):
        object.__setattr__(self, name, value)
