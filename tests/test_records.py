"""Our dataclasses beside the standard library's: the same behaviour, as far as we use it."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import weakref
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import pytest

from tapefuse._records import dataclass as ours

OPTIONS: tuple[dict[str, bool], ...] = (
    {},
    {"frozen": True},
    {"slots": True},
    {"frozen": True, "slots": True},
    {"frozen": True, "eq": False, "slots": True, "weakref_slot": True},
    {"eq": False},
)


def pair(decorator: Any, options: dict[str, bool]) -> tuple[Any, Any]:
    @decorator(**options)
    class Point:
        """A point."""

        kind: ClassVar[str] = "point"
        x: int
        y: Any = 2
        tags: list = dataclasses.field(default_factory=list, compare=False, repr=False)

        @property
        def norm(self) -> float:
            return self.x**2 + self.y**2

    @decorator(**options)
    class Checked:
        x: int
        twice: int = dataclasses.field(init=False)
        seen: int = dataclasses.field(default=7, init=False, compare=False)

        def __post_init__(self) -> None:
            if self.x < 0:
                raise ValueError("negative")
            object.__setattr__(self, "twice", 2 * self.x)

    return Point, Checked


def outcome(f: Any) -> Any:
    try:
        return f()
    except Exception as e:
        return type(e)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_as_in_the_standard_library(options: dict[str, bool]) -> None:
    (mine, checked), (theirs, other) = pair(ours, options), pair(dataclasses.dataclass, options)
    same = np.arange(3)

    def behaviours(cls: Any) -> list[Any]:
        a, b, c = cls(1, 3), cls(1, y=3, tags=[1]), cls(2)
        return [
            outcome(lambda: a == b), outcome(lambda: a == c), outcome(lambda: (hash(a) == hash(b), a in {b})),
            outcome(cls), outcome(lambda: cls(1, 2, [], 4)), outcome(lambda: cls(1, z=2)),
            outcome(lambda: setattr(a, "x", 5)), outcome(lambda: delattr(a, "y")),
            c.y, c.tags, c.tags is not cls(2).tags, c.norm, c.kind, repr(c).rpartition(".")[2],
            cls.__match_args__, cls.__doc__, cls.__qualname__, hasattr(c, "__dict__"),
            outcome(lambda: weakref.ref(c)() is c),
            [f.name for f in dataclasses.fields(cls)], dataclasses.asdict(c), dataclasses.replace(c, y=9).y,
            copy.copy(c).x, copy.deepcopy(c).y, cls(1, same) == cls(1, same) if options.get("eq", True) else 0,
            a == object(), outcome(lambda: a < b),
        ]  # fmt: skip

    assert behaviours(mine) == behaviours(theirs)
    with pytest.raises(AttributeError) if options.get("slots") or options.get("frozen") else contextlib.nullcontext():
        mine(1).other = 5
    assert checked(3).twice == other(3).twice == 6 and checked(3).seen == 7
    assert checked.__match_args__ == other.__match_args__
    with pytest.raises(ValueError, match="negative"):
        checked(-1)


def test_matching_and_cached_properties() -> None:
    @ours(frozen=True)
    class Node:
        op: str
        args: tuple = ()

        @cached_property
        def size(self) -> int:
            return len(self.args)

    match Node("add", (1, 2)):
        case Node("add", (a, b)):
            assert (a, b) == (1, 2)
        case _:
            raise AssertionError
    node = Node("add", (1,))
    assert node.size == node.size == 1 and node == Node("add", (1,)) and hash(node) == hash(Node("add", (1,)))


def test_fields_of_bases_come_first() -> None:
    @ours(frozen=True)
    class Base:
        a: int = 1

    @ours(frozen=True)
    class Derived(Base):
        b: int = 2

    assert Derived() == Derived(1, 2) and Derived(3).a == 3 and repr(Derived(3, 4)).endswith("Derived(a=3, b=4)")
    assert Base() != Derived()
