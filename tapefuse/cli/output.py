"""Where a command's text goes: to a file, plain into a pipe, coloured onto a terminal."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from tapefuse.cli.errors import UsageError

LEXERS = {"llvm": "llvm", "numba": "python", "asm": "gas"}  # stages whose text another language's colours fit
IR_STYLES = (
    (r"(?m)#.*$|;.*$", "dim"),
    (r"%[\w.]+", "cyan"),
    (r"\b(?:bool|[iuf](?:8|16|32|64))\b(?:\[[^\]]*\])?", "green"),
    (r"(?<== )[a-z_]\w*", "bold"),
    (r"\b(?:fn|return)\b", "magenta"),
)


def write(text: str, stage: str, file: str | None) -> None:
    """Write a command's result. Raises `UsageError` if the file cannot be written."""
    text = text.rstrip("\n") + "\n"
    if file is not None:
        try:
            Path(file).write_text(text)
        except OSError as e:
            raise UsageError(f"cannot write {file}: {e.strerror}") from None
    elif sys.stdout.isatty() and "NO_COLOR" not in os.environ:
        _write_coloured(text, stage)
    else:
        sys.stdout.write(text)


def _write_coloured(text: str, stage: str) -> None:
    from rich.console import Console
    from rich.syntax import Syntax
    from rich.text import Text

    console = Console(soft_wrap=True)
    if stage in LEXERS:
        console.print(Syntax(text, LEXERS[stage], background_color="default", word_wrap=True), end="")
        return
    styled = Text(text)
    for pattern, style in reversed(IR_STYLES):
        styled.highlight_regex(pattern, style)
    console.print(styled, end="")
