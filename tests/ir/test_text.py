"""print -> parse -> print is the identity, whatever is in the graph; text that is no IR is a ParseError."""

from __future__ import annotations

import random
import re
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tapefuse._errors import ParseError
from tapefuse.ir import ops
from tapefuse.ir.graph import Graph, Loc, Value, here, param
from tapefuse.ir.op import OPS, Literal, Op, constant
from tapefuse.ir.parse import parse
from tapefuse.ir.print import show
from tapefuse.ir.types import Poly, Type, type_of
from tapefuse.ir.verify import verify

F32, F64, I64 = np.dtype("f4"), np.dtype("f8"), np.dtype("i8")
B = Poly.symbol("B")

MODEL = """\
fn main(%x: f32[B,784], %w: f32[784,10]) {
  %0 = matmul %x, %w : f32[B,10]  # model.py:12
  %1 = mul %0, f32(2.0) : f32[B,10]
  %2 = reduce_sum %1 axes=(1) : f32[B]  # model.py:13
  return %2
}"""


def back(graph: Graph) -> Graph:
    """The graph read from its own text, after checking that this prints the same text."""
    text = show(graph)
    again = verify(parse(text))
    assert show(again) == text
    return again


def one_line(v: Value, *params: Value) -> str:
    return show(Graph(params, (v,))).splitlines()[1].strip()


# -- printing and parsing back ----------------------------------------------------------------------------------------


def test_the_text_of_a_graph() -> None:
    graph = parse(MODEL)
    assert str(graph) == show(graph) == MODEL
    assert show(graph, locs=False) == re.sub(r"  # .*", "", MODEL)
    assert [p.name for p in graph.params] == ["x", "w"]
    assert [str(v.loc) for v in graph.nodes if v.args] == ["model.py:12", "None", "model.py:13"]


def test_comments_blank_lines_and_own_names_are_free() -> None:
    text = """
        # a model
        fn main(   %x : f32[ B , 784 ],
                %w: f32[784,10]) {   # two parameters
          %hidden = matmul %x, %w : f32[B,10]  # model.py:12

          %twice = mul %hidden, f32( 2.0 ) : f32[B,10]  # no location here
          %sum = reduce_sum %twice axes = ( 1 ) : f32[B] # model.py:13
          return %sum
        }
        # the end"""
    assert show(parse(text)) == MODEL


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (np.float32(2), "f32(2.0)"),
        (np.float32(0.1), "f32(0.1)"),
        (np.float64(0.1), "f64(0.1)"),
        (np.float16(0.1), "f16(0.1)"),
        (np.float32(-0.0), "f32(-0.0)"),
        (np.float32(np.inf), "f32(inf)"),
        (np.float64(-np.inf), "f64(-inf)"),
        (np.float32(np.nan), "f32(nan)"),
        (np.float64(5e-324), "f64(5e-324)"),
        (np.float32(1e-45), "f32(1e-45)"),
        (np.float64(1.7976931348623157e308), "f64(1.7976931348623157e+308)"),
        (np.frombuffer(struct.pack("<I", 0x7FC00001), "<f4")[0], "f32(0x0100c07f)"),
        (np.bool_(True), "bool(True)"),
        (np.int8(-128), "i8(-128)"),
        (np.uint64(2**64 - 1), "u64(18446744073709551615)"),
        (np.complex64(0.1 - 2j), "c64(0.1-2.0j)"),
        (np.complex128(complex(-0.0, np.inf)), "c128(-0.0+infj)"),
        (np.complex128(complex(np.nan, 5e-324)), "c128(nan+5e-324j)"),
    ],
)
def test_scalars(value: np.generic, text: str) -> None:
    v = constant(value)
    assert show(Graph((), (v,))) == f"fn main() {{\n  return {text}\n}}"
    assert back(Graph((), (v,))).outs == (v,)


