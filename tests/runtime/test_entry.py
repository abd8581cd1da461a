"""The entry: what it takes and refuses, what it returns, references, scratch memory, states, threads, signals."""

from __future__ import annotations

import gc
import os
import sys
import tracemalloc
import weakref

import numpy as np
import pytest

import tapefuse as tp
from tapefuse._errors import CompileError
from tapefuse.ir.types import Poly
from tapefuse.runtime import entry
from tapefuse.runtime.abi import Layout, check_abi, slot_offset
from tapefuse.runtime.entry import build_table
from tapefuse.runtime.llvm_engine import Loaded, load
from tests.runtime.programs import (
    LAYOUT,
    Tensor,
    Variable,
    add,
    body,
    copies,
    increment,
    loop,
    program,
    refuse,
    run_together,
    scratch,
    tensor,
)

B = Poly.symbol("B")
F4 = np.float32


def loaded(p, *states, layout: Layout = LAYOUT, handler=refuse) -> Loaded:
    return load(p, layout, states, handler)


def value(t: Tensor) -> list:
    assert type(t) is Tensor
    assert t._array.flags.c_contiguous and t._array.flags.owndata and t._array.flags.writeable
    return t._array.tolist()


@pytest.fixture(scope="module")
def plus() -> Loaded:
    return loaded(add())


def x(n: int = 3) -> np.ndarray:
    return np.arange(n, dtype=F4)


unaligned = np.frombuffer(bytes(17), np.uint8)[1:13].view(F4)
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
    "reversed": (x(), x()[::-1]),
    "unaligned": (x(), unaligned),
    "list": (x(), [0.0, 1.0, 2.0]),
    "number": (x(), 1.0),
    "None": (None, x()),
    "NumPy scalar": (x(), F4(1)),
    "objects": (x(), np.array([None] * 3)),
    "array subclass": (x(), x().view(np.recarray)),
    "empty tensor": (x(), Tensor()),
    "tensor subclass": (x(), type("Traced", (Tensor,), {})()),
}


class TestArguments:
    def test_arrays_and_tensors(self, plus: Loaded):
        assert value(plus.call(x(), x())) == [0, 2, 4]
        assert value(plus.call(tensor(x()), x())) == [0, 2, 4]
        assert value(plus.call(plus.call(x(), x()), tensor(x()))) == [0, 3, 6]

    @pytest.mark.parametrize("n", [0, 1, 7, 1000])
    def test_a_symbol_binds_to_any_size(self, plus: Loaded, n: int):
        assert value(plus.call(x(n), x(n))) == (2 * x(n)).tolist()

    def test_read_only_inputs_are_fine(self, plus: Loaded):
        a = x()
        a.flags.writeable = False
        assert value(plus.call(a, a)) == [0, 2, 4]

    @pytest.mark.parametrize("args", WRONG.values(), ids=list(WRONG))
    def test_what_does_not_fit_is_refused(self, plus: Loaded, args):
        assert plus.call(*args) is NotImplemented

    def test_a_tensor_holding_no_array_is_refused(self, plus: Loaded):
        t = Tensor()
        t._array = "text"
        assert plus.call(x(), t) is NotImplemented

    def test_static_sizes(self):
        call = loaded(copies(1, 1, size=4)).call
        assert value(call(x(4))) == [0, 1, 2, 3]
        assert call(x(5)) is NotImplemented

    def test_keywords_are_an_error(self, plus: Loaded):
        with pytest.raises(TypeError):
            plus.call(x(), y=x())

    def test_polynomial_sizes(self):
        p = program(body("  ret i64 0\n", "x", "y"), ("f32[B,2*B+1]", "f32[C]"), ("f32[B*C-3,2]",), symbols="BC")
        call = loaded(p).call
        assert call(np.zeros((2, 5), F4), x(7))._array.shape == (11, 2)
        assert call(np.zeros((2, 4), F4), x(7)) is NotImplemented
        assert call(np.zeros((1, 3), F4), x(2)) is NotImplemented  # an output of negative size

    def test_polynomials_before_their_symbol(self):
        p = program(body("  ret i64 0\n", "x", "y"), ("f32[2*B]", "f32[B]"), ("f32[B]",), symbols="B")
        call = loaded(p).call
        assert call(x(6), x(3))._array.shape == (3,)
        assert call(x(5), x(3)) is NotImplemented

    def test_a_symbol_that_nothing_binds(self):
        p = program(body("  ret i64 0\n"), ("f32[2*B]",), (), symbols="B")
        with pytest.raises(CompileError, match=r"'B'.*TensorSpec"):
            loaded(p)

    def test_constants(self):
        inside = "  %a = load double, ptr {c}\n  store double %a, ptr {y}"
        c = np.arange(12.0).reshape(3, 4)[:, ::2]
        p = program(body(loop("6", inside, "double"), "c", "y"), (), ("f64[6]",), (), (c,))
        assert value(loaded(p).call()) == [0, 2, 4, 6, 8, 10]

    @pytest.mark.parametrize("dtype", ["f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?"])
    def test_every_dtype(self, dtype: str):
        name = {"?": "bool"}.get(dtype, f"{dtype[0]}{8 * int(dtype[-1:] if dtype != '?' else 1)}")
        call = loaded(program(body("  ret i64 0\n"), (f"{name}[2]",), (f"{name}[2]",))).call
        assert call(np.zeros(2, dtype))._array.dtype is np.dtype(dtype)


