"""Break one rule of one op at a time in a copy of the package; the suite must fail each time. Run by hand:

python tests/ir/mutate_ops.py [WORD]    only the mutations whose description contains WORD; about 4 s each
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MUTATIONS = [  # file, text that occurs once or is replaced where it occurs first, what it becomes
    ("elementwise", "lambda g, y, a, b: mul(g, b), lambda", "lambda g, y, a, b: mul(g, a), lambda"),
    ("elementwise", "neg(div(mul(g, y), b))", "neg(div(mul(g, a), b))"),
    ("elementwise", "neg(mul(g, floordiv(a, b)))", "mul(g, floordiv(a, b))"),
    ("elementwise", "select(ge(a, b), g, 0)", "select(gt(a, b), g, 0)"),
    ("elementwise", "select(gt(y, 0), g, 0)", "select(ge(y, 0), g, 0)"),
    ("elementwise", 'b.op("le", x, zero), zero, x', 'b.op("gt", x, zero), x, zero'),
    ("elementwise", "select(and_(eq(a, 0), eq(p, 0)), 0, sub(p, 1))", "sub(p, 1)"),
    ("elementwise", "mul(y, log(select(outside, 1, a)))", "mul(y, log(a))"),
    ("elementwise", "select(and_(eq(g, 0), eq(y, 0)), 1, y)", "y"),
    ("elementwise", "select(and_(eq(g, 0), eq(y, 0)), 1, y)", "select(eq(g, 0), 1, y)"),
    ("elementwise", "mul(g, -0.5)", "mul(g, 0.5)"),
    ("elementwise", "mul(g, add(y, 1))", "mul(g, y)"),
    ("elementwise", "neg(mul(g, sin(x)))", "mul(g, sin(x))"),
    ("elementwise", "mul(g, sub(1, mul(y, y)))", "mul(g, sub(1, y))"),
    ("elementwise", "2 / math.sqrt(math.pi)", "1 / math.sqrt(math.pi)"),
    (
        "elementwise",
        "np.fromiter(map(math.erf, x.ravel().tolist()), x.dtype,",
        "np.fromiter(map(math.erf, x.ravel()), 'f8',",
    ),
    ("logic", "select(c, 0, g)", "select(c, g, 0)"),
    ("logic", "cast(g, dtype=dtype_of(x))", "cast(g, dtype=dtype)"),
    ("family", 'OPS["cast"](OPS["lt"](x, x), dtype=dtype_of(x))', 'OPS["mul"](x, 0)'),
    ("family", "if n == 1 and big[lead + k] != 1", "if False"),
    ("family", "return total if len(axes) == lead", "return total if True"),
    ("family", "else stretch(total, shape_of(y))", "else total"),
    ("family", "[1] * (most - rank), *rest", "*rest, *[1] * (most - rank)"),
    (
        "family",
        "return [x(align(b, i, x.shape, result)) for x in xs]",
        "return [x(i[len(i) - len(x.shape) :]) for x in xs]",
    ),
    ("family", "a + 1 for a in axes", "a for a in axes"),
    ("family", "next(inner if a in axes else outer)", "next(outer if a in axes else inner)"),
    ("shape", "perm.index(k) for k in range(len(perm))))]", "perm[k] for k in range(len(perm))))]"),
    ("shape", "i[perm.index(k)] for k", "i[perm[k]] for k"),
    ("shape", "a for a in range(len(shape)) if a not in axes))]", "a for a in axes))]"),
    ("shape", 'b.op("sub", b.dim(x.shape[a] - 1), k)', 'b.op("sub", b.dim(x.shape[a]), k)'),
    ("shape", "stride = size(wanted[axis + 1 :])", "stride = size(wanted[axis:])"),
    ("slicing", "whole - (-constant // step)", "whole + constant // step"),
    ("slicing", "high = tuple(n - a - m for", "high = tuple(n - m for"),
    ("slicing", "interior=interior, value=0)", "interior=interior, value=value)"),
    (
        "slicing",
        'index.append(position if inside is None else b.op("select", inside, position, b.number(0, INT64)))',
        "index.append(position)",
    ),
    ("slicing", 'return local if inside is None else b.op("select", inside, local, zero)', "return local"),
    ("slicing", "starts = tuple(start if a == axis else 0", "starts = tuple(0 if a == axis else 0"),
    ("slicing", "zeros_like(x) if t is None", "x if t is None"),
    (
        "reduce",
        "diagonal = reshape(_pad_last(true, 0, n, False)",
        "diagonal = reshape(_pad_last(true, n, n - 1, False)",
    ),
    ("reduce", "concat(mul(up, b), mul(up, a)", "concat(mul(up, a), mul(up, b)"),
    ("reduce", "expand(div(g, count), shape_of(x), axes)", "expand(g, shape_of(x), axes)"),
    ("reduce", 'wins = b.op("or", wins, b.op("ne", v, v))', "pass"),
    ("linalg", "matmul(_transposed(_rows(a)), _rows(g))", "matmul(_transposed(_rows(g)), _rows(a))"),
    ("linalg", "unbroadcast(matmul(_transposed(a), g), b)", "matmul(_transposed(a), g)"),
    ("linalg", "x((*xs, m, *k)), y((*ys, *k, n))", "x((*xs, m, *k)), y((*xs, *k, n))"),
    ("index", 'b.op("lt", k, b.number(0, INT64))', 'b.op("gt", k, b.number(0, INT64))'),
    (
        "index",
        "return moved_to_front(gather(moved_to_axis(x, len(idx)), *idx), rank)",
        "return gather(moved_to_axis(x, len(idx)), *idx)",
    ),
    ("index", "reshape(counter, shape=(n, *[1] * rank))", "reshape(counter, shape=(*[1] * rank, n))"),
    ("index", "return moved_to_front(at_axis, len(idx))", "return at_axis"),
    ("index", "return [g, gather(g, *idx)", "return [g, -gather(g, *idx)"),
    ("index", "scatter_add(tv, *idx, shape=shape_of(x)) if tx is None", "None if tx is None"),
    ("index", "moved_to_axis(values, rank), *idx), len(idx))", "moved_to_axis(values, rank), *idx), 0)"),
    ("index", "scatter_add(g, *idx, shape=shape_of(x))", "scatter_add(g * 2, *idx, shape=shape_of(x))"),
]


def survives(file: str, old: str, new: str) -> bool:
    """Whether the suite passes with the mutation in place."""
    with tempfile.TemporaryDirectory() as folder:
        for part in ("tapefuse", "tests/ir", "pyproject.toml"):
            target = Path(folder, part)
            target.parent.mkdir(parents=True, exist_ok=True)
            if Path(ROOT, part).is_dir():
                shutil.copytree(ROOT / part, target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(ROOT / part, target)
        path = Path(folder, "tapefuse/ir/ops", f"{file}.py")
        text = path.read_text()
        assert old in text, f"{file}.py does not contain {old!r}"
        path.write_text(text.replace(old, new, 1))
        suite = ["tests/ir/test_ops.py", "tests/ir/test_op_conventions.py"]
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *suite]
        return subprocess.run(command, cwd=folder, capture_output=True, check=False).returncode == 0


def main(word: str = "") -> int:
    chosen = [m for m in MUTATIONS if word in " ".join(m)]
    missed = 0
    for mutation in chosen:
        alive = survives(*mutation)
        missed += alive
        print("MISSED" if alive else "caught", *mutation, sep=" | ", flush=True)
    print(f"{len(chosen) - missed} of {len(chosen)} caught")
    return missed > 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
