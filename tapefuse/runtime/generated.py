"""Python source that we generate, as code whose lines tracebacks can show. The one place that executes any."""

from __future__ import annotations

import ast
import itertools
import linecache
from collections.abc import Callable
from typing import Any

_numbers = itertools.count()


class Source:
    """A generated module. No text of a user is in it but as values of `names`."""

    def __init__(self, text: str, kind: str):
        self.text = text
        self.file = f"<tapefuse-{kind}-{next(_numbers)}>"
        linecache.cache[self.file] = (len(text), None, text.splitlines(True), self.file)  # for tracebacks; stays

    def run(self, names: dict[str, Any], changed: Callable[[ast.Module], ast.Module] | None = None) -> dict[str, Any]:
        """Define what the module, or what becomes of it by `changed`, defines among `names`."""
        exec(compile(changed(ast.parse(self.text)) if changed else self.text, self.file, "exec"), names)
        return names
