"""Sections 3 and 5: gradient(target, sources), unconnected_gradients, output_gradients."""

from typing import NamedTuple

import numpy as np
import pytest

import tapefuse as tp
from tests.tape_semantics.helpers import C, close, plain, taped


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


def test_057_only_tensors_are_targets():
    """Deliberate difference: there are no ragged or composite tensors; what is none is named."""
    x = tp.Variable(1.0)
    with tp.GradientTape() as tape:
        y = x * 2
    with pytest.raises(TypeError, match=r"target\[1\] is a object"):
        tape.gradient([y, object()], x)
    assert plain(tape.gradient({"values": [y], "more": (y,)}, x)) == 4.0


def test_082_seeds_are_checked_in_traced_functions_too(run):
    def f(seeds):
        def g(x):
            tape, ys = taped(lambda x: [x * 2, x * 3], x)
            return tape.gradient(ys, x, output_gradients=seeds)

        return g

    assert run(f([1.0, 10.0]), C(1.0)) == 32.0
    with pytest.raises(ValueError, match="1 entries for 2 targets"):
        run(f([1.0]), C(1.0))
    with pytest.raises(TypeError, match="dtype"):
        run(f([1.0, C(1.0, np.float64)]), C(1.0))
