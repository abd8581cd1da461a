"""The page docs/functions.md, made from what the tests of functions check:

python -m tests.functions_page
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

import tapefuse as tp
from tapefuse.ir.graph import Graph
from tapefuse.ir.ops import region
from tests.numpy import test_calculation, test_fft, test_linalg, test_manipulation, test_special

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "functions.md"
MODULES: dict[str, ModuleType] = {
    "": tp.numpy,
    "linalg": tp.linalg,
    "fft": tp.fft,
    "special": tp.special,
    "random": tp.random,
}
HEAD = """# Functions

Made from the tests by `python -m tests.functions_page`; a test fails when it is out of date.

- **value**: where the value, dtype and shape are compared, with NumPy's unless said: a table of calls on many arrays
  (`calculation`, `manipulation`, `linalg`, `fft`: `tests/numpy/*`), values of 50 digits (`special`), or the test file.
- **derivatives**: `both`: forward mode against finite differences, reverse mode against forward mode. `steps`: the
  result is piecewise constant, or no float. Empty: see the test file.
- **vmap**: whether `tp.vmap` of it is compared with a loop.
- **dtypes**: of operands in the table: `f2 f4 f8` floats, `c8 c16` complex, `i u` integers, `b` bool.
- **runs**: `compiled`: its own code in a `tape_function`; `library`: a compiled function calls NumPy's loops (LAPACK,
  pocketfft) for it, without Python; `values`: it needs values, so in a `tape_function` its operands must be known.
"""


class Evidence(NamedTuple):
    """What the tests say of one function."""

    where: str
    derivatives: str = ""
    vmap: bool = False
    dtypes: tuple[str, ...] = ()
    runs: str = ""


class Sample(NamedTuple):
    """A call that the tests compare."""

    name: str
    call: Callable[..., Any]
    arrays: Sequence[Any]


def _dtypes(arrays: Sequence[Any]) -> set[str]:
    kinds = {np.asarray(a).dtype for a in arrays if isinstance(a, (np.ndarray, np.generic))}
    return {d.kind if d.kind in "iub" else d.str[1:] for d in kinds}


def _ordered(dtypes: set[str]) -> tuple[str, ...]:
    order = ("f2", "f4", "f8", "c8", "c16", "i", "u", "b")
    return tuple(d for d in order if d in dtypes)


def _runs(sample: Sample) -> str:
    """How a compiled function has it."""
    with tp.config(disable_jit=True):
        f = tp.tape_function(lambda *xs: sample.call(tp, *xs))
        try:
            graph = f.specialise(*[x.copy() for x in sample.arrays]).graph
        except tp.ConcretizationError:
            return "values"
        except TypeError:  # the result is no tensor
            return ""
    return "library" if _calls(graph) else "compiled"


def _calls(graph: Graph) -> bool:
    return any(v.op is not None and v.op.calls is not None or any(map(_calls, region.graphs(v))) for v in graph.nodes)


# -- what each suite says ---------------------------------------------------------------------------------------------


def _of_table(where: str, suite: Any, arrays: Callable[[Any], Sequence[Any]], mapped: set[str]) -> dict[str, Evidence]:
    smooth = {case.name for case in suite.SMOOTH}
    dtypes: dict[str, set[str]] = {}
    first: dict[str, Any] = {}
    for case in suite.RIGHT:
        dtypes.setdefault(case.name, set()).update(_dtypes(arrays(case)))
        if case.name not in first or not np.size(arrays(first[case.name])[0]):
            first[case.name] = case
    return {
        name: Evidence(
            where,
            "both" if name in smooth else "steps",
            name in mapped,
            _ordered(dtypes[name]),
            _runs(Sample(name, case.call, arrays(case))),
        )
        for name, case in first.items()
    }


def _calculation() -> dict[str, Evidence]:
    return _of_table("calculation", test_calculation, lambda case: case.arrays, set(test_calculation.MAPPED))


def _manipulation() -> dict[str, Evidence]:
    mapped = {c.name for c in test_manipulation.RIGHT if c.mapped}
    return _of_table("manipulation", test_manipulation, lambda case: [case.array], mapped)


def _linalg() -> dict[str, Evidence]:
    mapped = {c.name for c in test_linalg.FIRST}
    found = _of_table("linalg", test_linalg, lambda case: [case.array], mapped)
    return {f"linalg.{name.removeprefix('linalg.')}": e for name, e in found.items()}


def _fft() -> dict[str, Evidence]:
    found = {}
    for name in dict.fromkeys(name for name, _ in test_fft.CASES):
        x = test_fft.operand(name, 4, 5, 6)
        run = _runs(Sample(name, lambda m, x, f=name: getattr(m.fft, f)(x), [x]))
        found[f"fft.{name}"] = Evidence("fft", "both", True, ("f2", "f4", "f8", "c8", "c16", "i", "u", "b"), run)
    return found


def _special() -> dict[str, Evidence]:
    found = {}
    for name in test_special.VALUES:
        plain = name.split()[0]
        smooth = "both" if plain in {n.split()[0] for n in test_special.SMOOTH} else ""
        xs, _ = test_special.arguments(name)
        run = _runs(Sample(plain, lambda m, *xs, f=name: test_special.function(f)(*xs), xs))
        found[f"special.{plain}"] = Evidence("special", smooth, bool(smooth), ("f4", "f8"), run)
    return found


@cache
def evidence() -> dict[str, Evidence]:
    """By the function's name below `tp`."""
    return {**_special(), **_fft(), **_linalg(), **_manipulation(), **_calculation()}


