"""Tensors and variables as Python objects: construction, conversion, printing, immutability, copies, pickles."""

import copy
import pickle

import numpy as np
import pytest

import tapefuse as tp
from tapefuse.tracer.arrays import normal
from tapefuse.tracer.tensor import key_of


def test_print():
    assert repr(tp.constant(6.0)) == "tp.Tensor(6.0, shape=(), dtype=float32)"
    assert str(tp.constant([1.0, 2.0])) == "tp.Tensor([1. 2.], shape=(2,), dtype=float32)"
    assert repr(tp.constant(0.1, np.float64) * 3) == "tp.Tensor(0.30000000000000004, shape=(), dtype=float64)"
    assert repr(tp.Variable(1.0, name="w")) == "<tp.Variable 'w' shape=() dtype=float32, numpy=1.0>"
    assert "numpy=array([1, 2], dtype=int32)" in repr(tp.Variable([1, 2]))
    assert f"{tp.constant(1.2345):.2f} {tp.Variable(2.0):.1f}" == "1.23 2.0"


def test_constant_copies():
    x = np.ones(3)
    t = tp.constant(x)
    x[:] = 2
    assert t.tolist() == [1.0] * 3
    view = np.asarray(t)
    with pytest.raises(ValueError, match="read-only"):
        view[0] = 5
    own = t.numpy()
    own[0] = 5
    assert t.tolist() == [1.0] * 3
    assert type(tp.constant(1.0).numpy()) is np.float32


def test_constant_of_everything():
    assert tp.constant([1, 2.5]).dtype == np.float32
    assert tp.constant([]).dtype == np.float32
    assert tp.constant([[True], [False]]).dtype == np.bool_
    assert tp.constant([np.float64(1), 2]).dtype == np.float64
    assert tp.constant(3, np.float64).dtype == np.float64
    assert tp.constant(tp.constant(3), "f4").dtype == np.float32
    assert tp.constant([tp.constant(1.0), tp.constant(2.0)]).tolist() == [1.0, 2.0]
    assert tp.constant(range(3)).tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match="inhomogeneous"):
        tp.constant([[1.0], [1.0, 2.0]])
    with pytest.raises(TypeError, match="tensors hold"):
        tp.constant("text")


def test_conversions():
    x = tp.constant([[1.5]])
    assert (float(x), int(x), bool(x), x.item(), x.tolist()) == (1.5, 1, True, 1.5, [[1.5]])
    assert [10, 20, 30][tp.constant(1)] == 20
    assert list(tp.constant([1, 2])) == [1, 2]
    for broken in (len, iter):
        with pytest.raises(TypeError, match=r"shape \(\)"):
            broken(tp.constant(1.0))
    with pytest.raises(ValueError, match="2 elements"):
        tp.constant([1.0, 2.0]).item()


def test_copies_and_pickles():
    x, v = tp.constant([1.0]), tp.Variable([1.0], name="v")
    for twin in (x.copy(), copy.copy(x), copy.deepcopy(x)):
        twin[0] = 2.0
        assert (x.tolist(), twin.tolist()) == ([1.0], [2.0])
    assert pickle.loads(pickle.dumps(x)).tolist() == [1.0]
    twin = pickle.loads(pickle.dumps(v))
    twin.assign([2.0])
    assert (twin.name, v.tolist()) == ("v", [1.0])


def test_identity_is_lazy():
    x = tp.constant(1.0)
    assert not hasattr(x, "_key")
    assert key_of(x) == key_of(x) != key_of(tp.constant(1.0))


@pytest.mark.parametrize("x", [np.ones((2, 3), ">f8").T, np.float32(1), np.ones(3)[::-1]])
def test_normal_layout(x):
    y = normal(x)
    assert y.flags.c_contiguous and y.flags.aligned and y.dtype is np.dtype(y.dtype.type)
    np.testing.assert_array_equal(x, y)


def test_variable_storage_is_its_own():
    x = np.ones(3, np.float32)
    v = tp.Variable(x)
    x[:] = 2
    assert v.tolist() == [1.0] * 3
    t = v.read()
    assert t._array is v._array
    v.assign(t * 1)
    assert v._array.base is None
    v.assign(tp.constant(np.arange(6.0, dtype=np.float32)).reshape(2, 3)[1])
    assert v._array.base is None
    assert t.tolist() == [1.0] * 3


def test_variable_from_a_function():
    assert tp.Variable(lambda: tp.ones(2)).tolist() == [1.0, 1.0]
    assert tp.Variable(1, dtype=np.float64).dtype == np.float64


def test_variable_in_expressions():
    v = tp.Variable([1.0, 2.0])
    assert (v + 1).tolist() == [2.0, 3.0]
    assert (2 * v @ v).item() == 10.0
    assert (v[0], len(v), list(v)) == (1.0, 2, [1.0, 2.0])
    assert np.exp(v).dtype == np.float32
    assert v.sum().item() == 3.0
    v[0] = 3.0
    assert v.tolist() == [3.0, 2.0]


def test_assign_accepts_python_numbers():
    v, n = tp.Variable(1.0), tp.Variable(1)
    assert v.assign(2).item() == 2.0
    assert v.assign_sub(0.5).item() == 1.5
    assert n.assign_add(2).item() == 3
    with pytest.raises(TypeError, match=r"tp.cast\(value, v.dtype\)"):
        n.assign(1.5)
    with pytest.raises(ValueError, match=r"shape \[2\], the variable \[\]"):
        v.assign([1.0, 2.0])


def test_numpy_warns_of_nothing(recwarn):
    x = tp.constant([0.0, np.inf])
    tp.log(x), 1 / x, x - x, tp.sqrt(-x), x.astype(np.int32)
    assert not recwarn.list