class TestResults:
    def test_several_and_none(self):
        many = loaded(copies(3, 3)).call(x(4), x(4) + 1, x(4) + 2)
        assert type(many) is tuple and [value(t)[0] for t in many] == [0, 1, 2]
        assert loaded(copies(1, 0)).call(x(4)) == ()

    def test_one_in_a_tuple_on_demand(self):
        layout = Layout.of(Tensor, Variable, tupled=True)
        (only,) = loaded(copies(1, 1), layout=layout).call(x(4))
        assert value(only) == [0, 1, 2, 3]

    def test_rank_zero(self):
        t = loaded(program(body("  store double 4.5, ptr %y\n  ret i64 0\n", "y"), (), ("f64[]",))).call()
        assert t._array.shape == () and t._array[()] == 4.5

    def test_an_output_too_large(self):
        call = loaded(program(body("  ret i64 0\n"), ("u8[B]",), ("f64[B*B*B*B*B]", "f64[B]"), symbols="B")).call
        with pytest.raises((ValueError, MemoryError)):
            call(np.zeros(1 << 14, np.uint8))

    def test_a_failed_check_calls_the_handler(self):
        w = Variable(np.ones(4))
        call = loaded(increment(), w).call
        with pytest.raises(IndexError, match="check 1"):
            call(np.array([-1.0, 0, 0, 0]))
        assert w._array.tolist() == [1, 1, 1, 1]
        assert value(call(np.ones(4))) == [1, 1, 1, 1]

    def test_tensors_are_collected_and_weakly_referenced(self, plus: Loaded):
        t = plus.call(x(), x())
        assert gc.is_tracked(t)
        gone = weakref.ref(t)
        del t
        assert gone() is None


def holders(variable: Variable) -> int:
    """References to the variable's array, the variable's own included."""
    return sys.getrefcount(variable._array) - 1


