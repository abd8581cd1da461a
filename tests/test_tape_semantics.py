"""The observable behaviour of tapes, one test for each numbered line of the reference, named by its number.

`run` calls a function as it is and as a tape_function, since the two must agree. Where tapefuse differs from
TensorFlow on purpose, or a line calls TensorFlow's behaviour a wart, the test's docstring says so.
"""

from __future__ import annotations

import copy
import gc
import logging
import math
import threading
import warnings
import weakref
from typing import NamedTuple

import numpy as np
import pytest

import tapefuse as tp


def plain(tree):
    """Tensors as Python numbers and lists, None as it is, containers kept."""
    if isinstance(tree, dict):
        return {k: plain(v) for k, v in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [plain(v) for v in tree]
    return tree.tolist() if isinstance(tree, (tp.Tensor, tp.Variable)) else tree


@pytest.fixture(params=["eager", "staged"])
def run(request):
    """run(f, *args): the plain result of `f`, called in Python or traced."""
    return lambda f, *args: plain((f if request.param == "eager" else tp.tape_function(f))(*args))


def close(got, want):
    flat = lambda t: [x for v in t for x in flat(v)] if isinstance(t, list) else [t]
    assert len(flat(got)) == len(flat(want)), (got, want)
    np.testing.assert_allclose(flat(got), flat(want), rtol=1e-5, atol=1e-6)


def C(x, **options):
    return tp.constant(x, **options)


# -- 1. life cycle --------------------------------------------------------------------------------------------------


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
        alive = weakref.ref(hidden)
        del hidden
        return alive() is not None, tape, y, x

    assert not hidden_kept(False, tp.relu)[0]  # its rule reads the result only
    assert hidden_kept(False, tp.sin)[0]
    kept, tape, y, x = hidden_kept(True, tp.sin)
    assert kept
    tape.gradient(y, x)
    kept = weakref.ref(y)
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


# -- 2. what is watched ---------------------------------------------------------------------------------------------


def test_021_variables_are_watched_and_tensors_are_not(run):
    def f(x, watch):
        with tp.GradientTape() as tape:
            if watch:
                tape.watch(x)
            y = x * x
        return tape.gradient(y, x)

    assert run(f, C(3.0), False) is None
    assert run(f, C(3.0), True) == 6.0
    assert plain(f(tp.Variable(3.0), False)) == 6.0


def test_022_not_trainable(run):
    v = tp.Variable(2.0, trainable=False)

    def f(watch):
        with tp.GradientTape() as tape:
            if watch:
                tape.watch(v)
            y = v * v
        return tape.gradient(y, v)

    assert run(f, False) is None
    assert run(f, True) == 4.0


def test_023_variable_plus_one_is_a_tensor():
    x = tp.Variable(2.0) + 1.0
    assert type(x) is tp.Tensor
    with tp.GradientTape() as tape:
        y = x * x
    assert tape.gradient(y, x) is None


def test_024_watch_accessed_variables(run):
    a, b = tp.Variable(2.0), tp.Variable(3.0)

    def f():
        with tp.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(b)
            y = a * b
        return tape.gradient(y, [a, b])

    assert run(f) == [None, 2.0]


def test_025_watching_structures(run):
    def f(a, b):
        with tp.GradientTape() as tape:
            tape.watch({"a": a, "l": [b]})
            y = a * b
        return tape.gradient(y, {"a": a, "l": [b]})

    assert run(f, C(2.0), C(3.0)) == {"a": 3.0, "l": [2.0]}


@pytest.mark.parametrize("x", [np.ones(2), 3.0], ids=["array", "float"])
def test_026_watching_what_is_no_tensor(x):
    with (
        tp.GradientTape() as tape,
        pytest.raises(ValueError, match=rf"tensors, variables.*\['k'\].*{type(x).__name__}"),
    ):
        tape.watch({"k": x})


def test_027_watching_integers(caplog):
    x = C(3)
    with caplog.at_level(logging.WARNING), tp.GradientTape() as tape:
        for _ in range(20):
            tape.watch(x)
        y = x * x
    assert tape.gradient(y, x) is None
    assert 1 <= len(caplog.records) <= 5
    assert "dtype of a watched tensor must be floating" in caplog.text


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_028_trainable_dtypes(dtype):
    v = tp.Variable(3.0, dtype=dtype)
    with tp.GradientTape() as tape:
        y = v * v
    g = tape.gradient(y, v)
    assert g.dtype == dtype
    assert plain(g) == 6.0


@pytest.mark.parametrize("value", [3, True], ids=["int", "bool"])
def test_029_integer_variable(value):
    v = tp.Variable(value)
    with tp.GradientTape() as tape:
        y = v * v
    assert tape.gradient(y, v) is None


def test_030_watching_after_use(run):
    def f(x):
        with tp.GradientTape() as tape:
            y = x * x
            tape.watch(x)
        return tape.gradient(y, x)

    assert run(f, C(3.0)) is None


def test_031_watching_before_entering():
    """A wart: a clear RuntimeError."""
    with pytest.raises(RuntimeError, match="never entered"):
        tp.GradientTape().watch(C(1.0))


def test_032_watching_after_leaving():
    """A wart: a warning."""
    x = C(3.0)
    with tp.GradientTape() as tape:
        pass
    with pytest.warns(UserWarning, match="no effect") as caught:
        tape.watch(x)
    assert caught[0].filename == __file__
    assert tape.gradient(x * x, x) is None


def test_033_watching_is_local_to_a_tape(run):
    def f(x, y):
        with tp.GradientTape(watch_accessed_variables=False) as outer:
            outer.watch(y)
            with tp.GradientTape() as inner:
                inner.watch([x, y])
                z = x * y * y * y
            dx, dy = inner.gradient(z, [x, y])
            second = dx + dy - dx
        return outer.gradient(second, [y, x])

    second, none = run(f, C(1.0), C(2.0))
    close(second, 12.0)
    assert none is None


def test_034_watched_variables_are_in_order_of_creation():
    a, b = tp.Variable(1.0), tp.Variable(2.0)
    with tp.GradientTape() as tape:
        b * a
    watched = tape.watched_variables()
    assert isinstance(watched, tuple)
    assert [w.ref() for w in watched] == [a.ref(), b.ref()]


def test_035_watched_variables_leave_tensors_out():
    x, v = C(1.0), tp.Variable(1.0, trainable=False)
    with tp.GradientTape() as tape:
        tape.watch(x)
    assert tape.watched_variables() == ()
    with tp.GradientTape() as tape:
        tape.watch(v)
    assert len(tape.watched_variables()) == 1


def test_036_watched_variables_survive_gradient_but_not_reset():
    a, b = tp.Variable(1.0), tp.Variable(2.0)
    f = tp.tape_function(lambda: b * 2.0)
    with tp.GradientTape() as tape:
        y = a * 1
    tape.gradient(y, a)
    assert len(tape.watched_variables()) == 1
    with tp.GradientTape() as tape:
        a * 1
        tape.reset()
        f()
    assert [w.ref() for w in tape.watched_variables()] == [b.ref()]


# -- 3. gradient(target, sources) -----------------------------------------------------------------------------------


def taped(function, *xs):
    with tp.GradientTape(persistent=True) as tape:
        tape.watch(xs)
        y = function(*xs)
    return tape, y


def test_038_target_none():
    tape, _ = taped(lambda x: x * x, C(1.0))
    with pytest.raises(TypeError, match="expected a nested structure of tensors"):
        tape.gradient(None, C(1.0))


@pytest.mark.parametrize("source", [None, np.float32(1), 1.0, [C(1.0), 2.0]])
def test_039_sources_that_are_no_tensors(source):
    """A wart: one TypeError, with the path of the offender."""
    tape, y = taped(lambda x: x * x, C(1.0))
    with pytest.raises(TypeError, match=r"sources\[1\] is a float" if isinstance(source, list) else "sources is "):
        tape.gradient(y, source)


def test_040_target_that_is_no_tensor():
    """A wart: as for sources."""
    x = C(1.0)
    tape, _ = taped(lambda x: x * x, x)
    with pytest.raises(TypeError, match=r"target\['k'\] is a float"):
        tape.gradient({"k": 3.0}, x)


def test_041_unrelated_target():
    x = C(1.0)
    tape, _ = taped(lambda x: x * x, x)
    assert tape.gradient(C(2.0) * 3, x) is None


def test_042_target_is_the_source(run):
    def f(x):
        with tp.GradientTape() as tape:
            tape.watch(x)
        return tape.gradient(x, x)

    assert run(f, C([1.0, 2.0])) == [1.0, 1.0]
    v = tp.Variable(5.0)
    with tp.GradientTape() as tape:
        pass
    assert plain(tape.gradient(v, v)) == 1.0


def test_043_targets_mix_source_and_derived():
    x = C(2.0)
    tape, y = taped(lambda x: x * x, x)
    assert plain(tape.gradient([x, y], x)) == 5.0


def test_044_dict_of_targets(run):
    def f(x):
        tape, y = taped(lambda x: {"a": x**2, "b": 1 / x}, x)
        return tape.gradient(y, x)

    assert run(f, C(2.0)) == 3.75


def test_045_no_targets():
    x, y = C(1.0), C(2.0)
    tape, _ = taped(lambda x, y: x * y, x, y)
    assert tape.gradient([], [x, y]) == [None, None]


def test_046_target_that_is_no_scalar(run):
    def f(x):
        tape, y = taped(lambda x: x * [3.0, 4.0], x)
        return tape.gradient(y, x)

    assert run(f, C(2.0)) == 7.0


class Pair(NamedTuple):
    first: object
    second: object


def test_047_structure_of_sources():
    x = C(2.0)
    tape, y = taped(lambda x: x * x, x)
    assert plain(tape.gradient(y, (x, {"k": x}))) == [4.0, {"k": 4.0}]
    got = tape.gradient(y, Pair(x, [x]))
    assert type(got) is Pair
    assert plain(got) == [4.0, [4.0]]
    assert list(tape.gradient(y, {"b": x, "a": x})) == ["b", "a"]


def test_048_no_sources():
    tape, y = taped(lambda x: x * x, C(1.0))
    assert tape.gradient(y, []) == []


def test_049_repeated_source():
    x = C(3.0)
    tape, y = taped(lambda x: x * x, x)
    assert plain(tape.gradient(y, [x, x])) == [6.0, 6.0]


def test_050_intermediate_source(run):
    def f(x):
        with tp.GradientTape(persistent=True) as tape:
            tape.watch(x)
            y = x * x
            z = y * y
        return tape.gradient(z, y), tape.gradient(z, [x, y])

    assert run(f, C(3.0)) == [18.0, [108.0, 18.0]]


def test_051_alias_and_copies():
    x = C(3.0)
    with tp.GradientTape(persistent=True) as tape:
        tape.watch(x)
        y = x
        z = x + 0
        w = x * 1
        out = y + z + w
    assert plain(tape.gradient(out, [x, y, z, w])) == [3.0, 3.0, 1.0, 1.0]


def test_052_equal_constants_are_different_sources(run):
    def f(x, y):
        tape, z = taped(lambda x, y: x * x * y, x, y)
        return tape.gradient(z, [x, y, x])

    assert run(f, C(3.0), C(3.0)) == [18.0, 9.0, 18.0]

    def constants():
        a, b = tp.constant(2.0), tp.constant(2.0)
        tape, z = taped(lambda a, b: a * 3 + b * 0, a, b)
        return tape.gradient(z, [a, b])

    assert run(constants) == [3.0, 0.0]


def test_053_python_max():
    vs = [tp.Variable(float(k)) for k in (1, 2, 3)]
    with tp.GradientTape() as tape:
        y = max(vs)
    assert plain(tape.gradient(y, vs)) == [None, None, 1.0]


def test_054_gradient_has_the_dtype_of_the_source(run):
    def f(x, dtype=np.float64):
        tape, y = taped(lambda x: tp.cast(x, dtype) ** 2, x)
        g = tape.gradient(y, x)
        assert g.dtype == np.float32
        return g

    assert run(f, C(2.0)) == 4.0
    assert plain(f(C(2.0), np.float16)) == 4.0


def test_055_broadcasting(run):
    def f(x):
        tape, y = taped(lambda x: tp.broadcast_to(x, (3, 2)), x)
        return tape.gradient(y, x)

    assert run(f, C([1.0, 2.0])) == [3.0, 3.0]


def test_056_float16():
    v = tp.Variable(np.float16(2))
    with tp.GradientTape() as tape:
        y = v * v
    assert tape.gradient(y, v).dtype == np.float16


# -- 4. None --------------------------------------------------------------------------------------------------------


def test_058_constant():
    with tp.GradientTape() as tape:
        y = C(2.0) * C(3.0)
    assert tape.gradient(y, C(2.0)) is None


def test_059_rebound_variable():
    x, out = tp.Variable(2.0), []
    for _ in range(2):
        with tp.GradientTape() as tape:
            y = x + 1
        out.append(plain(tape.gradient(y, x)))
        x = x + 1
    assert out == [1.0, None]


def test_060_leaving_for_numpy():
    """Deliberate difference: np.mean(x) stays on the tape; np.asarray(x) and x.numpy() leave it."""
    x = tp.Variable([[1.0, 2.0], [3.0, 4.0]])
    with tp.GradientTape(persistent=True) as tape:
        recorded = np.mean(x**2, axis=0).sum()
        left = tp.mean(np.mean((x**2).numpy(), axis=0))
        left_too = tp.mean(np.asarray(x**2))
    assert plain(tape.gradient(recorded, x)) == [[1.0, 2.0], [3.0, 4.0]]
    assert tape.gradient([left, left_too], x) is None


def test_061_integers_in_the_path(run):
    def f(x):
        tape, y = taped(lambda x: tp.cast(tp.cast(x, np.int32), np.float32) * 2, x)
        return tape.gradient(y, x)

    assert run(f, C(3.0)) is None
    tape, y = taped(lambda x: x * x, C(10))
    assert tape.gradient(y, C(10)) is None


def test_062_state(run):
    x0, x1 = tp.Variable(3.0), tp.Variable(0.0)

    def f():
        x1.assign(0.0)
        with tp.GradientTape() as tape:
            x1.assign_add(x0)
            y = x1**2
        return tape.gradient(y, [x0, x1])

    assert run(f) == [None, 6.0]


def test_063_python_control_flow():
    x, v0, v1 = C(1.0), tp.Variable(2.0), tp.Variable(2.0)
    with tp.GradientTape(persistent=True) as tape:
        tape.watch(x)
        result = v0 if x > 0.0 else v1**2
    assert plain(tape.gradient(result, [v0, v1])) == [1.0, None]
    assert tape.gradient(result, x) is None


@pytest.mark.parametrize(
    "function",
    [
        lambda x: tp.cast(tp.argmax(x), np.float32),
        lambda x: tp.where(x > 1.5, 1.0, 2.0),
        tp.round,
        tp.floor,
        tp.ceil,
        lambda x: x // 2.0,
        tp.rint,
    ],
    ids=["argmax", "comparison", "round", "floor", "ceil", "floordiv", "rint"],
)
def test_064_operations_that_disconnect(run, function):
    def f(x):
        tape, y = taped(function, x)
        return tape.gradient(y, x)

    assert run(f, C([1.0, 2.0])) is None


def test_064_sign_gives_zeros(run):
    def f(x):
        tape, y = taped(tp.sign, x)
        return tape.gradient(y, x)

    assert run(f, C([-1.0, 2.0])) == [0.0, 0.0]


def test_065_stop_gradient(run):
    def f(x):
        tape, y = taped(lambda x: tp.stop_gradient(x) * x, x)
        return tape.gradient(y, x)

    assert run(f, C(3.0)) == 3.0


def test_066_unrelated_target():
    x, y = tp.Variable(2.0), tp.Variable(3.0)
    with tp.GradientTape() as tape:
        z = y * y
    assert tape.gradient(z, x) is None


def test_069_where_gives_zeros(run):
    def f(x, y):
        tape, z = taped(lambda x, y: tp.where(x > 0, x, y), x, y)
        return tape.gradient(z, [x, y])

    assert run(f, C([1.0, 2.0]), C([3.0, 4.0])) == [[1.0, 1.0], [0.0, 0.0]]


# -- 5. unconnected_gradients and output_gradients ------------------------------------------------------------------


@pytest.mark.parametrize("zero", ["zero", tp.UnconnectedGradients.ZERO])
def test_070_zeros_for_unconnected(run, zero):
    def f(x, y):
        tape, z = taped(lambda x, y: y**2, x, y)
        return tape.gradient(z, [x, y], unconnected_gradients=zero)

    assert run(f, C([2.0, 2.0, 2.0]), C([1.0, 2.0])) == [[0.0, 0.0, 0.0], [2.0, 4.0]]


def test_071_integer_zeros():
    x = C([1, 2])
    with tp.GradientTape() as tape:
        y = x * x
    g = tape.gradient(y, x, unconnected_gradients="zero")
    assert g.dtype == np.int32
    assert plain(g) == [0, 0]


def test_072_unknown_value():
    tape, y = taped(lambda x: x * x, C(1.0))
    with pytest.raises(ValueError, match="unknown value for unconnected_gradients: 'nonsense'"):
        tape.gradient(y, C(1.0), unconnected_gradients="nonsense")


def test_073_zeros_for_stopped_paths(run):
    inner = tp.tape_function(lambda x, y: x * 2.0)

    def f(x, y):
        tape, z = taped(lambda x, y: tp.stop_gradient(x) * 2 + inner(y, x), x, y)
        return tape.gradient(z, [x, y], unconnected_gradients="zero")

    assert run(f, C(1.0), C(2.0)) == [0.0, 2.0]


def test_074_output_gradients(run):
    def f(x):
        tape, loss = taped(lambda x: x * 2.0, x)
        return tape.gradient([loss, x], x, output_gradients=[1.0, 2.0])

    assert run(f, C(1.0)) == 4.0


def test_075_nested_lists(run):
    def f(x):
        tape, y = taped(lambda x: x * x, x)
        return tape.gradient(y, x, output_gradients=[[5.0, 6.0]])

    assert run(f, C([1.0, 2.0])) == [10.0, 24.0]


def test_076_scalar_seed(run):
    def f(x):
        tape, y = taped(lambda x: x * x, x)
        return tape.gradient(y, x, output_gradients=2.0)

    assert run(f, C([1.0, 2.0])) == [4.0, 8.0]


def seeded(seed):
    x = C([1.0, 2.0])
    tape, y = taped(lambda x: x * x, x)
    return tape.gradient([y, y], x, output_gradients=seed)


def test_077_wrong_shape_of_a_seed():
    """A wart: checked at once."""
    with pytest.raises(ValueError, match=r"shape \[3\], its target \[2\]"):
        seeded([[1.0, 2.0, 3.0], 1.0])


def test_078_wrong_dtype_of_a_seed():
    """A wart: checked at once."""
    with pytest.raises(TypeError, match="float64.*float32"):
        seeded([np.ones(2), 1.0])


def test_079_fewer_seeds():
    """A wart: a ValueError."""
    with pytest.raises(ValueError, match="1 entries for 2 targets"):
        seeded([1.0])


def test_080_none_among_seeds():
    with pytest.raises(ValueError, match="None entry"):
        seeded([1.0, None])


def test_081_no_seeds():
    assert plain(seeded(None)) == [4.0, 8.0]


def test_083_gradient_by_the_seed(run):
    def f(x):
        seed = tp.constant([1.0, 1.0])
        with tp.GradientTape() as outer:
            outer.watch(seed)
            tape, y = taped(lambda x: x**3, x)
            g = tape.gradient(y, x, output_gradients=[seed])
        return outer.gradient(g, seed)

    close(run(f, C([1.0, 2.0])), [3.0, 12.0])


# -- 6. missing gradients -------------------------------------------------------------------------------------------


def test_084_operation_without_gradient(run):
    def f(x):
        tape, y = taped(lambda x: tp.missing_gradient(x, "AdjustContrast") * 2, x)
        return tape.gradient(y, x)

    with pytest.raises(LookupError, match="AdjustContrast"):
        run(f, C(1.0))


def test_085_only_on_a_path(run):
    def f(x):
        tape, (y, _) = taped(lambda x: (x * x, tp.missing_gradient(x, "AdjustContrast")), x)
        return tape.gradient(y, x)

    assert run(f, C(3.0)) == 6.0


# -- 7. higher order ------------------------------------------------------------------------------------------------


def derivative(f):
    def df(x):
        with tp.GradientTape() as tape:
            tape.watch(x)
            y = f(x)
        return tape.gradient(y, x)

    return df


def test_087_nested_tapes(run):
    f = lambda x: x**3
    close(run(derivative(f), C(1.0)), 3.0)
    close(run(derivative(derivative(f)), C(1.0)), 6.0)
    close(run(derivative(derivative(derivative(tp.sin))), C(1.0)), -math.cos(1.0))


def test_088_inner_gradient_outside_of_the_outer_tape():
    x = tp.Variable(2.0)
    with tp.GradientTape() as outer, tp.GradientTape() as inner:
        y = x**3
    d = inner.gradient(y, x)
    assert outer.gradient(d, x) is None


def test_089_hessian(run):
    def f(x):
        with tp.GradientTape() as outer:
            outer.watch(x)
            g = derivative(lambda x: tp.sum(x**3))(x)
        return outer.jacobian(g, x)

    close(run(f, C([1.0, 2.0])), [[6.0, 0.0], [0.0, 12.0]])


def test_090_compiled_function_in_nested_tapes(run):
    cube = tp.tape_function(lambda x: x * x * x)
    close(run(derivative(cube), C(2.0)), 12.0)
    close(run(derivative(derivative(cube)), C(2.0)), 12.0)


def test_092_backward_of_a_function_is_made_when_asked_for():
    cube = tp.tape_function(lambda x: x * x * x)
    x = C(2.0)
    with tp.GradientTape() as tape:
        tape.watch(x)
        y = cube(x)
    pure = cube.specialise(x).pure
    assert len(pure._backwards) == 0
    tape.gradient(y, x)
    ((backward, _),) = pure._backwards.values()
    assert len(backward._backwards) == 0


# -- 8. jacobians (the parts that exist without vectorisation) ------------------------------------------------------


def test_093_shape_of_a_jacobian():
    x = C([1.0, 2.0])
    tape, y = taped(lambda x: x * x, x)
    assert plain(tape.jacobian(y, x)) == [[2.0, 0.0], [0.0, 4.0]]


def test_094_nested_sources_and_one_target():
    x = {"x": C([[1.0, 2.0], [3.0, 4.0]]), "z": C([1.0, 2.0])}
    tape, y = taped(lambda x: tp.matmul(x["x"], x["z"]), x)
    got = tape.jacobian(y, x)
    assert got["x"].shape == (2, 2, 2)
    assert plain(got["z"]) == [[1.0, 2.0], [3.0, 4.0]]
    with pytest.raises(TypeError, match="takes one tensor"):
        tape.jacobian([y, y], x)


def test_095_unconnected_jacobian():
    x = C([1.0, 2.0])
    tape, y = taped(lambda x: C([1.0, 2.0, 3.0]) * 2, x)
    assert tape.jacobian(y, [x]) == [None]
    assert plain(tape.jacobian(y, x, unconnected_gradients="zero")) == [[0.0, 0.0]] * 3


def test_099_batch_jacobian():
    x = C([[1.0, 2.0], [3.0, 4.0]])
    tape, y = taped(lambda x: x * x, x)
    assert plain(tape.batch_jacobian(y, x)) == [[[2.0, 0.0], [0.0, 4.0]], [[6.0, 0.0], [0.0, 8.0]]]


def test_100_batch_jacobian_checks_shapes():
    x = C([1.0, 2.0])
    tape, y = taped(lambda x: x * x, x)
    with pytest.raises(ValueError, match="rank at least 2"):
        tape.batch_jacobian(y, x)
    x = C([[1.0], [2.0]])
    tape, y = taped(lambda x: tp.sum(x * x, axis=0, keepdims=True), x)
    with pytest.raises(ValueError, match="first dimension to match"):
        tape.batch_jacobian(y, x)


def test_101_unconnected_batch_jacobian():
    x = C([[1.0], [2.0]])
    tape, _ = taped(lambda x: x * x, x)
    assert plain(tape.batch_jacobian(C([[1.0], [1.0]]), x)) == [[[0.0]], [[0.0]]]


def test_102_empty_batch():
    x = C(np.ones((1, 0), np.float32))
    tape, y = taped(lambda x: x * x, x)
    assert tape.batch_jacobian(y, x).shape == (1, 0, 0)


# -- 12. numeric conventions ----------------------------------------------------------------------------------------


def slope(function, *xs):
    tape, y = taped(function, *xs)
    return plain(tape.gradient(y, list(xs) if len(xs) > 1 else xs[0]))


def test_129_ties_of_reductions():
    assert slope(tp.max, C([2.0, 2.0, 1.0])) == [0.5, 0.5, 0.0]
    assert slope(tp.min, C([2.0, 1.0, 1.0])) == [0.0, 0.5, 0.5]


def test_130_ties_of_maximum():
    assert slope(tp.maximum, C(1.0), C(1.0)) == [1.0, 0.0]
    assert slope(tp.minimum, C(1.0), C(1.0)) == [1.0, 0.0]


def test_132_kinks_at_zero():
    assert slope(tp.relu, C(0.0)) == 0.0
    assert slope(tp.abs, C(0.0)) == 0.0
    assert slope(tp.sign, C(0.0)) == 0.0
    assert slope(tp.softplus, C(0.0)) == 0.5


def test_133_roots_at_zero():
    assert slope(tp.sqrt, C(0.0)) == math.inf
    assert np.isnan(slope(np.linalg.norm, C([0.0, 0.0]))).all()
    assert np.isnan(slope(tp.std, C([1.0, 1.0]))).all()
    assert slope(tp.var, C([1.0, 1.0])) == [0.0, 0.0]


def test_134_norm():
    close(slope(np.linalg.norm, C([1.0, 1.0])), [0.70710677, 0.70710677])


def test_135_where_does_not_hide_poles():
    def chosen(function):
        return slope(lambda x: tp.where(x > 0, function(x), 0.0), C(0.0))

    assert math.isnan(chosen(tp.log))
    assert math.isnan(chosen(lambda x: 1 / x))
    assert chosen(tp.sqrt) == 0.0


def test_136_clip_passes_at_both_bounds():
    assert slope(lambda x: tp.clip(x, 0.0, 1.0), C([-1.0, 0.0, 0.5, 1.0, 2.0])) == [0.0, 1.0, 1.0, 1.0, 0.0]


def test_137_power_at_zero():
    assert slope(lambda x, p: x**p, C(0.0), C(2.0)) == [0.0, 0.0]


def test_138_product_with_a_zero():
    assert slope(tp.prod, C([0.0, 2.0, 3.0])) == [6.0, 0.0, 0.0]


def test_139_mod():
    assert slope(tp.mod, C(7.0), C(2.0)) == [1.0, -3.0]


def test_141_logsumexp():
    x = C([1.0, 2.0, 3.0])
    close(slope(tp.logsumexp, x), plain(tp.softmax(x)))


def test_143_mean_of_nothing():
    x = C(np.ones(0, np.float32))
    tape, y = taped(tp.mean, x)
    assert math.isnan(plain(y))
    assert plain(tape.gradient(y, x)) == []


def test_144_integer_mean():
    """Deliberate difference: as NumPy."""
    assert plain(tp.mean(C([1, 2]))) == 1.5


def test_145_rounding_and_division():
    """Deliberate difference: integer division by zero is as in NumPy."""
    assert plain(tp.round(C([0.5, 1.5, 2.5]))) == [0.0, 2.0, 2.0]
    assert plain(C([-7, 7]) // C([2, -2])) == [-4, -4]
    assert plain(C([-7, 7]) % C([2, -2])) == [1, -1]
    assert (C(1) / C(2)).dtype == np.float64
    assert plain(C(1) // C(0)) == 0


def test_146_softmax_cross_entropy():
    x = C([1.0, 2.0, 3.0])
    tape, loss = taped(lambda x: -tp.log_softmax(x)[2], x)
    close(plain(loss), 0.4076059)
    close(plain(tape.gradient(loss, x)), (np.asarray(tp.softmax(x)) - [0, 0, 1]).tolist())


def test_149_gather_and_masks():
    assert slope(lambda x: x[::-2] * [1.0, 10.0], C([1.0, 2.0, 3.0, 4.0])) == [0.0, 10.0, 0.0, 1.0]
    assert slope(lambda x: x[np.array([True, False, True])] ** 2, C([1.0, 2.0, 3.0])) == [2.0, 0.0, 6.0]


# -- 13. dtypes -----------------------------------------------------------------------------------------------------


def test_150_tensors_promote_as_in_numpy():
    """Deliberate difference: NumPy's promotion instead of an error."""
    assert (C(1.0) + C(1.0, dtype=np.float64)).dtype == np.float64
    assert (C(1.0) + C(1)).dtype == np.float64  # float32 + int32


def test_151_python_numbers_adapt():
    """Deliberate difference: an integer tensor plus 1.5 is a float64, as in NumPy."""
    assert (C(1.0) + 1).dtype == np.float32
    assert (1 / C(2.0)).dtype == np.float32
    assert (C(1) + 1).dtype == np.int32
    assert (C(1) + 1.5).dtype == np.float64


def test_152_numpy_scalars_promote():
    """Deliberate difference: NumPy scalars and arrays have a dtype of their own."""
    assert (C(1.0) + np.float64(1)).dtype == np.float64
    assert (np.ones(2) * C(1.0)).dtype == np.float64
    assert (C(1.0) * [1.0, 2.0]).dtype == np.float32


def test_153_dtypes_of_python_values():
    assert C(1.0).dtype == np.float32
    assert C([1, 2]).dtype == np.int32
    assert C(True).dtype == np.bool_
    assert C(np.ones(2)).dtype == np.float64
    assert C(2**40).dtype == np.int64
    with pytest.raises(TypeError, match="complex"):
        C(1j)


def test_154_truth_value():
    assert bool(C(1.0))
    assert not C([0])
    with pytest.raises(ValueError, match="ambiguous"):
        bool(C([1.0, 2.0]))


def test_155_tensors_cannot_be_hashed():
    x = C([1.0, 2.0])
    with pytest.raises(TypeError, match=r"\.ref\(\)"):
        hash(x)
    assert plain(x == [1.0, 3.0]) == [True, False]
    assert plain(x != x) == [False, False]
    assert {x.ref(): 1}[x.ref()] == 1
    assert x.ref().deref() is x
    assert (x == None) is False  # noqa: E711


def test_156_no_item_assignment():
    x = C([1.0, 2.0])
    with pytest.raises(TypeError, match="tp.where"):
        x[0] = 1.0


def test_157_product_of_vectors():
    """Deliberate difference: as in NumPy."""
    assert plain(C([1.0, 2.0]) @ C([3.0, 4.0])) == 11.0


# -- 14. variables --------------------------------------------------------------------------------------------------


def test_158_assign_keeps_dtype_and_shape(run):
    v = tp.Variable([1.0, 2.0])
    for wrong in (C([1.0]), C([1, 2]), 3.0, np.ones(2)):
        with pytest.raises((ValueError, TypeError), match="assign to the variable"):
            run(lambda x=wrong: v.assign(x))
        assert plain(v) == [1.0, 2.0]


def test_159_augmented_assignment():
    v = tp.Variable(1.0)
    with pytest.raises(RuntimeError, match="assign_add"):
        v += 1
    with pytest.raises(RuntimeError, match="assign_add"):
        v *= 2


def test_160_assign_before_read(run):
    x = tp.Variable(3.0)

    def f():
        with tp.GradientTape() as tape:
            x.assign(2.0)
            y = x * x
        return tape.gradient(y, x)

    assert run(f) == 4.0


def test_161_read_then_assign(run):
    x = tp.Variable(3.0)

    def f():
        x.assign(3.0)
        with tp.GradientTape(persistent=True) as tape:
            y = x * x
            x.assign(5.0)
            z = x * x
        return tape.gradient(y, x), tape.gradient([y, z], x), x

    assert run(f) == [6.0, 16.0, 5.0]


def test_162_assigning_afterwards():
    x = tp.Variable(3.0)
    with tp.GradientTape() as tape:
        y = x * x
    x.assign(5.0)
    assert plain(tape.gradient(y, x)) == 6.0


def test_163_result_of_assign(run):
    x, d = tp.Variable(3.0), tp.Variable(1.0)

    def f():
        with tp.GradientTape() as tape:
            y = x.assign_add(d) * 1
        return tape.gradient(y, [x, d])

    assert run(f) == [1.0, None]


def test_165_copies():
    v = tp.Variable([1.0], name="v", trainable=False)
    for twin in (copy.copy(v), copy.deepcopy(v), tp.Variable(v)):
        v.assign([5.0])
        assert plain(twin) == [1.0]
        v.assign([1.0])
    both = copy.deepcopy([v, v])
    assert both[0] is both[1]
    assert (both[0].name, both[0].trainable) == ("v", False)


def test_166_variables_cannot_be_hashed():
    v = tp.Variable(1.0)
    with pytest.raises(TypeError, match="ref"):
        hash(v)
    assert v.ref() == v.ref()
    assert plain(v == 1.0) is True


def test_167_duplicate_names():
    assert tp.Variable(1.0, name="v").name == tp.Variable(2.0, name="v").name


# -- 16. control flow in Python -------------------------------------------------------------------------------------


def test_172_python_control_flow(run):
    def f(x):
        with tp.GradientTape() as tape:
            tape.watch(x)
            y = x
            for k in range(3):
                y = y * x if k else y + x
        return tape.gradient(y, x)

    close(run(f, C(2.0)), 24.0)


def test_173_iteration(run):
    def f(x):
        tape, y = taped(lambda x: sum(a * a for a in x), x)
        return tape.gradient(y, x)

    assert run(f, C([1.0, 2.0, 3.0])) == [2.0, 4.0, 6.0]


# -- 17. forward mode (jvp) -----------------------------------------------------------------------------------------


def test_179_directional_derivative(run):
    def f(x):
        return tp.jvp(lambda x: tp.sum(x**3), [x], [tp.constant([1.0, 0.0])])

    close(run(f, C([1.0, 2.0])), [9.0, 3.0])


def test_181_shape_of_a_tangent():
    """A wart: checked at once."""
    with pytest.raises(ValueError, match="tangent"):
        tp.jvp(tp.sum, [C([1.0, 2.0])], [C([1.0])])


def test_185_hessian_vector_product(run):
    def f(x):
        return tp.hvp(lambda x: tp.sum(x**3), [x], [tp.constant([1.0, 0.0])])

    close(run(f, C([1.0, 2.0])), [[[3.0, 12.0]], [[6.0, 0.0]]])
