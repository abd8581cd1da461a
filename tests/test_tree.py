"""Nested containers to flat lists and back."""

from collections import OrderedDict, namedtuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tapefuse as tp
from tapefuse._tree import Container, flatten, leaves_with_paths, tree_map, unflatten

Point = namedtuple("Point", "x y")

trees = st.recursive(
    st.integers() | st.none(),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(st.text(max_size=2), inner, max_size=3),
        st.tuples(inner, inner).map(lambda t: Point(*t)),
    ),
    max_leaves=12,
)


@given(trees)
def test_there_and_back(tree):
    leaves, shape = flatten(tree)
    assert unflatten(shape, leaves) == tree
    assert shape.n_leaves == len(leaves)
    assert [leaf for _, leaf in leaves_with_paths(tree)] == leaves
    assert flatten(tree_map(str, tree)) == (list(map(str, leaves)), shape)


@given(st.dictionaries(st.text(max_size=2) | st.integers(), st.integers(), max_size=4))
def test_order_of_keys_does_not_matter(tree):
    backwards = dict(reversed(tree.items()))
    assert flatten(tree) == flatten(backwards)
    assert hash(flatten(tree)[1]) == hash(flatten(backwards)[1])
    assert list(tree_map(str, backwards)) == list(backwards)


def test_shapes_differ_by_kind_length_and_keys():
    shapes = [flatten(t)[1] for t in ([1, 2], (1, 2), [1], {"a": 1}, {"b": 1}, None, [None], 1, Point(1, 2), [[1, 2]])]
    assert len(set(shapes)) == len(shapes)


def test_kinds_survive():
    tree = OrderedDict(b=Point(1, [2]), a=(3,))
    assert tree_map(str, tree) == OrderedDict(b=Point("1", ["2"]), a=("3",))
    assert type(tree_map(str, tree)) is OrderedDict
    assert type(tree_map(str, tree)["b"]) is Point


def test_paths_are_python():
    tree = {"w": [1, Point(2, None)], 3: ({"k": 4},)}
    paths = [path for path, _ in leaves_with_paths(tree, "tree")]
    assert paths == ["tree[3][0]['k']", "tree['w'][0]", "tree['w'][1].x"]
    assert [eval(path, {"tree": tree}) for path in paths] == flatten(tree)[0]


@pytest.mark.parametrize("leaves", [[1], [1, 2, 3]])
def test_wrong_number_of_leaves(leaves):
    with pytest.raises(ValueError, match="needs 2 leaves"):
        unflatten(flatten([0, 0])[1], leaves)


def test_text():
    assert str(flatten({"a": [1, (2,)], "b": None})[1]) == "{'a': [*, (*,)], 'b': None}"


class Pair(Container):
    """Two entries and a name."""

    def __init__(self, name, *entries):
        self.name, self.entries = name, entries

    def parts(self):
        return (self.name,), self.entries

    @classmethod
    def of_parts(cls, fixed, entries):
        return cls(*fixed, *entries)


def test_containers_of_other_classes():
    pair = Pair("p", 1, [2, None])
    leaves, shape = flatten({"a": pair})
    assert leaves == [1, 2]
    again = unflatten(shape, [10, 20])["a"]
    assert (type(again), again.name, again.entries) == (Pair, "p", (10, [20, None]))
    assert shape == flatten({"a": Pair("p", 3, [4, None])})[1] != flatten({"a": Pair("q", 3, [4, None])})[1]
    assert str(flatten(pair)[1]) == "Pair(p, *, [*, None])"
    assert list(leaves_with_paths([pair])) == [("[0]", 1), ("[0][0]", 2)]


def test_containers_that_do_not_say_what_they_hold():
    class Unsaid(Container):
        pass

    with pytest.raises(TypeError, match="Unsaid does not say what it holds: .* `parts`"):
        flatten(Unsaid())
    with pytest.raises(TypeError, match="Unsaid does not say how it is made of entries: .* `of_parts`"):
        Unsaid.of_parts((), [])


def test_a_loop_that_fills_a_container_which_cannot_be_empty():
    def body(carry):
        return carry[0] + 1, Pair("p", tp.ones(3))

    with pytest.raises(ValueError, match=r"the carry is .*None.* return the structure that init has"):
        tp.while_loop(lambda carry: carry[0] < 3, body, (tp.constant(0), Pair("p", None)))