@pytest.mark.parametrize(
    "array",
    [
        np.array([[1.5, -0.0], [np.nan, np.inf]], "f4"),
        np.zeros((0, 3), "i4"),
        np.array([True, False]),
        np.arange(1000, dtype="f8").reshape(10, 100),
        np.array([np.nan, -np.nan], "f4"),
        np.array([1 + 2j]),
        np.frombuffer(bytes(range(256)), "<f4"),
    ],
)
def test_array_constants_keep_their_bits(array: np.ndarray) -> None:
    v = constant(array)
    assert back(Graph((), (v,))).outs == (v,)


@pytest.mark.parametrize(
    ("attr", "text"),
    [
        (3, "3"),
        (-3, "-3"),
        (True, "True"),
        (None, "None"),
        (0.5, "0.5"),
        (1e300, "1e+300"),
        (-np.inf, "-inf"),
        ("plain", '"plain"'),
        ('a "quote"\n\\ # %x é\u202e', '"a \\"quote\\"\\n\\\\ # %x \\u00e9\\u202e"'),
        ((), "()"),
        ((1,), "(1)"),
        ((1, (B, "x"), None), '(1,(B,"x"),None)'),
        (2 * B * B - B + 1, "2*B*B-B+1"),
        (-B, "-B"),
        (Poly.symbol("f32") + 1, "dim(f32+1)"),
        (Poly.symbol("dim"), "dim"),
        (Poly.symbol("None"), "dim(None)"),
        (F32, "f32"),
        (np.dtype(bool), "bool"),
        (np.float32(0.1), "f32(0.1)"),
        (Literal(np.array([1, 2], "i4")), "i32[2](1, 2)"),
        (Literal(np.float32(1)), "f32[](1.0)"),
    ],
)
def test_attributes(attr: object, text: str) -> None:
    x = param(Type(F32, ()), "x")
    sizes = param(Type(F32, tuple(map(Poly.symbol, ("B", "f32", "dim", "None")))), "sizes")
    v = ops.missing_gradient.emit(x, name=attr)
    assert one_line(v, x, sizes) == f"%0 = missing_gradient %x name={text} : f32[]"
    found = back(Graph((x, sizes), (v,))).outs[0].attributes["name"]
    assert type(found) is type(attr) and found == attr


def test_an_attribute_without_text_is_refused() -> None:
    x = param(Type(F32, ()))
    with pytest.raises(TypeError, match="frozenset has no text form"):
        show(Graph((x,), (ops.missing_gradient.emit(x, name=frozenset()),)))


HOSTILE = [
    "", " ", "a b", "a\nb", 'x"', "x'; import os", "%0", "1x", "x%y", "fn", "return", "return %x", "} fn evil() {",
    "# model.py:3", "a" * 1_000_000, "\x00", "\u202eabc", "</script>", "__import__('os')", "x: f32[]",
    "é", "x,", "-", "0",
]  # fmt: skip


def test_names_of_parameters() -> None:
    """Identifiers are kept and made unique; all others are dropped and cannot change what the text says."""
    for name in HOSTILE:
        x = param(Type(F32, (3,)), name)
        y = param(Type(F32, (3,)), name)
        graph = Graph((x, y), (ops.add(x, y),), name)
        assert len(show(graph)) < 300
        again = back(graph)
        assert [p.type for p in again.params] == [x.type, y.type] and again.nodes[0].args == again.params
    params = [param(Type(F32, ()), n) for n in ("x", "x", "x_1", None, "return")]
    assert show(Graph(tuple(params), ())).splitlines()[0] == (
        "fn main(%x: f32[], %x_1: f32[], %x_1_1: f32[], %0: f32[], %return: f32[]) {"
    )
    back(Graph(tuple(params), ()))


FILES = ["model.py", "a b.py", 'q"uote.py', '"x".py', "new\nline.py", " lead.py", "a:3", "C:\\m.py", "#.py", ""]


