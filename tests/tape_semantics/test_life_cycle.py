"""Section 1: the life cycle of a tape."""

import gc
import math
import threading
import warnings
import weakref

import numpy as np
import pytest

import tapefuse as tp
from tests.tape_semantics.helpers import C, close, plain


def test_001_constructor():
    tp.GradientTape()
    tp.GradientTape(True, False)
    tp.GradientTape(persistent=False, watch_accessed_variables=True)
    with pytest.raises(TypeError):
        tp.GradientTape(False, True, 1)


@pytest.mark.parametrize("second", ["gradient", "jacobian", "batch_jacobian"])
def test_002_second_gradient(second):
    x = tp.Variable([[3.0]])
    with tp.GradientTape() as tape:
        y = x * x
    tape.gradient(y, x)
    with pytest.raises(RuntimeError, match="one set of gradients"):
        getattr(tape, second)(y, x)


def test_003_gradient_of_a_tape_never_entered():
    """A wart: the message says what is the matter."""
    with pytest.raises(RuntimeError, match="never recorded anything"):
        tp.GradientTape().gradient(C(1.0), C(1.0))


def test_004_persistent(run):
    def f(x):
        with tp.GradientTape(persistent=True) as tape:
            tape.watch(x)
            y = x * x
            z = y * y
        return tape.gradient(z, x), tape.gradient(y, x), tape.gradient(z, x)

    assert run(f, C(3.0)) == [108.0, 6.0, 108.0]


def test_005_entering_twice():
    with tp.GradientTape() as tape, pytest.raises(ValueError, match="still recording"), tape:
        pass


def test_006_entering_again_continues(run):
    def f(x):
        tape = tp.GradientTape()
        with tape:
            tape.watch(x)
            y = x * 2
        with tape:
            z = y * 2
        return tape.gradient(z, x)

    assert run(f, C(3.0)) == 4.0


def test_007_entering_after_gradient_starts_afresh():
    x = tp.Variable(3.0)
    with tp.GradientTape() as tape:
        y = x * 2
    tape.gradient(y, x)
    with tape:
        z = x * 2
    assert plain(tape.gradient(z, x)) == 2.0


def test_008_gradient_inside_the_block():
    x = tp.Variable(3.0)
    with tp.GradientTape() as tape:
        y = x * x
        assert plain(tape.gradient(y, x)) == 6.0
        z = x * x
        with pytest.raises(RuntimeError):
            tape.gradient(z, x)
    with tp.GradientTape() as after:
        assert plain(after.gradient(x * x, x)) == 6.0


def test_009_gradient_inside_a_persistent_block():
    x = tp.Variable(3.0)
    with tp.GradientTape(persistent=True) as tape, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        d1 = tape.gradient(x**3, x)
        d2 = tape.gradient(d1, x)
        d3 = tape.gradient(d2, x)
    close(plain([d1, d2, d3]), [27.0, 18.0, 6.0])
    assert [w.category for w in caught] == [tp.PerformanceWarning]
    assert caught[0].filename == __file__


def test_010_reset():
    x, y = tp.Variable(3.0), tp.Variable(2.0)
    with tp.GradientTape() as tape:
        z = y * y
        tape.reset()
        z = z + x * x
    assert plain(tape.gradient(z, [x, y])) == [6.0, None]
    v = tp.Variable(1.0)
    with tp.GradientTape() as tape:
        y = v * v
        tape.reset()
        y = v * v
    assert plain(tape.gradient(y, v)) == 2.0


def test_011_stop_recording(run):
    def f(x, y):
        with tp.GradientTape() as tape:
            tape.watch([x, y])
            a = x * x
            with tape.stop_recording():
                b = y * y
            z = a + b
        return tape.gradient(z, [x, y])

    assert run(f, C(2.0), C(3.0)) == [4.0, None]


def test_012_stopping_a_tape_that_is_not_recording():
    with pytest.raises(RuntimeError, match="not recording"), tp.GradientTape().stop_recording():
        pass


def test_013_stop_recording_affects_one_tape():
    x = tp.Variable(2.0)
    with tp.GradientTape() as outer, tp.GradientTape() as inner, inner.stop_recording():
        y = x * x
    assert plain(outer.gradient(y, x)) == 4.0
    assert inner.gradient(y, x) is None


def test_014_exception_in_the_block():
    x = tp.Variable(2.0)
    with pytest.raises(KeyError), tp.GradientTape() as tape:
        y = x * x
        raise KeyError
    z = y * y
    assert plain(tape.gradient(y, x)) == 4.0
    with tp.GradientTape() as tape:
        z = x * x
    assert plain(tape.gradient(z, x)) == 4.0


def test_015_what_a_tape_keeps():
    def hidden_kept(persistent, function):
        with tp.GradientTape(persistent=persistent) as tape:
            x = C(np.ones(5, np.float32))
            tape.watch(x)
            hidden = x + 1.0
            y = function(hidden)
        alive = weakref.ref(hidden._array)
        del hidden
        return alive() is not None, tape, y, x

    assert not hidden_kept(False, tp.relu)[0]  # its rule reads the result only
    assert hidden_kept(False, tp.sin)[0]
    kept, tape, y, x = hidden_kept(True, tp.sin)
    assert kept
    tape.gradient(y, x)
    kept = weakref.ref(y._array)
    del y, x
    assert kept() is not None
    del tape
    gc.collect()
    assert kept() is None


def test_016_two_tapes():
    x = tp.Variable(3.0)
    with tp.GradientTape() as a, tp.GradientTape() as b:
        y = x * x
    assert plain([a.gradient(y, x), b.gradient(y, x)]) == [6.0, 6.0]


def test_017_operations_after_the_block():
    x = tp.Variable(3.0)
    with tp.GradientTape() as tape:
        y = x * x
    z = y * y
    assert tape.gradient(z, x) is None


def test_018_recording_is_per_thread():
    x, out = tp.Variable(3.0), []
    with tp.GradientTape() as tape:
        worker = threading.Thread(target=lambda: out.append(x * x))
        worker.start()
        worker.join()
    assert tape.gradient(out[0], x) is None


def test_019_stopping_is_per_thread():
    x, failures = tp.Variable(3.0), []

    def stop(tape):
        try:
            with tape.stop_recording():
                pass
        except RuntimeError as error:
            failures.append(error)

    with tp.GradientTape() as tape:
        worker = threading.Thread(target=stop, args=(tape,))
        worker.start()
        worker.join()
        y = x * x
    assert len(failures) == 1
    assert plain(tape.gradient(y, x)) == 6.0


def test_020_a_compiled_function_is_one_record():
    f = tp.tape_function(lambda x: tp.sin(x) * tp.exp(x) + x)
    x = C(0.5)
    with tp.GradientTape() as tape:
        tape.watch(x)
        y = f(x)
    assert len(tape._records) == 1
    close(plain(tape.gradient(y, x)), math.exp(0.5) * (math.sin(0.5) + math.cos(0.5)) + 1)
