"""The import diagram of the design, held by a test: what may import what, no cycles, imports at the top."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent / "tapefuse"

# A layer is a module or a package; the longest prefix decides. It may import itself and what is listed, nothing else.
LEAVES = ("_config", "_errors", "_hash", "_locks", "_log", "_progress", "_records", "_tree")
IR = ("ir", *LEAVES)
TRACED = ("tracer", *IR)
COMPILED = ("compilation", "compiler", "codegen", "runtime")
FACE = ("", "numpy", "random", "transforms", "function", "reports", "tracer", *COMPILED, *IR)
LAYERS: dict[str, tuple[str, ...]] = {
    "_errors": (),
    "_records": (),
    "_hash": (),
    "_locks": (),
    "_log": (),
    "_config": ("_errors", "_records"),
    "_progress": ("_config",),
    "_tree": ("_errors", "_records"),
    "ir": LEAVES,
    "tracer": IR,
    "codegen": IR,
    "runtime": IR,
    "numpy": TRACED,
    "special": ("numpy", *TRACED),
    "array_api": ("numpy", *TRACED),
    "random": ("numpy", "special", *TRACED),
    "transforms": TRACED,
    "compiler": ("tracer", "codegen", *IR),
    "compilation": ("compiler", "tracer", "runtime", *IR),
    "reports": ("compilation", "compiler", "tracer", "codegen", "runtime", *IR),
    "function": ("reports", "compilation", "tracer", *IR),
    # tapefuse/__init__.py
    "": ("array_api", "numpy", "random", "special", "transforms", "function", "tracer", "nn", "optim", *IR),
    "nn": FACE,
    "optim": (*FACE, "nn"),  # an optimizer is a Module, which collects its variables
    "compat": (*FACE, "nn", "optim"),
    "cli": (*FACE, "nn", "optim"),
    "__main__": ("cli",),
}
# Inside ir: a module may import those of lower rank, and those of its own rank if there is no cycle.
IR_RANKS = (
    ("ir.halves",),
    ("ir.types",),
    ("ir.graph",),
    ("ir.op", "ir.program"),
    ("ir.ops", "ir.rewrite"),
    ("ir.interp", "ir.print", "ir.parse", "ir.verify", "ir.digest", "ir.passes"),
    ("ir",),
)
# Third-party imports inside functions, for start-up time: file -> modules.
LAZY: dict[str, set[str]] = {
    "runtime": {"numba", "llvmlite", "scipy_openblas32"},
    "codegen": {"numba", "llvmlite"},
    "ir/halves.py": {"ml_dtypes"},
    "cli": {"numba", "llvmlite", "rich", "scipy_openblas32"},
}
# The imports of our own inside a function, for start-up time: docs/decisions/0003.
LAZY_OWN = {
    ("__init__.py", "tapefuse.array_api"),
    ("function.py", "tapefuse.reports.check"),
    ("function.py", "tapefuse.reports.loops"),
    ("function.py", "tapefuse.reports.memory"),
    ("function.py", "tapefuse.reports.profile"),
    ("compilation.py", "tapefuse.compiler"),
    ("compilation.py", "tapefuse.runtime.numba_engine"),
    ("compilation.py", "tapefuse.runtime.njit"),
    ("codegen/pipeline.py", "tapefuse.codegen.emit_numba"),
    ("runtime/numba_engine.py", "tapefuse.runtime.numba_pipeline"),
}
STANDARD = sys.stdlib_module_names

FILES = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.py"))


def module_of(file: str) -> str:
    """`ir/ops/__init__.py` -> `ir.ops`; the top package is the empty name."""
    parts = file.removesuffix(".py").split("/")
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(file) for file in FILES}


@cache
def tree(file: str) -> ast.Module:
    return ast.parse((ROOT / file).read_text(encoding="utf-8"), file)


def imported(node: ast.AST, file: str) -> Iterator[str]:
    """Absolute names of the modules that an import statement loads."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            package = ["tapefuse", *file.split("/")[:-1]]
            base = ".".join([*package[: len(package) - node.level + 1], *filter(None, [node.module])])
        for alias in node.names:
            inner = f"{base}.{alias.name}"
            yield inner if inner.removeprefix("tapefuse.") in MODULES and inner.startswith("tapefuse") else base


def own(name: str) -> str | None:
    """The module's name inside our package, or None for somebody else's."""
    return name[len("tapefuse") :].lstrip(".") if name == "tapefuse" or name.startswith("tapefuse.") else None


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def run_time_imports(node: ast.AST, file: str, inside: bool = False) -> Iterator[tuple[str, bool, int]]:
    """(module, whether inside a function, line) of every import but those for type checkers."""
    for child in ast.iter_child_nodes(node):
        if is_type_checking(child):
            continue
        yield from ((name, inside, child.lineno) for name in imported(child, file) if hasattr(child, "lineno"))
        is_function = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        yield from run_time_imports(child, file, inside or is_function)