@pytest.mark.parametrize("file", FILES)
def test_locations(file: str) -> None:
    x = param(Type(F32, (3,)), "x")
    here.loc = Loc(file, 12)
    try:
        v = ops.exp(x)
    finally:
        here.loc = None
    assert back(Graph((x,), (v,))).nodes[0].loc == Loc(file, 12)


def test_values_without_parameters_are_shared_and_still_print_the_same() -> None:
    """`iota` made long ago keeps its place before the first user, wherever the graph was built."""
    old = ops.iota.emit(shape=(3,), axis=0, dtype=F32)
    x = param(Type(F32, (3,)), "x")
    y = ops.exp(x)
    twice = ops.add(old, old)
    graph = Graph((x,), (ops.mul(y, twice), old))
    assert [line.split()[2] for line in show(graph).splitlines()[1:-2]] == ["exp", "iota", "add", "mul"]
    back(graph)


def test_long_headers_are_wrapped() -> None:
    params = tuple(param(Type(F32, (100, 200)), f"parameter_{k}") for k in range(50))
    text = show(back(Graph(params, params[:1])))
    assert max(map(len, text.splitlines())) < 120


def test_long_chains_print_and_parse() -> None:
    x = y = param(Type(F32, ()), "x")
    for _ in range(10_000):
        y = ops.sin(y)
    assert len(back(Graph((x,), (y,))).nodes) == 10_000


def test_the_sign_of_a_zero_attribute_counts() -> None:
    x = param(Type(F32, (3,)), "x")
    attrs = {"low": (1,), "high": (0,), "interior": (0,)}
    a, b = ops.pad.emit(x, value=0.0, **attrs), ops.pad.emit(x, value=-0.0, **attrs)
    assert show(back(Graph((x,), (a, b)))).count("value=-0.0") == 1
    assert ops.pad.emit(x, value=np.nan, **attrs) is ops.pad.emit(x, value=float("nan"), **attrs)


# -- random graphs ----------------------------------------------------------------------------------------------------


def describe(v: Value) -> str:
    return f"{v.op} {v.attrs} {v.type}"


def random_graph(rng: random.Random) -> Graph:
    """Elementwise and shape ops over a few parameters of one symbolic shape, with constants and locations."""
    shape = (B, 3)
    params = [param(Type(F32, shape), rng.choice(["x", "y", "weird name", None])) for _ in range(rng.randint(1, 3))]
    scalar = constant(np.float32(rng.choice([0.1, -0.0, np.inf, 3])))
    pool: list[Value] = [*params, scalar, ops.iota.emit(shape=shape, axis=1, dtype=F32)]
    for k in range(rng.randint(0, 12)):
        here.loc = Loc(rng.choice(["a.py", "b c.py"]), k) if rng.random() < 0.5 else None
        a, b = rng.choice(pool), rng.choice(pool)
        binary = rng.choice([ops.add, ops.mul, ops.maximum])
        made = [ops.tanh(a), binary(a, b), ops.cast(ops.cast(a, dtype=I64), dtype=F32)]
        if a.shape == shape:
            made.append(ops.reshape(ops.transpose(a, perm=(1, 0)), shape=shape))
            made.append(ops.broadcast(ops.reduce_sum(a, axes=(1,)), shape=shape, axes=(0,)))
        pool.append(rng.choice(made))
    here.loc = None
    return Graph(tuple(params), tuple(rng.choices(pool, k=rng.randint(0, 3))), rng.choice(["main", "f", "no name"]))


@pytest.mark.parametrize("op", OPS.values(), ids=lambda op: op.name)
def test_all_ops(op: Op) -> None:
    dtype = np.dtype({"f": "f4", "c": "c8", "i": "i8", "u": "u1", "b": "?"}[op.dtypes[0]])
    for args, attrs in op.sample(np.random.default_rng(0), dtype):
        params = tuple(param(type_of(a)) for a in args)
        back(Graph(params, (op.emit(*params, **attrs), op.emit(*args, **attrs))))


