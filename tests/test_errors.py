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


@pytest.mark.parametrize("name", ["zeros", "reshape", "items", "sum", "key"])
def test_a_number_that_is_known_too_late(name):
    """An extent, the number of items of a list, or a key of a dict that depends on a traced value."""
    x, n = tp.constant(X), tp.constant(np.array(2))

    def mistake():
        tp.tape_function(
            {
                "zeros": lambda x, n: tp.zeros((n, 3)),
                "reshape": lambda x, n: x.reshape(n, -1),
                "items": lambda x, n: [x[i] for i in range(n)],
                "sum": lambda x, n: sum(x[i] for i in range(n)),
                "key": lambda x, n: {n: x},
            }[name]
        )(x, n)

    expected = {
        "zeros": ["zeros", "the extent", "known only when the compiled function runs", "x.shape[k]", "mask"],
        "reshape": ["reshape", "the extent", "known only when the compiled function runs", "x.shape[k]", "mask"],
        "items": ["the number of items", "comprehensions", "a `for` statement", "out[i] = value"],
        "sum": ["the number of items", "comprehensions", "a `for` statement", "out[i] = value"],
        "key": ["a traced value cannot be hashed", "in place of a dict or set"],
    }
    if name == "key":
        with pytest.raises(TypeError, match=f"{HERE}:") as caught:
            mistake()
        says(str(caught.value), *expected[name])
    else:
        says(complaint(TypeError, mistake), *expected[name])


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


def test_an_index_of_a_loop_out_of_range():
    """What counts a loop has no name in the message that the user has given."""

    @tp.tape_function
    def f(x, n):
        for k in range(n):
            x[k] = 0.0
        return x

    with pytest.raises(IndexError, match=rf"needs -(k_\d+)\+5 >= 0: .* \(\1: number of the iteration.*\s.*{HERE}:"):
        f(np.arange(6.0), np.array(7))


def test_the_largest_of_a_batch_that_is_empty():
    def mistake():
        f = tp.tape_function(lambda x: x.max(axis=0), input_signature=[tp.TensorSpec((None, 3))])
        f(np.ones((0, 3), np.float32))

    says(complaint(ValueError, mistake), "reduce_max", "f32[B0,3]", "axis 0", "empty", "check the size first")


SINGULAR, NEGATIVE, NANS = np.ones((2, 2)), -np.eye(2), np.full((2, 2), np.nan)
TWO = np.array([2])
NUMPYS = {  # what NumPy says: the function, its operands, the function's name in the message, the reason, that compiled
    "inv": (tp.linalg.inv, (SINGULAR,), "inv", "Singular matrix"),
    "of float32": (tp.linalg.inv, (SINGULAR.astype("f4"),), "inv", "Singular matrix"),
    "NumPy's name": (np.linalg.inv, (SINGULAR,), "inv", "Singular matrix"),
    "solve": (tp.linalg.solve, (SINGULAR, np.ones(2)), "solve", "Singular matrix"),
    "matrix_power": (lambda x: tp.linalg.matrix_power(x, -1), (SINGULAR,), "matrix_power", "Singular matrix"),
    "cholesky": (tp.linalg.cholesky, (NEGATIVE,), "cholesky", "Matrix is not positive definite"),
    "svd": (lambda x: tp.linalg.svd(x).S, (NANS,), "svd", "SVD did not converge"),
    "pinv": (tp.linalg.pinv, (NANS,), "pinv", "SVD did not converge"),
    "eigvals": (tp.linalg.eigvals, (NANS,), "eigvals", "infs or nans"),
    "power": (tp.power, (TWO, np.array([-1])), "power", "negative"),
    "power of a number": (lambda x: tp.power(x, -1), (TWO,), "power", "negative"),
    "**": (lambda x: x**-1, (TWO,), "power", "negative"),
    "an index": (lambda x, k: x[k], (np.arange(3.0), np.array([5])), "gather", "out of bounds"),
}


@pytest.mark.parametrize("way", ["eager", "taped"])
@pytest.mark.parametrize("name", NUMPYS)
def test_what_numpy_refuses(name, way):
    """The type of NumPy's error, with that as its cause; the function's name and the user's line before its words."""
    f, arrays, called, reason = NUMPYS[name]
    xs = list(map(tp.constant, arrays))
    with pytest.raises((ValueError, IndexError)) as caught:
        if way == "taped":
            with tp.GradientTape() as tape:
                tape.watch([x for x in xs if x.dtype.kind == "f"])
                f(*xs)
        else:
            f(*xs)
    error = caught.value
    assert type(error.__cause__) is type(error)
    assert re.match(rf"{called} at .*{re.escape(HERE)}:\d+: ", str(error)), str(error)
    assert re.search(reason, str(error), re.IGNORECASE) and str(error).count(f"{called}:") == 0


@pytest.mark.parametrize("engine", ["llvm", "numba"])
@pytest.mark.parametrize("name", ["inv", "of float32", "solve", "cholesky", "svd", "eigvals", "power", "**"])
def test_what_numpy_refuses_in_a_program(name, engine):
    """The operation's name before the reason, the line that called it behind."""
    f, arrays, called, reason = NUMPYS[name]

    def program(*xs):
        return f(*xs)

    with pytest.raises(ValueError, match=reason) as caught:
        tp.tape_function(program, engine=engine)(*arrays)
    source, first = inspect.getsourcelines(f if name in ("svd", "**") else program)
    named = re.search(rf"^{called[:3]}\w*: .*\n  at .*{re.escape(HERE)}:(\d+)", str(caught.value))
    assert named and first <= int(named[1]) < first + len(source), str(caught.value)
    assert type(caught.value) is (ValueError if called[:3] == "pow" else np.linalg.LinAlgError)


def test_what_a_user_raises_is_left_alone():
    def checked(x):
        if x[0] > 0:
            raise ValueError("mine")
        return x

    with pytest.raises(ValueError, match="mine") as caught:
        tp.tape_function(checked)(np.ones(2))
    assert str(caught.value) == "mine"


@pytest.mark.parametrize("way", ["item", "float", "int", "complex"])
def test_a_number_of_several_elements(way):
    x = tp.constant(X)

    def mistake():
        x.item() if way == "item" else {"float": float, "int": int, "complex": complex}[way](x)

    says(complaint(ValueError, mistake), way, "f32[2,3]", "6 elements", "x[0]")


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
