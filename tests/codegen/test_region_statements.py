"""What kernels of loops and branches print as, and what that does: as plain Python, and under `@njit`."""

from __future__ import annotations

import numpy as np
import pytest

from tapefuse.codegen.code import Code
from tapefuse.codegen.emit_numba import OPTIONS
from tapefuse.codegen.emit_numba_kernel import kernel_text
from tapefuse.codegen.emit_numba_names import Imports
from tapefuse.codegen.loops import (
    BOOL,
    HI,
    INT,
    LO,
    ZERO,
    Allocate,
    Assign,
    Buffer,
    Declare,
    For,
    Free,
    If,
    Kernel,
    Launch,
    Let,
    Load,
    Move,
    Num,
    Poll,
    Stmt,
    Store,
    Update,
    Var,
    View,
    While,
    dimension,
)
from tapefuse.codegen.loops_text import show
from tapefuse.ir.types import Poly, Type

F8, BYTE = np.dtype(np.float64), np.dtype(np.uint8)


def number(n: int) -> Num:
    return Num(n, INT)


def var(name: str, dtype: np.dtype = INT) -> Var:
    return Var(name, dtype)


def buffer(name: str, type: str) -> Buffer:
    return Buffer(name, Type.parse(type))


def kernel(buffers: tuple[Buffer, ...], *body: Stmt, symbols: tuple[str, ...] = ()) -> Kernel:
    return Kernel("k0", buffers, symbols, body, 1, 1)


def text(k: Kernel) -> str:
    """The functions of a module: the kernel's, and before it those of the kernels that it launches."""
    imports, functions = Imports(), []

    def launched(inner: Kernel, in_pieces: bool) -> str:
        functions.append(f"@njit({OPTIONS})\n" + kernel_text(inner, imports))
        return inner.name

    functions.append(f"@njit({OPTIONS})\n" + kernel_text(k, imports, launched))
    return "\n\n".join([imports.text(), *functions])


@pytest.fixture(params=["plain", "njit"])
def run(request):
    def call(k: Kernel, *args) -> None:
        source = text(k)
        if request.param == "plain":
            source = f"njit = lambda **options: lambda f: f\n{source.replace('njit, ', '')}"
        names: dict = {}
        exec(compile(source, "<kernel>", "exec"), names)
        names[k.name](*args, 0, 1, 0)

    return call


def test_while_with_a_slot(run):
    """x squared until it is 10 or more; the number of squarings."""
    x, n = buffer("b0", "f64[]"), buffer("b1", "i64[]")
    a, count, t0, t1, t2, t3 = var("a0", F8), var("a1"), *(var(f"t{k}", F8) for k in range(4))
    goes_on = var("t4", BOOL)
    k = kernel(
        (x, n),
        Load(t0, x, ()),
        Declare(a, t0),
        Declare(count, ZERO),
        While(
            (Let(t1, "read", (a,)), Let(goes_on, "lt", (t1, Num(10.0, F8)))),
            goes_on,
            (Let(t2, "read", (a,)), Let(t3, "mul", (t2, t2)), Assign(a, t3), Update(count, "add", number(1))),
        ),
        Let(var("t5", F8), "read", (a,)),
        Store(x, (), var("t5", F8)),
        Let(var("t6"), "read", (count,)),
        Store(n, (), var("t6")),
    )
    values, numbers = np.array([1.5]), np.array([0])
    run(k, values, numbers)
    assert values[0] == 25.62890625 and numbers[0] == 3
    assert "while a0 < float64(10.0):" in text(k)
    shown = show(k)
    assert "while t4:" in shown and "a0 := t3" in shown


