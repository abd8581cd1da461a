"""The observable behaviour of tapes: one test for each numbered line of the reference, named by its number.

Where tapefuse differs from TensorFlow on purpose, or a line calls TensorFlow's behaviour a wart, the test's docstring
says so.
"""

import numpy as np

import tapefuse as tp

C = tp.constant


def plain(tree):
    """Tensors as Python numbers and lists, None as it is, containers kept."""
    if isinstance(tree, dict):
        return {k: plain(v) for k, v in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [plain(v) for v in tree]
    return tree.tolist() if isinstance(tree, (tp.Tensor, tp.Variable, tp.IndexedRows)) else tree


def close(got, want):
    """Plain results agree within float32's precision."""
    flat = lambda t: [x for v in t for x in flat(v)] if isinstance(t, list) else [t]
    assert len(flat(got)) == len(flat(want)), (got, want)
    np.testing.assert_allclose(flat(got), flat(want), rtol=1e-5, atol=1e-6)


def taped(function, *xs):
    with tp.GradientTape(persistent=True) as tape:
        tape.watch(xs)
        y = function(*xs)
    return tape, y


def derivative(f):
    def df(x):
        with tp.GradientTape() as tape:
            tape.watch(x)
            y = f(x)
        return tape.gradient(y, x)

    return df


def slope(function, *xs):
    tape, y = taped(function, *xs)
    return plain(tape.gradient(y, list(xs) if len(xs) > 1 else xs[0]))
