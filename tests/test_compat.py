"""TensorFlow's names do what TensorFlow documents for them."""

import numpy as np
import pytest

import tapefuse as tp
from tapefuse.compat import tensorflow as tf

A = np.array([[1.0, -2.0, 3.0], [4.0, 5.0, -6.0]], np.float32)
CASES = {
    "constant of a shape": (lambda: tf.constant(2, shape=(2, 2)), np.full((2, 2), 2, np.int32)),
    "constant reshaped": (lambda: tf.constant([1, 2, 3, 4], tf.float32, (2, 2)), [[1.0, 2.0], [3.0, 4.0]]),
    "zeros": (lambda: tf.zeros(2), np.zeros(2, np.float32)),
    "ones": (lambda: tf.ones((1, 2), dtype=tf.int32), np.ones((1, 2), np.int32)),
    "fill": (lambda: tf.fill([2, 1], 7.0), np.full((2, 1), 7, np.float32)),
    "eye": (lambda: tf.eye(2), np.eye(2, dtype=np.float32)),
    "range": (lambda: tf.range(3), np.arange(3, dtype=np.int32)),
    "range of floats": (lambda: tf.range(1.0, 2.0, 0.5), np.array([1, 1.5], np.float32)),
    "linspace": (lambda: tf.linspace(0.0, 1.0, 3), np.array([0, 0.5, 1], np.float32)),
    "cast": (lambda: tf.cast(A, tf.int32), A.astype(np.int32)),
    "concat": (lambda: tf.concat([A, A], axis=1), np.concatenate([A, A], 1)),
    "stack": (lambda: tf.stack([A, A]), np.stack([A, A])),
    "transpose": (lambda: tf.transpose(A, perm=[1, 0]), A.T),
    "matmul": (lambda: tf.matmul(A, A, transpose_b=True), A @ A.T),
    "matmul of a transposed": (lambda: tf.matmul(A, A, transpose_a=True), A.T @ A),
    "gather": (lambda: tf.gather(A, [2, 0], axis=1), A[:, [2, 0]]),
    "one_hot": (lambda: tf.one_hot([2, 0, 5], 3), np.array([[0, 0, 1], [1, 0, 0], [0, 0, 0]], np.float32)),
    "argmax of columns": (lambda: tf.argmax(A), np.array([1, 1, 0])),
    "clip_by_value": (lambda: tf.clip_by_value(A, 0.0, 3.0), np.clip(A, 0, 3)),
    "clip_by_norm": (lambda: tf.clip_by_norm([3.0, 4.0], 1.0), np.array([0.6, 0.8], np.float32)),
    "reduce_sum": (lambda: tf.reduce_sum(A, axis=[0, 1]), A.sum()),
    "reduce_mean": (lambda: tf.reduce_mean(A, 1, keepdims=True), A.mean(1, keepdims=True)),
    "reduce_max": (lambda: tf.reduce_max(A, axis=0), A.max(0)),
    "reduce_any": (lambda: tf.reduce_any(A > 4, axis=1), np.array([False, True])),
    "reduce_logsumexp": (lambda: tf.math.reduce_logsumexp([1000.0, 1000.0]), np.float32(1000 + np.log(2))),
    "reduce_std": (lambda: tf.math.reduce_std(A), A.std()),
    "divide_no_nan": (lambda: tf.math.divide_no_nan([1.0, 2.0], [0.0, 4.0]), np.array([0, 0.5], np.float32)),
    "squared_difference": (lambda: tf.math.squared_difference(5.0, 2.0), np.float32(9)),
    "where": (lambda: tf.where(A > 0, A, 0.0), np.where(A > 0, A, np.float32(0))),
    "floormod": (lambda: tf.math.floormod(-7, 3), np.int32(2)),
    "softmax": (lambda: tf.nn.softmax([0.0, 0.0]), np.array([0.5, 0.5], np.float32)),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("compiled", [False, True])
def test_values_and_dtypes(case, compiled):
    run, wanted = CASES[case]
    got = np.asarray((tf.function(run) if compiled else run)())
    wanted = np.asarray(wanted, got.dtype if isinstance(wanted, list) else None)
    assert got.dtype == wanted.dtype
    assert got.shape == wanted.shape
    np.testing.assert_allclose(got, wanted, rtol=1e-6)


def test_cross_entropies_take_labels_first():
    logits = tf.constant([[1.0, 2.0, 3.0]])
    sparse = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=[2], logits=logits)
    dense = tf.nn.softmax_cross_entropy_with_logits(labels=[[0.0, 0.0, 1.0]], logits=logits)
    np.testing.assert_allclose(sparse, [0.4076], rtol=1e-4)
    np.testing.assert_allclose(dense, sparse, rtol=1e-6)


def test_random_numbers_are_seeded_and_new_in_each_call():
    tf.random.set_seed(3)
    one = tf.random.normal((4,)).numpy()
    tf.random.set_seed(3)
    np.testing.assert_array_equal(tf.random.normal((4,)), one)
    assert tf.random.normal((2, 2)).dtype == tf.float32
    np.testing.assert_array_equal(tf.random.uniform((3,), seed=1), tf.random.uniform((3,), seed=1))
    compiled = tf.function(lambda: tf.random.normal((2,)))
    assert not np.array_equal(compiled(), compiled())