def test_a_condition_that_takes_statements(run):
    """A loop inside the condition: double until the sum of x is 100 or more."""
    x = buffer("b0", "f64[3]")
    a, i, t0, t1, t2 = var("a0", F8), var("i0"), var("t0", F8), var("t1", F8), var("t2", BOOL)
    summed = For(i, ZERO, number(3), (Load(t0, x, (i,)), Update(a, "add", t0)))
    j, t3, t4 = var("i1"), var("t3", F8), var("t4", F8)
    doubled = For(j, ZERO, number(3), (Load(t3, x, (j,)), Let(t4, "add", (t3, t3)), Store(x, (j,), t4)))
    before = (Declare(a, Num(0.0, F8)), summed, Let(t1, "read", (a,)), Let(t2, "lt", (t1, Num(100.0, F8))))
    k = kernel((x,), While(before, t2, (doubled, Poll(buffer("b1", "bool[2]")))))
    values = np.array([1.0, 2.0, 3.0])
    run(k, values)
    assert np.array_equal(values, [32.0, 64.0, 96.0]) or np.array_equal(values, [1.0, 2.0, 3.0] * np.array(32.0))


def test_slots_exchange_their_values(run):
    """Fibonacci: a read keeps the value from before the slot is assigned."""
    out = buffer("b0", "i64[]")
    a, b, x, y, z = var("a0"), var("a1"), var("t0"), var("t1"), var("t2")
    body = (Let(x, "read", (a,)), Let(y, "read", (b,)), Let(z, "add", (x, y)), Assign(a, y), Assign(b, z))
    k = kernel(
        (out,),
        Declare(a, ZERO),
        Declare(b, number(1)),
        For(dimension("k_0"), ZERO, number(10), body),
        Let(var("t3"), "read", (a,)),
        Store(out, (), var("t3")),
    )
    found = np.zeros(1, np.int64)
    run(k, found)
    assert found[0] == 55


def test_reads_stand_before_what_overwrites(run):
    out = buffer("b0", "i64[2]")
    a, b, x, y = var("a0"), var("a1"), var("t0"), var("t1")
    k = kernel(
        (out,),
        Declare(a, number(1)),
        Declare(b, number(2)),
        Let(x, "read", (a,)),
        Let(y, "read", (b,)),
        Assign(a, y),
        Assign(b, x),
        Let(var("t2"), "read", (a,)),
        Let(var("t3"), "read", (b,)),
        Store(out, (ZERO,), var("t2")),
        Store(out, (number(1),), var("t3")),
    )
    found = np.zeros(2, np.int64)
    run(k, found)
    assert found.tolist() == [2, 1]


@pytest.mark.parametrize("condition", [False, True])
def test_branches(run, condition):
    c, out = buffer("b0", "bool[]"), buffer("b1", "i64[4]")
    t = var("t0", BOOL)
    k = kernel(
        (c, out),
        Load(t, c, ()),
        If(t, (Store(out, (ZERO,), number(1)),), (Store(out, (number(1),), number(1)),)),
        If(t, (), (Store(out, (number(2),), number(1)),)),
        If(t, (Store(out, (number(3),), number(1)),)),
        If(t, ()),
    )
    found = np.zeros(4, np.int64)
    run(k, np.array([condition]), found)
    assert found.tolist() == ([1, 0, 0, 1] if condition else [0, 1, 1, 0])
    assert show(k).count("if t0:") == 4 and show(k).count("else:") == 2


