"""The Numba engine: the entry protocol in Python, both builds of a text, and its function in `@njit` code."""

from __future__ import annotations

import subprocess
import sys
import time
import traceback
from collections.abc import Sequence

import numba
import numpy as np
import pytest

from tapefuse._errors import CompileError
from tapefuse.codegen.pipeline import Request, compiled
from tapefuse.ir import ops
from tapefuse.ir.graph import Graph, param
from tapefuse.ir.program import Check, Program, State
from tapefuse.ir.types import Dim, Poly, Type
from tapefuse.runtime import numba_engine
from tapefuse.runtime.numba_engine import Loaded, load
from tests.codegen.numba_programs import TUPLED, without_jit
from tests.runtime.programs import LAYOUT, Tensor, Variable, refuse, run_together, tensor, unshare

B = Poly.symbol("B")
F4 = np.float32


def program(
    text: str,
    inputs: Sequence[str] = (),
    outputs: Sequence[str] = (),
    states: Sequence[tuple[str, bool]] = (),
    constants: Sequence[np.ndarray] = (),
    *,
    symbols: Sequence[str] = (),
    arena: Dim = 0,
) -> Program:
    """A program whose text is the body of `program(...)`; its parameters are x0.., s0.., c0.., y0.., arena, n0.."""
    lists = {"x": inputs, "s": states, "c": constants, "y": outputs}
    names = [f"{letter}{k}" for letter, items in lists.items() for k in range(len(items))]
    head = f"def program({', '.join([*names, 'arena', *(f'n{k}' for k in range(len(symbols)))])}):"
    lines = ["from numba import njit, prange", '@njit(nogil=True, error_model="numpy")', head, *text.splitlines()]
    source = "\n    ".join(lines[2:])
    return Program(
        name="handmade",
        symbols=tuple(symbols),
        inputs=tuple(map(Type.parse, inputs)),
        states=tuple(State(Type.parse(t), written) for t, written in states),
        constants=tuple(constants),
        outputs=tuple(map(Type.parse, outputs)),
        arena=arena,
        work=100,
        checks=(Check("handmade check"),),
        externals=frozenset(),
        llvm=lambda: "",
        numba=lambda: "\n".join([*lines[:2], source]) + "\n",
    )


def add() -> Program:
    """f32[B] + f32[B]"""
    text = "for i in range(n0):\n    y0[i] = x0[i] + x1[i]\nreturn 0"
    return program(text, ("f32[B]", "f32[B]"), ("f32[B]",), symbols="B")


def increment(during: str = "pass") -> Program:
    """State s0: f64[4] += x; the output is s0 before. Status 1, with nothing changed, if x[0] is negative."""
    loop = f"for i in range(4):\n    y0[i] = s0[i]\n    s0[i] += x0[i]\n    {during}"
    text = f"if x0[0] < 0.0:\n    return 1\n{loop}\nreturn 0"
    return program(text, ("f64[4]",), ("f64[4]",), (("f64[4]", True),))


@pytest.fixture
def interpreted():
    with without_jit():
        yield


@pytest.fixture
def plus(interpreted) -> Loaded:
    return load(add(), LAYOUT, (), refuse)


def x(n: int = 3) -> np.ndarray:
    return np.arange(n, dtype=F4)


def value(t: Tensor) -> list:
    assert type(t) is Tensor
    assert t._array.flags.c_contiguous and t._array.flags.owndata and t._array.flags.writeable
    return t._array.tolist()


UNALIGNED = np.frombuffer(bytes(17), np.uint8)[1:13].view(F4)
WRONG = {
    "nothing": (),
    "too few": (x(),),
    "too many": (x(), x(), x()),
    "size": (x(3), x(4)),
    "dtype": (x(), x().astype(np.float64)),
    "byte order": (x(), x().astype(">f4")),
    "rank 0": (x(), np.zeros((), F4)),
    "rank 2": (x(), x()[None]),
    "strided": (x(), x(6)[::2]),
    "unaligned": (x(), UNALIGNED),
    "list": (x(), [0.0, 1.0, 2.0]),
    "None": (None, x()),
    "NumPy scalar": (x(), F4(1)),
    "objects": (x(), np.array([None] * 3)),
    "array subclass": (x(), x().view(np.matrix)),
    "empty tensor": (x(), Tensor()),
    "tensor subclass": (x(), type("Traced", (Tensor,), {})()),
}