@settings(max_examples=150)
@given(st.integers(0, 2**32))
def test_random_graphs(seed: int) -> None:
    graph = random_graph(random.Random(seed))
    again = back(graph)
    assert sorted(map(describe, again.nodes)) == sorted(map(describe, graph.nodes))


# -- text that is no IR -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1, column 1: expected 'fn', found the end"),
        ("def f(): pass", "line 1, column 1: expected 'fn', found 'def'"),
        ("fn main(%x: f32[B) {}", r"line 1, column 13: expected a type such as f32\[B,10\], found 'f32\[B\)'"),
        ("fn main(%x: f33[]) {}", "line 1, column 13: 'f33' is not a dtype"),
        ("fn main(%x: f32[B**2]) {}", "line 1, column 13: .*is not a dimension"),
        ("fn main(%x: f32[], %x: f32[]) {}", "line 1, column 20: %x is defined twice"),
        ("fn main() {\n  return %y\n}", "line 2, column 10: %y is used before it is defined"),
        ("fn main() {\n  return\n", "line 3, column 1: expected an operand such as %x or f32"),
        ("fn main() { return } tail", "line 1, column 22: expected the end of the text, found 'tail'"),
        ("fn main() {\n  %0 = boom : f32[]\n  return %0\n}", "line 2, column 8: there is no op 'boom'"),
        ("fn main(%x: f32[2]) {\n  %0 = exp %x : f32[3]\n return %0 }",
         r"line 2, column 17: exp gives f32\[2\], the text says f32\[3\]"),
        ("fn main(%x: f32[2], %y: f32[3]) {\n  %0 = add %x, %y : f32[2]\n return }",
         r"line 2, column 5: add.*do not broadcast"),
        ("fn main(%x: f32[2]) { %0 = exp %x axis=1 : f32[2] return }", "not accepted here"),
        ("fn main(%x: f32[2]) { %0 = reshape %x shape=3 : f32[2] return }", "not accepted here"),
        ("fn main(%x: f32[2]) { %0 = flip %x axes=(0) axes=(0) : f32[2] return }", "given twice"),
        ("fn main() { return f32(abc) }", "column 20: not accepted here"),
        ("fn main() { return bool(1) }", "'1' is not True or False"),
        ("fn main() { return i8(300) }", "OverflowError"),
        ("fn main() { return f32(0x00) }", "not accepted here"),
        ("fn main() { %0 = const value=f32[99999999999](1.0) : f32[2] return }", "expected 99999999999 elements"),
        ("fn main() { %0 = const value=f32[B](1.0) : f32[2] return }", "non-negative integers"),
        ("fn main() { %0 = const value=" + "(" * 5000 + " : f32[2] return }", "nested more than 100 deep"),
        ("fn main() { %0 = const value=" + "9" * 5000 + " : f32[2] return }", "not accepted here"),
        ("fn main() { %0 = const value=\"open\n : f32[2] return }", "expected a closed string"),
        ("fn main() { %0 = const value= : f32[2] return }", "expected an attribute"),
        ("fn main() { %0 = const value=1..2 : f32[2] return }", "is not a dimension"),
    ],
)  # fmt: skip
def test_errors_say_where_and_what(text: str, message: str) -> None:
    with pytest.raises(ParseError, match=message):
        parse(text)


DAMAGE = ["", "(", ")", "%", "1", "x", '"', "\n", ",", "f32", "-", "[", "=", ":", "\x00", "é"]


@settings(max_examples=300)
@given(st.integers(0, 2**32))
def test_damaged_text_is_a_parse_error_or_a_graph(seed: int) -> None:
    rng = random.Random(seed)
    text = list(show(random_graph(rng)) if rng.random() < 0.7 else MODEL)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(text))
        text[at : at + rng.randint(0, 3)] = rng.choice(DAMAGE)
    try:
        graph = parse("".join(text))
    except ParseError:
        return
    back(graph)
