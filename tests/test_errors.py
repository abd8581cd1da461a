"""The mistakes of a first day: each message names the operation, the types, the user's own line and the cure."""

import inspect
import re
from pathlib import Path

import numpy as np
import pytest

import tapefuse as tp
from tapefuse._errors import TapefuseError
from tapefuse.ir import ops

HERE = Path(__file__).name


def complaint(error, mistake):
    """The message of the error that `mistake()` raises, which names a line of the mistake's source."""
    with pytest.raises(error) as caught:
        mistake()
    text = "\n".join([str(caught.value), *getattr(caught.value, "__notes__", ())])
    source, first = inspect.getsourcelines(mistake)
    named = [int(n) for n in re.findall(rf"{re.escape(HERE)}:(\d+)", text)]
    assert named, f"no line of {HERE} in: {text}"
    assert any(first <= n < first + len(source) for n in named), text
    assert isinstance(caught.value, TapefuseError)
    return text


def says(text, *parts):
    missing = [p for p in parts if p not in text]
    assert not missing, f"{missing} not in: {text}"


X, V = np.ones((2, 3), np.float32), np.ones((4, 5), np.float32)


@pytest.mark.parametrize("wrap", [lambda f: f, tp.tape_function], ids=["eager", "compiled"])
class TestMismatchedShapes:
    def test_of_a_product(self, wrap):
        def mistake():
            wrap(lambda x, v: x @ v)(tp.constant(X), tp.constant(V))

        text = complaint(ValueError, mistake)
        says(text, "matmul", "f32[2,3]", "f32[4,5]", "inner extents 3 and 4", "transpose or reshape one")

    def test_of_a_sum(self, wrap):
        def mistake():
            wrap(lambda x, v: x + v)(tp.constant(X), tp.constant(V))

        text = complaint(ValueError, mistake)
        says(text, "add", "f32[2,3]", "f32[4,5]", "broadcast", "equal or 1", "reshape, transpose or slice one of them")

    def test_of_a_reshape(self, wrap):
        def mistake():
            wrap(lambda x: x.reshape(4, 4))(tp.constant(X))

        says(complaint(ValueError, mistake), "reshape", "f32[2,3]", "[4,4]", "6 elements", "one extent may be -1")

    def test_of_a_concatenation(self, wrap):
        def mistake():
            wrap(lambda x, v: tp.concatenate([x, v]))(tp.constant(X), tp.constant(V))

        text = complaint(ValueError, mistake)
        says(text, "concat", "f32[2,3]", "f32[4,5]", "outside axis 0", "choose another axis")

    def test_of_a_stack(self, wrap):
        def mistake():
            wrap(lambda x, v: tp.stack([x, v]))(tp.constant(X), tp.constant(V))

        says(complaint(ValueError, mistake), "stack", "f32[2,3]", "f32[4,5]", "reshape or broadcast")

    def test_of_an_axis(self, wrap):
        def mistake():
            wrap(lambda x: x.sum(axis=2))(tp.constant(X))

        says(complaint(ValueError, mistake), "axis 2", "rank 2", "axes are -2..1")

    def test_of_a_broadcast(self, wrap):
        def mistake():
            wrap(lambda x: tp.broadcast_to(x, (4, 4)))(tp.constant(X))

        says(complaint(ValueError, mistake), "f32[2,3]", "[4,4]", "equal or 1", "reshape it first")


def test_extents_that_may_differ():
    def mistake():
        spec = tp.TensorSpec((None, 3))
        f = tp.tape_function(lambda x, y: x + y, input_signature=[spec, spec])
        f(X, X)

    text = complaint(ValueError, mistake)
    says(text, "add", "f32[B0,3]", "f32[B1,3]", "give both one name in their TensorSpecs: ('B0', ...)")


def test_if_on_a_traced_value_that_is_left_to_python():
    def mistake():
        @tp.tape_function
        @tp.as_written
        def f(x):
            if x > 0:
                return x
            return -x

        f(tp.constant(1.0))

    says(complaint(TypeError, mistake), "if", "bool", "tp.cond")


@pytest.mark.parametrize("wrap", [lambda f: f, tp.tape_function], ids=["eager", "compiled"])
class TestWrongDtype:
    def test_of_an_operand(self, wrap):
        def mistake():
            wrap(lambda x, k: x & k)(tp.constant(X), tp.constant(3))

        says(complaint(TypeError, mistake), "bitwise_and", "float32", "int32", "tp.cast")

    def test_of_an_assigned_value(self, wrap):
        v = tp.Variable(np.zeros(3, np.float32), name="v")

        def mistake():
            wrap(lambda: v.assign(np.ones(3)))()

        says(complaint(TypeError, mistake), "assign", "'v'", "float64", "float32", "tp.cast(value, v.dtype)")


