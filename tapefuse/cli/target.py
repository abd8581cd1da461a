"""What a command works on: `file.py:function`, `module:function` or `file.ir`, and `--args` specs."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

from tapefuse._errors import ParseError, VerifyError
from tapefuse.cli.errors import UsageError
from tapefuse.ir.graph import Graph
from tapefuse.ir.parse import parse
from tapefuse.ir.types import Poly, Type
from tapefuse.ir.verify import verify
from tapefuse.tracer.signature import TensorSpec

EXPECTED = "expected file.py:function, module:function or file.ir"


def is_ir(target: str) -> bool:
    return target.endswith(".ir")


def load_graph(file: str) -> Graph:
    """The verified graph in a text file. Raises `UsageError` with file, line and column of a mistake."""
    try:
        graph = parse(Path(file).read_text())
        verify(graph)
    except OSError as e:
        raise UsageError(f"cannot read {file}: {e.strerror}; {EXPECTED}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{file} is not a text file; {EXPECTED}") from None
    except (ParseError, VerifyError) as e:
        raise UsageError(f"{file}: {' '.join(str(e).split())}") from None
    return graph


def load_function(target: str) -> Any:
    """The callable that `file.py:name` or `module:name` means; `name` may be dotted. Raises `UsageError`."""
    where, colon, name = target.rpartition(":")
    if not colon or not where or not name:
        raise UsageError(f"{target!r} is not a target; {EXPECTED}")
    value: Any = _import_file(where) if where.endswith(".py") else _import_module(where)
    for part in name.split("."):
        if not hasattr(value, part):
            raise UsageError(f"{where} has no {name!r}; it has {_callables(value)}")
        value = getattr(value, part)
    if not callable(value):
        raise UsageError(f"{target} is a {type(value).__name__}, not a function; {EXPECTED}")
    return value


def _import_file(file: str) -> ModuleType:
    path = Path(file).resolve()
    if not path.is_file():
        raise UsageError(f"there is no file {file}; {EXPECTED}")
    name = path.stem if path.stem not in sys.modules else f"{path.stem}_as_target"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"{file} is not a Python file; {EXPECTED}")
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.parent))  # as `python file.py` does
    sys.modules[name] = module
    _execute(file, lambda: spec.loader.exec_module(module))
    return module


def _import_module(name: str) -> ModuleType:
    if not all(part.isidentifier() for part in name.split(".")):
        raise UsageError(f"{name!r} is not a module name; {EXPECTED}")
    if "" not in sys.path:
        sys.path.insert(0, "")
    found: list[ModuleType] = []
    _execute(name, lambda: found.append(importlib.import_module(name)))
    return found[0]


def _execute(what: str, load: Any) -> None:
    """Import the user's code. Whatever it raises is reported as one line, with the place of the failure."""
    try:
        load()
    except (Exception, SystemExit) as e:
        machinery = (__file__, importlib.__file__)
        frames = [f for f in traceback.extract_tb(e.__traceback__) if not f.filename.startswith(("<", *machinery))]
        place = f" (line {frames[-1].lineno} of {frames[-1].filename})" if frames else ""
        first = (str(e).splitlines() or [""])[0]
        raise UsageError(f"cannot import {what}: {type(e).__name__}: {first}{place}") from e


def _callables(value: Any) -> str:
    own = getattr(value, "__name__", None)
    names = [n for n, f in vars(value).items() if callable(f) and not n.startswith("_") and _module(f) == own]
    return ", ".join(names) or "no functions"


def _module(f: Any) -> str | None:
    return getattr(f, "__module__", None)


def parse_specs(text: str) -> list[TensorSpec]:
    """`"f32[B,784], i64[B]"` as specs. Raises `UsageError`."""
    return [_spec(part) for part in _split(text)]


def _split(text: str) -> list[str]:
    """Parts between commas that stand outside brackets."""
    parts, depth = [""], 0
    for c in text:
        depth += (c == "[") - (c == "]")
        if c == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += c
    return [p.strip() for p in parts] if text.strip() else []


def _spec(text: str) -> TensorSpec:
    try:
        type = Type.parse(text)
    except ParseError as e:
        raise UsageError(f"--args: {e}") from None
    for dim in type.shape:
        if isinstance(dim, Poly) and dim.name is None:
            raise UsageError(f"--args: {text!r}: {dim} is not a dimension of an argument; expected a number or a name")
    return TensorSpec(tuple(d.name if isinstance(d, Poly) else d for d in type.shape), type.dtype)
