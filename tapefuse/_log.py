"""What the package tells the standard library's loggers, whose module takes 3 ms to import: only those who listen."""

from __future__ import annotations

import sys
from typing import Any


class Logger:
    """The logger `tapefuse.<topic>`. As long as nobody has imported `logging`, nobody listens to less than warnings."""

    __slots__ = ("name",)

    def __init__(self, topic: str):
        self.name = f"tapefuse.{topic}"

    def debug(self, text: str, *values: Any) -> None:
        if "logging" in sys.modules:
            self._say("debug", text, values)

    def info(self, text: str, *values: Any) -> None:
        if "logging" in sys.modules:
            self._say("info", text, values)

    def warning(self, text: str, *values: Any) -> None:
        self._say("warning", text, values)

    def _say(self, level: str, text: str, values: tuple[Any, ...]) -> None:
        import logging

        getattr(logging.getLogger(self.name), level)(text, *values, stacklevel=3)
