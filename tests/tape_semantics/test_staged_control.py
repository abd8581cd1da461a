"""Sections 16 and 19: control flow, eager and staged."""

import numpy as np
import pytest

import tapefuse as tp
from tests.tape_semantics.helpers import C, close, derivative, plain


@pytest.fixture(params=["eager", "interpreted", "compiled"], autouse=True)
def call(request):
    """call(f, *args): the plain result of `f`, called in Python, or traced and run in one of two ways."""

    def run(f, *args):
        if request.param == "eager":
            return plain(f(*args))
        with tp.config(disable_jit=request.param == "interpreted"):
            return plain(tp.tape_function(f)(*args))

    run.is_staged = request.param != "eager"
    return run


def counted(n, call):
    """`range(n)` where Python runs it."""
    return n if call.is_staged else int(n)


def test_172_the_path_taken(call):
    def f(x, double):
        y = x
        for _ in range(3):
            y = y * x if double else y + x
        return y

    assert call(derivative(lambda x: f(x, True)), C(2.0)) == 32.0
    assert call(derivative(lambda x: f(x, False)), C(2.0)) == 4.0


def test_173_rows_of_a_tensor(call):
    def f(x):
        s = 0.0
        for a in x:
            s = s + a * a
        return s

    assert call(derivative(f), C([1.0, 2.0, 3.0])) == [2.0, 4.0, 6.0]
    assert call(derivative(f), C(np.ones(100, np.float32))) == [2.0] * 100


def test_219_if(call):
    def f(x):
        if x > 0:
            y = x * 2
            z = 0.0
        else:
            y = x * 3
            z = y * 0
        return y + z

    assert call(f, C(-1.0)) == -3.0
    assert call(derivative(f), C(-1.0)) == 3.0
    assert call(derivative(f), C(1.0)) == 2.0


def test_220_while(call):
    def f(x):
        while x < 10:
            x = x * x
        return x

    close(call(f, C(1.5)), 25.62890625)
    close(call(derivative(f), C(1.5)), 136.6875)
    close(call(derivative(derivative(f)), C(1.5)), 637.875)


def test_221_for_over_a_traced_range(call):
    def f(x, n):
        y = x
        for _ in range(counted(n, call)):
            y = y * x
        return y

    assert call(f, C(2.0), C(3)) == 16.0
    assert call(lambda x, n: derivative(lambda v: f(v, n))(x), C(2.0), C(3)) == 32.0
    assert call(f, C(2.0), C(0)) == 2.0


def test_222_break_and_continue(call):
    def f(x, n):
        y = x
        for i in range(counted(n, call)):
            if i >= 2:
                break
            y = y * 2
        for i in range(counted(n, call)):
            if i % 2 == 0:
                continue
            y = y * 2
            if y >= 16:
                break
        return y

    assert call(f, C(2.0), C(6)) == 16.0
    assert call(lambda x, n: derivative(lambda v: f(v, n))(x), C(2.0), C(6)) == 8.0


def test_222_inner_bound_is_the_outer_index(call):
    def f(x, n):
        s = x * 0
        for i in range(counted(n, call)):
            for j in range(i):
                s = s + x * j
        return s

    assert call(f, C(2.0), C(4)) == 8.0


def test_223_return_inside_a_loop(call):
    """A wart: TensorFlow refuses it."""

    def f(x, n):
        for i in range(counted(n, call)):
            x = x * 2
            if x > 10:
                return x + i
        return -x

    assert call(f, C(2.0), C(10)) == 18.0
    assert call(f, C(2.0), C(1)) == -4.0
    assert call(lambda x, n: derivative(lambda v: f(v, n))(x), C(2.0), C(10)) == 8.0


def test_224_expressions(call):
    def f(x):
        y = x if x > 0 else -x
        inside = x > -2 and x < 2
        return y if inside or not x > -3 else y * 0, 1.0 if 0 < x < 2 else 0.0

    assert call(f, C(-1.0)) == [1.0, 0.0]
    assert call(f, C(1.5)) == [1.5, 1.0]
    assert call(f, C(3.0)) == [0.0, 0.0]
    assert call(f, C(-4.0)) == [4.0, 0.0]


def test_224_and_looks_at_its_right_side_only_if_needed(call):
    def f(x, k):
        while k < 3 and x[k] > 0:
            k = k + 1
        return k

    assert call(f, C([1.0, 1.0, 1.0]), C(0)) == 3
    assert call(f, C([1.0, -1.0, 1.0]), C(0)) == 1


def refused(call, error, match, f, *args):
    if call.is_staged:
        with pytest.raises(error, match=match):
            call(f, *args)
    else:
        with tp.GradientTape() as tape:  # Python runs it as it is
            tape.watch(args[0])
            f(*[int(a) if a.dtype.kind == "i" else a for a in args])


def test_225_one_branch_only(call):
    def f(x):
        if x > 0:
            y = x
        return y

    refused(call, ValueError, r"'y' in the 'if' at .*test_staged_control.py:\d+ is assigned in one .*'else'", f, C(1.0))


def test_226_return_on_one_path_only(call):
    def f(x):
        if x > 0:
            return x

    refused(call, ValueError, r"test_staged_control.py:\d+ returns a value when it is true only", f, C(1.0))


def test_227_types_that_change(call):
    def dtype(x, n):
        for _ in range(n):
            x = tp.cast(x, tp.float64)
        return x

    def shape(x, n):
        for _ in range(n):
            x = tp.concatenate([x, x])
        return x

    refused(call, TypeError, r"test_staged_control.py:\d+: 'x' is f32\[\] before .* f64\[\] after", dtype, C(1.0), C(3))
    refused(call, ValueError, r"'x' is f32\[1\] before .* f32\[2\] after.*shape", shape, C([1.0]), C(3))


def test_228_vector_condition(call):
    def f(x):
        if x > 0:
            return x
        return -x

    with pytest.raises(
        ValueError, match="ambiguous" if not call.is_staged else r"'if x > 0:' at .* shape \[2\].*tp.any"
    ):
        call(f, C([1.0, 2.0]))


def test_229_a_list_in_a_staged_loop(call):
    """A wart: TensorFlow traces the append once."""

    def f(x, n):
        out = []
        for _ in range(n):
            out.append(x)
        return out

    refused(call, ValueError, r"'out', a list, is changed in the 'for' at .*tp.zeros", f, C(1.0), C(3))


def test_230_python_loops_are_unrolled(call):
    def f(x, factors):
        for k in factors:
            x = x * k
        return x

    assert call(lambda x: f(x, [2.0, 3.0]), C(1.0)) == 6.0
    assert call(lambda x: f(x, range(1, 4)), C(1.0)) == 6.0


def test_231_assert(call):
    def f(x):
        assert x > 0, "must be positive"
        return x

    assert plain(call(f, C(1.0))) == 1.0
    with pytest.raises(AssertionError, match="must be positive"):
        call(f, C(-1.0))


def test_232_errors_show_the_users_lines(call):
    def f(x):
        if x > 0:
            return tp.matmul(x, x, x)  # the line in question
        return x

    with pytest.raises(TypeError) as caught:
        call(f, C(1.0))
    shown = [str(entry.statement) for entry in caught.traceback]
    assert any("the line in question" in line for line in shown)