@pytest.mark.parametrize("wrap", [lambda f: f, tp.tape_function], ids=["eager", "compiled"])
def test_a_wrong_shape_for_a_variable(wrap):
    v = tp.Variable(np.zeros(3, np.float32), name="v")

    def mistake():
        wrap(lambda: v.assign(tp.constant([1.0, 2.0])))()

    says(complaint(ValueError, mistake), "assign", "'v'", "[2]", "[3]", "reshape")
    np.testing.assert_array_equal(v.numpy(), [0, 0, 0])


def test_another_rank_than_the_signature():
    f = tp.tape_function(lambda x: x.sum(), input_signature=[tp.TensorSpec((None, 3), np.float32)])

    def mistake():
        f(np.ones(3, np.float32))

    says(complaint(TypeError, mistake), "argument x", "f32[3] (rank 1)", "f32[B0,3] (rank 2)", "reshape or cast it")


def test_too_many_arguments():
    def mistake():
        tp.tape_function(lambda x: x)(1.0, 2.0)

    with pytest.raises(TypeError, match=r"test_errors.py:\d+: too many positional arguments; its parameters are \(x\)"):
        mistake()


def test_an_engine_that_there_is_not():
    for wrong in ({"engine": "cuda"}, {"threads": 0}, {"threads": "all"}):
        ((name, value),) = wrong.items()
        with pytest.raises(ValueError, match=rf"test_errors.py:\d+: {name}={value!r}: expected"):
            tp.tape_function(lambda x: x, **wrong)


def test_a_leaked_value():
    kept = []

    def mistake():
        @tp.tape_function
        def f(x):
            kept.append(x * 2)
            return x

        f(tp.constant(1.0))
        return kept[0] + 1

    says(complaint(TypeError, mistake), "float32", "'f'", "return it from the function", "tp.Variable")

    for leave in (lambda x: x.numpy(), float, np.asarray, lambda x: x.item(), bool):
        with pytest.raises(
            tp.LeakedValueError, match=r"tracing of 'f', which is over, and is used at .*test_errors.py"
        ):
            leave(kept[0])


@pytest.mark.parametrize("wrap", [lambda f: f, tp.tape_function], ids=["eager", "compiled"])
def test_an_op_without_a_derivative(wrap):
    v = tp.Variable(X, name="v")

    def mistake():
        @wrap
        def f():
            with tp.GradientTape() as tape:
                y = ops.missing_gradient(v * 1.0, name="AdjustContrast")
            return tape.gradient(y, v)

        f()

    text = complaint(LookupError, mistake)
    says(text, "AdjustContrast", "f32[2,3]", "no derivative rule", "write it with other functions", "tp.stop_gradient")
    assert "custom_gradient" not in text


@pytest.mark.parametrize("wrap", [lambda f: f, tp.tape_function], ids=["eager", "compiled"])
def test_an_index_out_of_range(wrap):
    def mistake():
        wrap(lambda x, k: x[k])(tp.constant(X), tp.constant([0, 7]))

    says(complaint(IndexError, mistake), "gather", "axis 0")


def test_the_largest_of_a_batch_that_is_empty():
    def mistake():
        f = tp.tape_function(lambda x: x.max(axis=0), input_signature=[tp.TensorSpec((None, 3))])
        f(np.ones((0, 3), np.float32))

    says(complaint(ValueError, mistake), "reduce_max", "f32[B0,3]", "axis 0", "empty", "check the size first")


def transformed(name):
    return lambda: getattr(tp, name)(3)


WRONG = {
    "nothing": (lambda: tp.exp(None), TypeError, "exp", "None"),
    "text": (lambda: tp.clip(X, "a", 3), TypeError, "clip", "'a'"),
    "ragged": (lambda: tp.exp([[1, 2], [3]]), ValueError, "exp", "inhomogeneous"),
    "dtype": (lambda: tp.cast(X, "floaty"), TypeError, "astype", "'floaty'", "np.float32"),
    "operator": (lambda: tp.constant(X) + "a", TypeError, "'a'"),
    "softmax": (lambda: tp.nn.softmax(X, axis=3), ValueError, "softmax", "axis 3"),
    "zeros": (lambda: tp.zeros((2, -1)), ValueError, "zeros", "negative dimensions", "[2,-1]"),
    "tile": (lambda: tp.tile(X, -1), ValueError, "tile", "negative dimensions"),
    "unique": (lambda: tp.unique(X, size=-1), ValueError, "unique", "negative"),
    "histogram": (lambda: tp.histogram(X, bins=-1), ValueError, "histogram", "positive"),
    **{
        name: (transformed(name), TypeError, f"{name} at", "takes a function, not 3")
        for name in ("grad", "value_and_grad", "jacobian", "hessian", "vmap", "vjp", "linearize")
    },
}


@pytest.mark.parametrize("name", WRONG)
def test_what_was_called_and_where(name):
    mistake, kind, *parts = WRONG[name]
    with pytest.raises(kind) as caught:
        mistake()
    says(str(caught.value), f"{HERE}:{inspect.getsourcelines(mistake)[1]}", *parts)