def layer(module: str, layers: dict[str, tuple[str, ...]] = LAYERS) -> str | None:
    parts = module.split(".")
    return next((name for k in range(len(parts), 0, -1) if (name := ".".join(parts[:k])) in layers), None)


@cache
def imports(file: str) -> list[tuple[str, bool, int]]:
    return list(run_time_imports(tree(file), file))


def edges(file: str) -> set[str]:
    return {name for full, _, _ in imports(file) if (name := own(full)) is not None}


@pytest.mark.parametrize("file", FILES)
def test_arrows(file: str) -> None:
    mine = layer(module_of(file))
    assert mine is not None, f"{file} is in no layer of the diagram"
    for target in edges(file):
        theirs = layer(target)
        assert theirs == mine or theirs in LAYERS[mine], f"{file} imports {target or 'tapefuse'}: no such arrow"


@pytest.mark.parametrize("file", [f for f in FILES if f.startswith("ir/")])
def test_arrows_inside_ir(file: str) -> None:
    ranks = {name: (k,) for k, names in enumerate(IR_RANKS) for name in names}

    def rank(module: str) -> int:
        return ranks[layer(module, ranks) or "ir"][0]

    for target in edges(file):
        if target.startswith("ir"):
            assert rank(target) <= rank(module_of(file)), f"{file} imports {target}, which stands above it"


def test_no_cycles() -> None:
    waiting = {module_of(file): edges(file) - {module_of(file)} for file in FILES}
    while free := [m for m, targets in waiting.items() if not targets & waiting.keys()]:
        for m in free:
            del waiting[m]
    assert not waiting, f"import cycle among {sorted(waiting)}"


@pytest.mark.parametrize("file", FILES)
def test_imports_stand_at_the_top(file: str) -> None:
    for name, inside, line in imports(file):
        package = name.split(".")[0]
        if not inside or package in STANDARD:
            continue
        if (file, name) in LAZY_OWN:
            continue
        assert own(name) is None, f"{file}:{line} imports {name} inside a function"
        allowed = LAZY.get(file, LAZY.get(file.split("/")[0], set()))
        assert package in allowed, f"{file}:{line} imports {name} inside a function; the table LAZY does not list it"


@pytest.mark.parametrize("file", FILES)
def test_nothing_is_evaluated_or_unpickled(file: str) -> None:
    """No text becomes code but through the audited places, and nothing is unpickled."""
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id != "eval", f"{file}:{node.lineno} calls eval"
            assert node.func.id != "exec" or file in EXEC, f"{file}:{node.lineno} calls exec"
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            assert "pickle" not in {name.split(".")[0] for name in imported(node, file)}, f"{file} imports pickle"


EXEC = {
    "runtime/generated.py",  # compiles the Numba text of a program, whose source linecache keeps
    "_records.py",  # compiles methods of our own classes, from the names of their fields
}


def test_the_test_sees_violations() -> None:
    source = "import os\ndef f():\n    from tapefuse.tracer import tape\n    import rich\n    from . import graph\n"
    found = list(run_time_imports(ast.parse(source), "ir/example.py"))
    assert [(own(name), inside) for name, inside, _ in found] == [
        (None, False), ("tracer.tape", True), (None, True), ("ir.graph", True)]  # fmt: skip


FLOAT_KINDS = re.compile(r"\bdtype\)?\.kind (==|!=|in|not in) \"\w*f\w*\"")
# What need not know bfloat16: code after `ir.passes.half`, and the short way of the commonest dtypes.
WITHOUT_BFLOAT16 = ("codegen/", "runtime/", "tracer/promote.py", "ir/halves.py")


@pytest.mark.parametrize("file", [f for f in FILES if not f.startswith(WITHOUT_BFLOAT16)])
def test_whether_a_dtype_is_floating_is_asked_in_one_place(file: str) -> None:
    """`dtype.kind` of a bfloat16 is "V": `ir.halves.kind_of` says "f"."""
    found = [line for line in (ROOT / file).read_text(encoding="utf-8").splitlines() if FLOAT_KINDS.search(line)]
    assert not found, f"{file} asks a dtype for its kind; use tapefuse.ir.halves.kind_of"


def test_the_test_of_kinds_sees_them() -> None:
    assert FLOAT_KINDS.search('if x.dtype.kind == "f":') and FLOAT_KINDS.search('np.dtype(dtype).kind not in "fiu"')
    assert not FLOAT_KINDS.search('if kind_of(x.dtype) == "f":') and not FLOAT_KINDS.search('x.dtype.kind in "biu"')