class TestReferences:
    """No path gains or loses a reference, or a byte."""

    def counts(self, *objects):
        watched = (NotImplemented, np.dtype(F4), np.dtype(np.float64), np.ndarray, Tensor, None, *objects)
        return [sys.getrefcount(o) for o in watched]

    def same(self, work, *objects, n: int = 500, growth: int = 10):
        work()
        gc.collect()
        tracemalloc.start()
        before, bytes_before = self.counts(*objects), tracemalloc.get_traced_memory()[0]
        for _ in range(n):
            work()
        gc.collect()
        after, bytes_after = self.counts(*objects), tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        assert all(abs(a - b) < n // 10 for a, b in zip(before, after, strict=True)), (before, after)
        assert bytes_after - bytes_before < growth * n

    def test_results(self, plus: Loaded):
        a, t = x(), tensor(x())
        self.same(lambda: plus.call(a, t), a, t, t._array, plus.call)

    def test_tuples(self):
        call, a = loaded(copies(2, 2)).call, x(4)
        self.same(lambda: call(a, a), a, call)

    def test_refusals(self, plus: Loaded):
        a, b = x(), x(4)
        self.same(lambda: (plus.call(a, b), plus.call(a), plus.call(a, None)), a, b)

    def test_failures(self):
        w, a = Variable(np.ones(4)), np.array([-1.0, 0, 0, 0])

        def fail():
            with pytest.raises(IndexError):
                call(a)

        for work in (100, 1_000_000):
            call = loaded(increment(work), w).call
            self.same(fail, a, w, refuse)
            assert holders(w) == 1

    def test_outputs_without_memory(self):
        call = loaded(program(body("  ret i64 0\n"), ("u8[B]",), ("f64[B]", "f64[B*B*B*B*B]"), symbols="B")).call
        a = np.zeros(1 << 14, np.uint8)

        def fail():
            with pytest.raises((ValueError, MemoryError)):
                call(a)

        self.same(fail, a, n=100)

    def test_states(self):
        for nanoseconds in (100, 1_000_000):
            w, r, a = Variable(np.ones(4)), Variable(np.ones(4)), np.ones(4)
            p = program(body("  ret i64 0\n"), ("f64[4]",), (), (("f64[4]", True), ("f64[4]", False)), work=nanoseconds)
            call = loaded(p, w, r).call

            def work(call=call, a=a):
                assert call(a) == ()

            self.same(work, w, r, a)
            assert holders(w) == holders(r) == 1

    def test_loading_and_unloading(self):
        w, a = Variable(np.ones(4)), np.ones(4)
        self.same(
            lambda: loaded(increment(), w).call(a), w, refuse, n=4000, growth=30
        )  # CPython's free lists keep 100 kB


class TestScratch:
    @pytest.mark.parametrize("size", [1, 64, 4096, 4097, 1 << 20])
    def test_aligned_and_large_enough(self, size: int):
        call = loaded(scratch(size)).call
        for _ in range(3):
            assert value(call(np.array([size]))) == [0, 7]

    def test_grows_is_kept_and_is_freed(self):
        held = loaded(scratch(B * 8, ("B",)))
        call = held.call
        tracemalloc.start()
        sizes = []
        for n in (0, 10, 100_000, 1_000_000, 20, 1_000_000):
            assert value(call(np.array([max(8 * n, 1)]), np.zeros(n, np.uint8))) == [0, 7]
            sizes.append(tracemalloc.get_traced_memory()[0] // 800_000)
        del held, call
        gc.collect()
        sizes.append(tracemalloc.get_traced_memory()[0] // 800_000)
        tracemalloc.stop()
        assert sizes == [0, 0, 1, 10, 10, 10, 0]

    def test_none_to_be_had(self):
        call = loaded(scratch(B * B * B * B, ("B",))).call
        for n in (1 << 13, 1 << 14, 1 << 15):  # the last ones' sizes exceed 63 bits
            with pytest.raises(MemoryError):
                call(np.array([1]), np.zeros(n, np.uint8))
        assert value(call(np.array([1]), np.zeros(1, np.uint8))) == [0, 7]

    def test_many_threads(self):
        call = loaded(scratch(1 << 16)).call
        wrong = []

        def work():
            for _ in range(200):
                if value(call(np.array([1 << 16]))) != [0, 7]:
                    wrong.append(1)

        run_together(work, 8)
        assert not wrong


class TestLayout:
    def test_offsets(self):
        assert slot_offset(Tensor, "_array") == LAYOUT.tensor_offset != slot_offset(Tensor, "_key")
        assert slot_offset(type("Derived", (Variable,), {}), "_array") == LAYOUT.variable_offset

    def test_no_such_slot(self):
        with pytest.raises(CompileError, match="no slot 'array'"):
            slot_offset(Tensor, "array")
        with pytest.raises(CompileError, match="no slot '_array'"):
            slot_offset(type("Plain", (), {"_array": None}), "_array")

    def test_numpy_has_the_layout_that_is_assumed(self):
        check_abi()

    def test_copies_of_a_table_do_not_free_its_scratch_memory(self):
        table = build_table(copies(1, 1), LAYOUT, (), refuse, {"program": 0})
        with pytest.raises(ValueError, match="read-only"):
            table[0] = 1
        copied = table.copy()
        copied[:] = 1
        del copied


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_calls_programs(plus: Loaded):
    child = os.fork()
    if not child:
        os._exit(0 if value(plus.call(x(), x())) == [0, 2, 4] else 1)
    assert os.waitpid(child, 0)[1] == 0


class TestOutputsUsedAgain:
    """Small outputs are used again once nobody holds them, and never before."""

    @pytest.fixture
    def double(self):
        f = tp.tape_function(lambda x: (x * 2.0, x + 1.0))
        for _ in range(3):
            f(np.zeros(4))
        return f

    def test_results_that_are_held_stay_as_they_are(self, double):
        kept = [double(np.full(4, float(k))) for k in range(10)]
        for k, (y, z) in enumerate(kept):
            assert y.numpy().tolist() == [2.0 * k] * 4
            assert z.numpy().tolist() == [k + 1.0] * 4

    @pytest.mark.parametrize("hold", [np.asarray, lambda y: np.asarray(y)[1:], lambda y: memoryview(np.asarray(y))])
    def test_arrays_and_views_of_a_result_hold_it(self, double, hold):
        held = hold(double(np.ones(4))[0])
        before = np.array(held)
        for _ in range(5):
            double(np.full(4, 7.0))
        assert np.array_equal(held, before)

    def test_a_weak_reference_sees_its_own_array_only(self, double):
        seen = weakref.ref(double(np.ones(4))[0].numpy())
        for _ in range(5):
            double(np.full(4, 7.0))
        assert seen() is None

    def test_an_array_that_was_changed_is_not_used_again(self, double):
        def spoil(change):
            for _ in range(2):
                change(np.asarray(double(np.ones(4))[0]))
            for _ in range(3):
                y = double(np.ones(4))[0].numpy()
                assert y.shape == (4,) and y.flags.writeable and y.tolist() == [2.0] * 4

        spoil(lambda a: a.setflags(write=False))
        spoil(lambda a: a.resize((2, 2), refcheck=False))

    def test_they_are_given_back_with_the_program(self):
        f = tp.tape_function(lambda x: x * 2.0)
        array = f(np.ones(4))._array
        count = sys.getrefcount(array)
        del f
        gc.collect()
        assert sys.getrefcount(array) == count - 1


def test_a_program_that_outlives_the_names_of_its_module(monkeypatch):
    """When Python ends, a module's names may be gone before the programs that others keep."""
    run = loaded(add())
    complaints = []
    monkeypatch.setattr(sys, "unraisablehook", complaints.append)
    for name in ("ARENA_SLOT", "N_OUTPUTS", "RECYCLED"):
        monkeypatch.setattr(entry, name, None)
    del run
    gc.collect()
    assert not complaints
