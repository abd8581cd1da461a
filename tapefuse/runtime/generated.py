"""Python source that we generate, as code whose lines tracebacks can show. The one place that executes any."""

from __future__ import annotations

import itertools
import linecache
from typing import Any

_numbers = itertools.count()


class Source:
    """A generated module. No text of a user is in it but as values of `names`."""

    def __init__(self, text: str, kind: str):
        self.text = text
        self.file = f"<tapefuse-{kind}-{next(_numbers)}>"
        linecache.cache[self.file] = (len(text), None, text.splitlines(True), self.file)  # for tracebacks; stays
        self._code = compile(text, self.file, "exec")

    def run(self, names: dict[str, Any]) -> dict[str, Any]:
        """Define what the module defines among `names`."""
        exec(self._code, names)
        return names