class TestArguments:
    def test_arrays_and_tensors(self, plus: Loaded):
        assert value(plus.call(x(), x())) == [0, 2, 4]
        assert value(plus.call(tensor(x()), plus.call(x(), x()))) == [0, 3, 6]

    @pytest.mark.parametrize("n", [0, 1, 7, 1000])
    def test_a_symbol_binds_to_any_size(self, plus: Loaded, n: int):
        assert value(plus.call(x(n), x(n))) == (2 * x(n)).tolist()

    @pytest.mark.parametrize("args", WRONG.values(), ids=WRONG)
    def test_what_does_not_fit_is_refused(self, plus: Loaded, args):
        assert plus.call(*args) is NotImplemented

    def test_keywords_are_an_error(self, plus: Loaded):
        with pytest.raises(TypeError):
            plus.call(x(), y=x())

    def test_polynomial_sizes(self, interpreted):
        p = program("return 0", ("f32[2*B]", "f32[B]", "f32[C]"), ("f32[B*C-3,2]",), symbols="BC")
        call = load(p, LAYOUT, (), refuse).call
        assert call(x(4), x(2), x(7))._array.shape == (11, 2)
        assert call(x(5), x(2), x(7)) is NotImplemented
        assert call(x(2), x(1), x(2)) is NotImplemented  # an output of negative size

    def test_a_symbol_that_nothing_binds(self):
        with pytest.raises(CompileError, match="'B'.*TensorSpec"):
            load(program("return 0", ("f32[2*B]",), (), symbols="B"), LAYOUT, (), refuse)

    def test_a_variable_too_few(self):
        with pytest.raises(CompileError, match="1 states, got 0"):
            load(increment(), LAYOUT, (), refuse)


class TestResults:
    def test_several_one_and_none(self, interpreted):
        fill = "y0[()] = 1.5\ny1[0] = True\nreturn 0"
        one, two = load(program(fill, (), ("f64[]", "bool[1]")), LAYOUT, (), refuse).call()
        assert (value(one), value(two)) == (1.5, [True])
        assert load(program("return 0"), LAYOUT, (), refuse).call() == ()
        (only,) = load(program("y0[()] = 1\nreturn 0", (), ("i64[]",)), TUPLED, (), refuse).call()
        assert value(only) == 1

    def test_outputs_and_scratch_memory_that_do_not_exist(self, interpreted):
        for p in (
            program("return 0", ("u8[B]",), ("f64[B*B*B*B*B]",), symbols="B"),
            program("return 0", ("u8[B]",), (), symbols="B", arena=B * B * B * B),
        ):
            with pytest.raises(MemoryError):
                load(p, LAYOUT, (), refuse).call(np.zeros(1 << 14, np.uint8))

    def test_scratch_memory_is_aligned_and_grows(self, interpreted):
        text = "y0[()] = arena.ctypes.data % 64\narena[x0.size - 1] = 7\nreturn 0"
        call = load(program(text, ("u8[B]",), ("i64[]",), symbols="B", arena=B), LAYOUT, (), refuse).call
        assert [value(call(np.zeros(n, np.uint8))) for n in (1, 1000, 100_000, 10)] == [0, 0, 0, 0]

    def test_constants_in_any_layout(self, interpreted):
        c = np.arange(12.0).astype(">f8").reshape(3, 4)[:, ::2]
        call = load(program("y0[:] = c0\nreturn 0", (), ("f64[3,2]",), (), (c,)), LAYOUT, (), refuse).call
        assert value(call()) == c.tolist()


class Patient(Variable):
    """A variable that waits while its array is in use, as the tracer's does."""

    __slots__ = ()

    def __getattr__(self, name: str):
        while True:
            try:
                return Variable._array.__get__(self)
            except AttributeError:
                time.sleep(1e-4)


