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
    ("update", "kept = put(g, zeros_like(v), starts", "kept = put(g, v, starts"),
    (
        "update",
        "return [g, slice_(g, **_region(v, starts, strides))]",
        "return [y, slice_(g, **_region(v, starts, strides))]",
    ),
    ("update", "tuple(a + (n - 1) * s + 1 for", "tuple(a + n * s for"),
    ("update", "put(*_batched(flags, x, v), starts=(0, *starts)", "put(*_batched(flags, x, v), starts=(1, *starts)"),
    ("update", "m - start - (n - 1) * step - 1, step - 1)", "m - start - n * step, step - 1)"),
    ("update", "k = k if step == 1 else", "k = k if True else"),
    ("update", "_to_winners(gather(g, *idx), x, *idx), *", "gather(g, *idx), *"),
    ("index", "return moved_to_front(at_axis, len(idx))", "return at_axis"),
    ("index", "return [g, gather(g, *idx)", "return [g, -gather(g, *idx)"),
    ("index", "scatter_add(tv, *idx, shape=shape_of(x)) if tx is None", "None if tx is None"),
    ("index", "moved_to_axis(values, rank), *idx), len(idx))", "moved_to_axis(values, rank), *idx), 0)"),
    ("index", "scatter_add(g, *idx, shape=shape_of(x))", "scatter_add(g * 2, *idx, shape=shape_of(x))"),
    ("sorting", 'b.op("and", b.op("ne", y, y), b.op("eq", x, x))', 'b.op("ne", y, y)'),
    ("sorting", 'return b.op("or", less, ', 'return b.op("and", less, '),
    ("sorting", "positions if a == axis else counter(a)", "positions if a == 0 else counter(a)"),
    ("sorting", 'b.op("lt", j, k), b.op("not", comes_before', 'b.op("gt", j, k), b.op("not", comes_before'),
    ("sorting", "return [scatter_add(g, *_grid(", "return [gather(g, *_grid("),
    ("sorting", "return gather(ts[0], *_grid(", "return scatter_add(ts[0], shape=shape_of(x), *_grid("),
    ("sorting", "return sort(x, axis=axis + 1)", "return sort(x, axis=axis)"),
    ("sorting", "return argsort(x, axis=axis + 1)", "return argsort(x, axis=axis)"),
    ("sorting", 'b.op("not", comes_before(b, value, x)) if right', "comes_before(b, x, value) if right"),
    ("sorting", "lead=lead + 1, right=right)", "lead=lead, right=right)"),
    ("sorting", "(1 << bit) - 1, INT64", "1 << bit, INT64"),
    ("sorting", "if not flags[0] and lead == 0", "if not flags[0]"),
    ("elementary", "mul(g, div(leg, y))", "mul(g, leg)"),
    ("elementary", "select(and_(eq(g, 0), eq(y, 0)), 1, mul(y, y))", "mul(y, y)"),
    ("elementary", "select(same, 0, sub(select(same, 0, x), y))", "sub(x, y)"),
    ("elementary", "select(lt(q, 0), ceil(q), floor(q))", "floor(q)"),
    ("elementary", "div(g, hypot(x, 1))", "div(g, x)"),
    ("elementary", "mul(sqrt(sub(x, 1)), sqrt(add(x, 1)))", "sqrt(sub(x, 1))"),
    ("elementary", "div(g, mul(sub(1, x), add(1, x)))", "div(g, sub(1, x))"),
    ("elementary", '_share(g, b, a),\n    "log(e**a', '_share(g, a, b),\n    "log(e**a'),
    ("elementary", "_share(g, mul(b, LN2), mul(a, LN2))", "_share(g, b, a)"),
    ("elementary", "where(is_negative(x), -a, a)", "where(x < 0, -a, a)"),
    ("elementary", "where(a.equals(math.inf) | b.equals(math.inf), math.inf, length)", "length"),
    ("elementary", "y - (y - plain / (y * y)) * (1 / 3)", "y"),
    ("elementary", "b = where(large, 1, a)", "b = a"),
    ("elementary", "where(x < 1, math.nan, where(large", "where(x < 1, 0, where(large"),
    ("elementary", "where(x.equals(y), x + math.log(2), ", "where(x.equals(y), x, "),
    ("elementary", "rest.differs(0) & ((x < 0) ^ (y < 0))", "((x < 0) ^ (y < 0))"),
    ("elementary", "away = (x < y) ^ (x < 0)", "away = x < y"),
    ("elementary", "where(x.equals(0), smallest, moved)", "moved"),
    ("elementary", "inside = inside & (n >= 0)", "pass"),
    ("elementary", "where(inside, n, width - 1)", "n"),
    ("special", "mul(g, polygamma(x, order=order + 1)), g, y, x", "mul(g, polygamma(x, order=order)), g, y, x"),
    ("special", "mul(g, polygamma(x, order=order + 1))], ts", "mul(g, polygamma(x, order=order))], ts"),
    ("special", "mul(g, mul(y, polygamma(x, order=0)))", "mul(g, polygamma(x, order=0))"),
    ("special", "sub(mul(mul(x, 2), y), 2 / ROOT_PI)", "sub(mul(x, y), 2 / ROOT_PI)"),
    ("special", "mul(mul(x, x), -0.5)", "mul(x, -0.5)"),
    ("special", "mul(mul(y, y), 0.5)", "mul(y, 0.5)"),
    ("special", "-ROOT_PI / 2", "ROOT_PI / 2"),
    ("special", "div(math.sqrt(2 / math.pi), erfcx(", "mul(math.sqrt(2 / math.pi), erfcx("),
    ("special", "sub(i0(x), _over_x(y, x))", "i0(x)"),
    ("special", "select(eq(x, 0), 0.5, div(", "select(eq(x, 0), 0, div("),
    ("special", "sub(i1e(x), mul(sign_of(x), y))", "i1e(x)"),
    ("special", "add(mul(sign_of(x), y), _over_x(y, x))", "_over_x(y, x)"),
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
