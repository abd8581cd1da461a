"""Variables that programs read and write: in place, shared, in use by another thread, in long calls, interrupted."""

from __future__ import annotations

import signal
import sys
import threading
import time

import numpy as np
import pytest

from tapefuse._errors import CompileError
from tapefuse.runtime.llvm_engine import Loaded, load
from tests.runtime.programs import (
    LAYOUT,
    Tensor,
    Variable,
    body,
    increment,
    loop,
    program,
    refuse,
    run_together,
    unshare,
)


def loaded(p, *states) -> Loaded:
    return load(p, LAYOUT, states, refuse)


def value(t: Tensor) -> list:
    assert type(t) is Tensor
    return t._array.tolist()


def holders(variable: Variable) -> int:
    """References to the variable's array, the variable's own included."""
    return sys.getrefcount(variable._array) - 1


class Patient(Variable):
    """A variable that waits while its array is in use, as the tracer's does."""

    __slots__ = ()

    def __getattr__(self, name: str):
        if name != "_array":
            raise AttributeError(name)
        while True:
            try:
                return Variable._array.__get__(self)
            except AttributeError:
                time.sleep(1e-4)


class TestStates:
    @pytest.mark.parametrize("work", [100, 1_000_000])
    def test_updated_in_place(self, work: int):
        w = Variable(np.zeros(4))
        place = w._array.ctypes.data
        call = loaded(increment(work), w).call
        assert value(call(np.ones(4))) == [0] * 4
        assert value(call(np.ones(4))) == [1] * 4
        assert w._array.tolist() == [2] * 4 and w._array.ctypes.data == place

    def test_shared_views_and_read_only_arrays_are_refused_and_whole(self):
        w = Variable(np.zeros(4))
        call = loaded(increment(), w).call
        reader = w._array
        assert call(np.ones(4)) is NotImplemented and reader.tolist() == [0] * 4
        unshare([w])
        assert value(call(np.ones(4))) == [0] * 4
        assert reader.tolist() == [0] * 4 and w._array.tolist() == [1] * 4
        w._array = np.zeros(8)[:4]
        assert call(np.ones(4)) is NotImplemented
        w._array = np.zeros(4)
        w._array.flags.writeable = False
        assert call(np.ones(4)) is NotImplemented
        unshare([w])
        assert value(call(np.ones(4))) == [0] * 4

    def test_a_state_that_is_also_an_argument_is_shared(self):
        w = Variable(np.zeros(4))
        call = loaded(increment(), w).call
        assert call(w._array) is NotImplemented
        t = Tensor()
        t._array = w._array
        assert call(t) is NotImplemented

    def test_wrong_or_missing_arrays_are_refused(self):
        w = Variable(np.zeros(4))
        call = loaded(increment(), w).call
        for bad in (np.zeros(5), np.zeros(4, np.float32), "text", np.zeros((4, 1)), np.zeros(8)[::2]):
            w._array = bad
            assert call(np.ones(4)) is NotImplemented
        del w._array
        assert call(np.ones(4)) is NotImplemented

    def test_read_states_may_be_shared(self):
        inside = "  %a = load double, ptr {w}\n  store double %a, ptr {y}"
        for work in (100, 1_000_000):
            w = Variable(np.arange(4.0))
            p = program(body(loop("4", inside, "double"), "w", "y"), (), ("f64[4]",), (("f64[4]", False),), work=work)
            reader = w._array
            assert value(loaded(p, w).call()) == reader.tolist()

    def test_the_number_of_variables_is_checked(self):
        with pytest.raises(CompileError, match="1 states, got 0"):
            loaded(increment())


class TestLongCalls:
    def start(self, variable: Variable, spin: int = 4_000_000):
        call = loaded(increment(10**9, spin), variable).call
        thread = threading.Thread(target=call, args=(np.ones(4),))
        thread.start()
        return call, thread

    def test_others_run_and_see_whole_values_only(self):
        w = Patient(np.zeros(4))
        call, thread = self.start(w)
        while hasattr_now(w) and thread.is_alive():
            pass
        refused, one = 0, np.ones(4)
        while call(one) is NotImplemented:
            refused += 1
        thread.join()
        assert refused > 100
        np.testing.assert_allclose(w._array, 2.0)

    def test_reading_waits(self):
        w = Patient(np.zeros(4))
        _, thread = self.start(w)
        while hasattr_now(w) and thread.is_alive():
            pass
        np.testing.assert_allclose(w._array, 1.0)
        thread.join()

    def test_no_update_is_lost(self):
        w = Patient(np.zeros(4))
        call = loaded(increment(10**9, 1000), w).call

        def work():
            for _ in range(30):
                while call(np.ones(4)) is NotImplemented:
                    unshare([w])

        run_together(work, 6)
        np.testing.assert_allclose(w._array, 180.0)

    def test_an_array_assigned_meanwhile_stays(self):
        w = Patient(np.zeros(4))
        _, thread = self.start(w)
        while hasattr_now(w) and thread.is_alive():
            pass
        w._array = np.full(4, 9.0)
        thread.join()
        assert w._array.tolist() == [9] * 4

    def test_read_states_are_held(self):
        w = Variable(np.full(4, 5.0))
        inside = """  %q = urem i64 %i, 4
  %w.q = getelementptr double, ptr %w, i64 %q
  %y.q = getelementptr double, ptr %y, i64 %q
  %a = load volatile double, ptr %w.q
  store volatile double %a, ptr %y.q"""
        p = program(body(loop("60000000", inside), "w", "y"), (), ("f64[4]",), (("f64[4]", False),), work=10**9)
        call, results = loaded(p, w).call, []
        thread = threading.Thread(target=lambda: results.append(call()))
        thread.start()
        while holders(w) == 1 and thread.is_alive():
            pass
        w._array = np.zeros(4)
        thread.join()
        assert value(results[0]) == [5] * 4

    @pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs a timer")
    def test_an_interrupt_leaves_variables_whole(self):
        w = Variable(np.zeros(4))
        call = loaded(increment(10**9, 10_000_000), w).call
        before = signal.signal(signal.SIGALRM, signal.default_int_handler)
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.02)
            with pytest.raises(KeyboardInterrupt):
                call(np.ones(4))
                time.sleep(1)
        finally:
            signal.signal(signal.SIGALRM, before)
        np.testing.assert_allclose(w._array, 1.0, rtol=1e-6)


def hasattr_now(variable: Variable) -> bool:
    try:
        return Variable._array.__get__(variable) is not None
    except AttributeError:
        return False