class TestStates:
    def test_updated_in_place(self, interpreted):
        w = Variable(np.zeros(4))
        place = w._array.ctypes.data
        call = load(increment(), LAYOUT, (w,), refuse).call
        assert value(call(np.ones(4))) == [0] * 4
        assert value(call(np.ones(4))) == [1] * 4
        assert w._array.tolist() == [2] * 4 and w._array.ctypes.data == place

    def test_refused_when_somebody_else_sees_the_array(self, interpreted):
        w = Variable(np.zeros(4))
        call = load(increment(), LAYOUT, (w,), refuse).call
        held = w._array
        assert call(np.ones(4)) is NotImplemented
        del held
        view = w._array[1:]
        assert call(np.ones(4)) is NotImplemented
        del view
        assert call(w._array) is NotImplemented  # an input and a state at once
        t = Tensor()
        t._array = w._array
        assert call(t) is NotImplemented
        assert w._array.tolist() == [0] * 4
        unshare([w])
        assert value(call(t)) == [0] * 4

    def test_refused_when_it_cannot_be_written(self, interpreted):
        w = Variable(np.zeros(4))
        call = load(increment(), LAYOUT, (w,), refuse).call
        w._array.flags.writeable = False
        assert call(np.ones(4)) is NotImplemented
        w._array = np.zeros(8)[4:]
        assert call(np.ones(4)) is NotImplemented
        w._array = np.zeros(5)
        assert call(np.ones(4)) is NotImplemented
        assert w._array.shape == (5,)

    def test_states_that_are_only_read_may_be_shared(self, interpreted):
        w = Variable(np.ones(2))
        held = w._array
        call = load(program("y0[:] = s0\nreturn 0", (), ("f64[2]",), (("f64[2]", False),)), LAYOUT, (w,), refuse).call
        assert value(call()) == held.tolist()

    def test_a_failed_check_changes_nothing(self, interpreted):
        w = Variable(np.ones(4))
        call = load(increment(), LAYOUT, (w,), refuse).call
        with pytest.raises(IndexError, match="check 1"):
            call(np.array([-1.0, 0, 0, 0]))
        assert w._array.tolist() == [1] * 4
        assert value(call(np.ones(4))) == [1] * 4

    def test_an_interrupt_leaves_variables_whole(self, interpreted):
        w = Variable(np.ones(4))
        call = load(increment("if i == 2: raise KeyboardInterrupt"), LAYOUT, (w,), refuse).call
        with pytest.raises(KeyboardInterrupt):
            call(np.ones(4))
        assert w._array.shape == (4,)

    def test_threads_lose_no_update(self):
        w = Patient(np.zeros(4))
        call, one = load(increment(), LAYOUT, (w,), refuse).call, np.ones(4)

        def work():
            for _ in range(50):
                while call(one) is NotImplemented:
                    unshare([w])

        run_together(work, 4)
        assert w._array.tolist() == [200] * 4


class TestCompiled:
    def large(self) -> tuple[Graph, np.ndarray]:
        """Row sums of exp and their total: enough work for two threads."""
        v = param(Type.parse("f64[B,50]"))
        rows = ops.reduce_sum(ops.exp(v), axes=(1,))
        data = np.random.default_rng(0).normal(size=(40_000, 50))
        return Graph((v,), (rows, ops.reduce_sum(rows, axes=(0,)))), data

    def test_results_do_not_depend_on_threads(self):
        graph, data = self.large()
        p = compiled(Request(graph, 1))
        assert p.work.substitute({"B": len(data)}) > numba_engine.WORTH_THREADS
        before = numba.get_num_threads()
        one, two = (load(p, LAYOUT, (), refuse, threads=n) for n in (1, 2))
        results = [[t._array.tobytes() for t in e.call(data)] for e in (one, two)]
        assert results[0] == results[1]
        assert numba.get_num_threads() == before
        assert two.function.signatures and not one.function.signatures  # each used its own build
        np.testing.assert_allclose(two.call(data[:3])[0]._array, np.exp(data[:3]).sum(1))

    def test_called_from_njit_code(self):
        v = param(Type.parse("f64[B]"))
        p = compiled(Request(Graph((v,), (ops.sin(v),)), 1))
        function = load(p, LAYOUT, (), refuse).function

        @numba.njit
        def twice(a):
            y, scratch = np.empty_like(a), np.empty(0, np.uint8)
            status = function(a, y, scratch, len(a))
            return status, y * 2

        status, y = twice(np.arange(4.0))
        assert status == 0
        np.testing.assert_allclose(y, 2 * np.sin(np.arange(4.0)))

    def test_read_only_inputs_need_no_second_compilation(self):
        loaded = load(add(), LAYOUT, (), refuse)
        frozen, empty = x(), x(0)
        frozen.flags.writeable = empty.flags.writeable = False
        assert value(loaded.call(x(), frozen)) == value(loaded.call(x(), x())) == [0, 2, 4]
        assert value(loaded.call(empty, empty)) == []
        assert len(loaded.function.signatures) == 1

    def test_what_numba_rejects_is_a_compile_error(self):
        w = Variable(np.ones(4))
        call = load(increment("s0.nothing()"), LAYOUT, (w,), refuse).call
        with pytest.raises(CompileError, match="handmade"):
            call(np.ones(4))
        assert w._array.tolist() == [1] * 4


def test_tracebacks_show_the_source(interpreted):
    call = load(program("return 1 // len(x0)", ("f32[B]",), symbols="B"), LAYOUT, (), refuse).call
    with pytest.raises(ZeroDivisionError) as caught:
        call(x(0))
    assert "return 1 // len(x0)" in "".join(traceback.format_exception(caught.value))


def test_numba_is_imported_when_needed():
    code = "import sys, tapefuse.runtime.numba_engine; print('numba' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
