"""What a loop carries is added last in its sums, unless they must keep their order."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from tapefuse.codegen.chains import carried_last
from tapefuse.codegen.loops import INT, Assign, Buffer, For, If, Let, Load, Num, Scalar, Stmt, Store, Var
from tapefuse.ir.types import Type

F8, BOOL = np.dtype(np.float64), np.dtype(bool)
SLOT = Var("s", F8)


def f(name: str) -> Var:
    return Var(name, F8)


def add(dst: str, *args: Scalar) -> Let:
    return Let(f(dst), "add", args)


READ = Let(f("r"), "read", (SLOT,))
SUM = (READ, add("a", f("x"), f("r")), add("b", f("a"), f("y")), add("c", f("z"), f("b")))
MEAN = (Let(f("t"), "div", (f("c"), Num(9.0, F8))), Assign(SLOT, f("t")))


def results(body: Sequence[Stmt], **values: float) -> dict[str, float]:
    """The scalars of a body after an iteration."""
    found: dict[str, float] = {**values}
    for s in body:
        if isinstance(s, Let):
            args = [x.value if isinstance(x, Num) else found[x.name] for x in s.args]
            found[s.dst.name] = args[0] if s.op == "read" else float(getattr(np, _NAMES[s.op])(*args))
        elif isinstance(s, Assign):
            found[s.acc.name] = found[s.value.name]  # type: ignore[union-attr]
    return found


_NAMES = {"add": "add", "sub": "subtract", "div": "divide", "mul": "multiply"}


def test_the_carried_value_is_added_last() -> None:
    body = carried_last((*SUM, *MEAN))
    last = next(s for s in body if isinstance(s, Let) and s.dst == f("c"))
    assert last.args[1] == f("r")
    assert [s.dst.name for s in body if isinstance(s, Let)] == ["r", "a", "b", "c", "t"]
    given = {"s": 2.0, "x": 3.0, "y": 5.0, "z": 7.0}
    assert results(body, **given)["s"] == results((*SUM, *MEAN), **given)["s"] == 17 / 9


def test_each_scalar_is_known_before_it_is_read() -> None:
    body = carried_last((*SUM[:2], Let(f("y"), "mul", (f("x"), f("x"))), *SUM[2:], *MEAN))
    results(body, s=1.0, x=2.0, z=3.0)  # KeyError otherwise


@pytest.mark.parametrize(
    ("why", "body"),
    [
        ("two terms", (READ, add("c", f("r"), f("x")), *MEAN)),
        ("a sum that is read elsewhere", (*SUM, Store(Buffer("m", Type(F8, ())), (), f("a")), *MEAN)),
        ("doubled", (READ, add("a", f("r"), f("r")), add("c", f("a"), f("x")), *MEAN)),
        ("not what is carried on", (*SUM, Assign(SLOT, f("x")))),
        ("nothing is carried", SUM),
        (
            "a compensated sum",
            (
                READ,
                add("c", f("r"), f("y")),
                Let(f("d"), "sub", (f("c"), f("r"))),
                Let(f("e"), "sub", (f("d"), f("y"))),
                Assign(SLOT, f("c")),
            ),
        ),
        ("a loop in it", (*SUM, *MEAN, For(Var("i", INT), Num(0, INT), Num(2, INT), ()))),
        ("a branch in it", (*SUM, *MEAN, If(Var("p", BOOL), (), ()))),
        ("a value that is loaded", (Load(f("r"), Buffer("m", Type(F8, ())), ()), *SUM[1:], *MEAN)),
    ],
)
def test_sums_that_stay_as_they_are(why: str, body: tuple[Stmt, ...]) -> None:
    assert carried_last(body) == body, why
