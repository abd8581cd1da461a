"""The code cells of TensorFlow's guide and of an article about tapes run, and print what TensorFlow prints."""

import ast
import contextlib
import inspect
import io
import re
import warnings
from pathlib import Path

import pytest

from tapefuse.compat import tensorflow as tf

SEEDS = Path(__file__).parent / "seeds"
SPELLING = {"tf.Tensor": "tp.Tensor"}  # how the same thing is called here


def cells(document: str) -> list[tuple[str, str]]:
    """`(source, expected output)` of every cell."""
    _, *bodies = re.split(r"^# %%\n", (SEEDS / document).read_text(), flags=re.M)
    return [(body, expected(body)) for body in bodies]


def expected(body: str) -> str:
    theirs, ours = (re.findall(rf"^#{mark} ?(.*)$", body, flags=re.M) for mark in (">", "!"))
    return "\n".join(ours or theirs)


def run(source: str, scope: dict[str, object]) -> str:
    """What a notebook shows for a cell: what it prints, and the value of a last expression."""
    tree = ast.parse(source.replace("import tensorflow as tf", "from tapefuse.compat import tensorflow as tf"))
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(compile(tree, "<cell>", "exec"), scope)
        if last is not None:
            value = eval(compile(ast.Expression(last.value), "<cell>", "eval"), scope)
            if value is not None:
                print(repr(value))
    return out.getvalue().rstrip("\n")


def matches(want: str, got: str) -> bool:
    for theirs, ours in SPELLING.items():
        want = want.replace(theirs, ours)
    return re.fullmatch(".*".join(map(re.escape, want.split("..."))), got, flags=re.S) is not None


@pytest.mark.parametrize("document", ["guide.py", "blog.py"])
def test_237_238_every_cell_prints_what_tensorflow_prints(document):
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    scope: dict[str, object] = {}
    checked = 0
    for number, (source, want) in enumerate(cells(document), 1):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the guide watches an integer on purpose
            got = run(source, scope)
        if want:
            checked += 1
            assert matches(want, got), f"cell {number} of {document}:\n{source}\nprinted:\n{got}"
    assert checked == {"guide.py": 22, "blog.py": 6}[document]


def test_random_weights_of_the_guide_have_the_gradient_of_the_formula():
    w, b, x = tf.Variable(tf.random.normal((3, 2))), tf.Variable(tf.zeros(2)), [[1.0, 2.0, 3.0]]
    with tf.GradientTape() as tape:
        y = x @ w + b
        loss = tf.reduce_mean(y**2)
    grad = tape.gradient(loss, {"w": w, "b": b})
    assert grad["b"].numpy() == pytest.approx(y.numpy()[0])  # d mean(y^2) / dy = 2 y / 2
    assert grad["w"].numpy() == pytest.approx([[1.0], [2.0], [3.0]] * y.numpy())


def test_plotted_sigmoid_of_the_guide_has_its_derivative():
    x = tf.linspace(-10.0, 10.0, 200 + 1)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = tf.nn.sigmoid(x)
    assert x.dtype == tf.float32
    assert tape.gradient(y, x).numpy() == pytest.approx((y * (1 - y)).numpy(), abs=1e-6)


@pytest.mark.parametrize(
    "method, parameters",
    [
        (tf.GradientTape, {"persistent": False, "watch_accessed_variables": True}),
        (tf.GradientTape.gradient, {"output_gradients": None, "unconnected_gradients": tf.UnconnectedGradients.NONE}),
        (tf.GradientTape.watch, {}),
    ],
)
def test_238_signatures_quoted_by_the_article(method, parameters):
    found = inspect.signature(method).parameters
    for name, default in parameters.items():
        assert found[name].default == default