# -- the page ---------------------------------------------------------------------------------------------------------


def public() -> Iterator[tuple[str, str, Any]]:
    """(module, name, function) for all functions of the public modules."""
    for module, functions in MODULES.items():
        for name in sorted(set(functions.__all__)):
            f = getattr(functions, name)
            if callable(f) and not isinstance(f, type):
                yield module, name, f


@cache
def _sources() -> dict[str, str]:
    return {str(f.relative_to(ROOT)): f.read_text() for f in sorted((ROOT / "tests").rglob("test_*.py"))}


def _files(module: str, name: str) -> list[str]:
    """Test files that call a function by its public name."""
    mine = re.compile(rf"\b(tp|np|m|tp\.numpy){re.escape('.' + module) if module else ''}\.{name}\b")
    found = [file for file, text in _sources().items() if f".{name}" in text and mine.search(text)]
    return sorted(found, key=lambda file: (module or "numpy") not in file)


def _found(module: str, name: str, f: Any) -> Evidence:
    known = evidence()
    full = f"{module}.{name}" if module else name
    if full in known:
        return known[full]
    for other in (m for m in known if getattr(MODULES[m.rpartition(".")[0]], m.rpartition(".")[2], None) is f):
        return known[other]  # another name of the same function
    names = [name, *(n for m, n, g in public() if m == module and g is f)]
    files = [file for n in names for file in _files(module, n)]
    return Evidence(f"`{files[0]}`" if files else "")


def _summary(f: Any) -> str:
    """The first sentence of a docstring, or its first line."""
    text = " ".join((inspect.getdoc(f) or "").split("\n\n")[0].split())
    end = re.search(r"[.:;](\s|$)", text)
    return (text[: end.start()] if end else text).replace("|", "\\|")


@cache
def rows() -> list[tuple[str, str]]:
    """(module, row of the table) for each function."""
    return list(_rows())


def _rows() -> Iterator[tuple[str, str]]:
    for module, name, f in public():
        e = _found(module, name, f)
        full = f"tp.{module}.{name}" if module else f"tp.{name}"
        cells = (f"`{full}`", _summary(f), e.where, e.derivatives, "yes" if e.vmap else "", " ".join(e.dtypes), e.runs)
        yield module, f"| {' | '.join(cells)} |"


def text() -> str:
    parts = [HEAD]
    for module in MODULES:
        title = f"tp.{module}" if module else "tp"
        table = [row for m, row in rows() if m == module]
        parts.append(f"\n## `{title}`\n\n| function | | value | derivatives | vmap | dtypes | runs |\n|{'---|' * 7}\n")
        parts.append("\n".join(table) + "\n")
    return "".join(parts)


if __name__ == "__main__":
    PAGE.write_text(text())