def test_divide_no_nan_has_a_finite_gradient():  # 139
    x, y = tf.constant(7.0), tf.constant(2.0)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([x, y])
        z = tf.math.divide_no_nan(x, y)
        nothing = tf.math.divide_no_nan(x, y - 2)
    assert [g.item() for g in tape.gradient(z, [x, y])] == [0.5, -1.75]
    assert [g.item() for g in tape.gradient(nothing, [x, y])] == [0.0, 0.0]


def test_identity_is_a_source_of_its_own():  # 51
    x = tf.constant(3.0)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        y = tf.identity(x)
        z = x * y
    assert tape.gradient(z, y).item() == 3.0
    assert tape.gradient(z, x).item() == 6.0


def test_a_keras_style_training_loop_learns():
    layer, optimizer = tf.keras.layers.Dense(1, kernel_initializer="zeros"), tf.keras.optimizers.SGD(0.1)
    x = np.random.default_rng(0).normal(size=(50, 2)).astype(np.float32)
    y = x @ np.array([[2.0], [-1.0]], np.float32) + 0.5

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((layer(x) - y) ** 2)
        gradients = tape.gradient(loss, layer.trainable_variables)
        optimizer.apply_gradients(zip(gradients, layer.trainable_variables, strict=True))
        return loss

    for _ in range(100):
        step()
    np.testing.assert_allclose(layer.kernel, [[2.0], [-1.0]], atol=1e-2)
    np.testing.assert_allclose(layer.bias, [0.5], atol=1e-2)


@pytest.mark.parametrize("stage", [lambda f: f, tp.tape_function], ids=["eager", "staged"])
class TestControlFlow:
    def test_case(self, stage):
        f = lambda x: tf.case([(x < 0.0, lambda: -x), (x < 1.0, lambda: x * 10)], default=lambda: x * 100)
        assert [stage(f)(tf.constant(x)).numpy() for x in (-2.0, 0.5, 3.0)] == [2.0, 5.0, 300.0]
        g = lambda x: tf.case([(x < 0.0, lambda: -x), (x < 1.0, lambda: x * 10)])  # the last one is the default
        assert stage(g)(tf.constant(3.0)).numpy() == 30.0
        with pytest.raises(ValueError, match="has no pairs"):
            tf.case([])

    def test_cond(self, stage):
        f = lambda x: tf.cond(x < 0.0, lambda: -x, lambda: x)
        assert stage(f)(tf.constant(-2.0)).numpy() == 2.0

    def test_switch_case(self, stage):
        f = lambda k: tf.switch_case(k, [lambda: 1.0, lambda: 2.0], default=lambda: 0.0)
        assert [stage(f)(tf.constant(k)).numpy() for k in (-1, 0, 1, 2)] == [0.0, 1.0, 2.0, 0.0]
        g = lambda k: tf.switch_case(k, {3: lambda: 3.0, 7: lambda: 7.0})
        assert [stage(g)(tf.constant(k)).numpy() for k in (3, 7, 5)] == [3.0, 7.0, 7.0]

    def test_tensor_array(self, stage):
        def f(x):
            array = tf.TensorArray(tf.float32, size=3).unstack(x)
            other = tf.TensorArray(tf.float32, size=3, element_shape=[2]).scatter([0, 2], x[:2]).write(1, x[0] * 2)
            return array.stack(), other.concat(), other.gather([2, 0]), array.size(), other.read(1)

        x = np.arange(6, dtype=np.float32).reshape(3, 2)
        stack, concat, gather, size, read = stage(f)(x)
        assert stack.numpy().tolist() == x.tolist()
        assert concat.numpy().tolist() == [0, 1, 0, 2, 2, 3]
        assert gather.numpy().tolist() == [[2, 3], [0, 1]]
        assert (size.numpy(), read.numpy().tolist()) == (3, [0, 2])

    def test_tensor_array_mistakes(self, stage):
        array = tf.TensorArray(tf.float32, size=2)
        with pytest.raises(ValueError, match="nothing was written"):
            array.stack()
        with pytest.raises(IndexError, match="index 2 of 2 elements"):
            stage(lambda x: array.write(2, x).stack())(tf.constant(1.0))
        with pytest.raises(TypeError, match=r"i32\[\] into an array of float32; use tf.cast"):
            stage(lambda x: array.write(0, x).stack())(tf.constant(1))
        with pytest.raises(ValueError, match=r"an element of shape \[2\], but others have \[\]"):
            stage(lambda x: array.write(0, x[0]).write(1, x).stack())(tf.constant([1.0, 2.0]))

    def test_a_growing_tensor_array(self, stage):
        array = tf.TensorArray(tf.float32, size=0, dynamic_size=True)
        f = lambda x: array.write(0, x).write(2, x * 2).stack()
        assert stage(f)(tf.constant(1.0)).numpy().tolist() == [1.0, 0.0, 2.0]
        assert len(array) == 0