def test_memory_changes_places(run):
    """Views of bytes and of an array that take turns; their shape depends on the index."""
    x, scratch, out = buffer("b0", "f64[4]"), buffer("b1", "u8[512]"), buffer("b2", "f64[]")
    first, second = buffer("m0", "f64[4]"), buffer("m1", "f64[4]")
    i, t, u = var("i0"), var("t0", F8), var("t1", F8)
    step = For(i, ZERO, number(4), (Load(t, first, (i,)), Let(u, "add", (t, Num(1.0, F8))), Store(second, (i,), u)))
    part = Buffer("m2", Type(F8, (Poly.symbol("k_7") + 1,)))
    last = var("t2", F8)
    k = kernel(
        (x, scratch, out),
        View(first, x),
        View(second, scratch),
        For(
            dimension("k_7"),
            ZERO,
            number(3),
            (
                step,
                Move((first, second), (second, first)),
                View(part, first),
                Load(last, part, (dimension("k_7"),)),
                Store(out, (), last),
            ),
        ),
    )
    values, found = np.arange(4.0), np.zeros(1)
    run(k, values, np.zeros(512, np.uint8), found)
    assert values.tolist() == [2.0, 3.0, 4.0, 5.0]  # after two steps; the third went to the other memory
    assert found[0] == 5.0  # element 2 after three steps
    assert "m0, m1 = m1, m0" in show(k) and "m0, m1 = m1, m0" in text(k)
    assert "m2 = view m0 : f64[k_7+1]" in show(k)


def test_memory_of_a_size_known_at_run_time(run):
    """A size read from memory is a dimension symbol; what is allocated for it is given back."""
    n, out, status = buffer("b0", "i64[]"), buffer("b1", "f64[]"), buffer("b2", "bool[2]")
    size, i, t, x = dimension("n_1"), var("i0"), var("t0"), var("t1", F8)
    memory = buffer("u0", "u8[1]")
    rows = Buffer("m0", Type(F8, (Poly.symbol("n_1"), 2)))
    k = kernel(
        (n, out, status),
        Load(size, n, ()),
        Let(var("t3"), "mul", (size, number(16))),
        Allocate(memory, var("t3"), status),
        View(rows, memory),
        For(i, ZERO, size, (Let(x, "cast", (i,)), Store(rows, (i, number(1)), x))),
        Let(t, "sub", (size, number(1))),
        Load(var("t2", F8), rows, (t, number(1))),
        Store(out, (), var("t2", F8)),
        Free(memory),
    )
    found = np.zeros(1)
    run(k, np.array([100_000]), found, np.zeros(2, bool))
    assert found[0] == 99_999.0
    assert "free u0" in show(k)


def test_too_much_memory(run):
    memory, status, at = buffer("u0", "u8[1]"), buffer("b0", "bool[2]"), buffer("b1", "i64[]")
    i, t = var("t0"), var("t1", BYTE)  # an index that the compiler cannot see, lest it does without the memory
    body = Store(memory, (ZERO,), Num(1, BYTE)), Load(i, at, ()), Load(t, memory, (i,)), Store(memory, (i,), t)
    k = kernel(
        (status, at),
        Allocate(memory, number(2**62), status),
        *body,
        Let(t2 := var("t2"), "cast", (t,)),
        Store(at, (), t2),
    )
    with pytest.raises(MemoryError):
        run(k, np.zeros(2, bool), np.zeros(1, np.int64))


def test_kernels_within_kernels(run):
    inner_x, i, t, u = buffer("b0", "f64[n]"), var("i0"), var("t0", F8), var("t1", F8)
    body = For(i, LO, HI, (Load(t, inner_x, (i,)), Let(u, "mul", (t, t)), Store(inner_x, (i,), u)))
    n = Poly.symbol("n")
    inner = Kernel("k1", (inner_x,), ("n",), (body,), n, n)
    x = buffer("b0", "f64[5]")
    launch = Launch(inner, (x,), (number(5),), number(5), number(1))
    k = kernel((x,), For(var("i9"), ZERO, number(2), (launch,)))
    values = np.arange(5.0)
    run(k, values)
    assert values.tolist() == [0.0, 1.0, 16.0, 81.0, 256.0]
    assert "launch k1(b0, 5) rows 5 in 1 pieces" in show(k)


def test_what_comes_first_is_before_all_others():
    """Flags that kernels look at are cleared before the first kernel is launched, whenever somebody asks for them."""
    code = Code()
    slot = code.declare(INT, ZERO)
    code.first(Assign(slot, Num(1, INT)))
    assert [type(s).__name__ for s in code.body()] == ["Assign", "Declare"]
