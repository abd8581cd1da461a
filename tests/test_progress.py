"""The line that a long compilation shows: on terminals only, and gone afterwards."""

from __future__ import annotations

import io
import os
import sys
import time

import pytest

import tapefuse as tp
from tapefuse import _progress, compilation
from tapefuse._progress import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True

    def fileno(self) -> int:
        raise OSError("not a file")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setattr(_progress, "PATIENCE", 0.02)
    monkeypatch.setattr(_progress, "EVERY", 0.01)
    monkeypatch.setenv("TERM", "xterm")
    return monkeypatch


def run(stream: io.StringIO, quick: pytest.MonkeyPatch, seconds: float = 0.1) -> str:
    quick.setattr(sys, "stderr", stream)
    with progress("it compiles"):
        time.sleep(seconds)
    return stream.getvalue()


def test_it_appears_after_a_while_and_is_erased(quick: pytest.MonkeyPatch) -> None:
    quick.setattr(os, "get_terminal_size", lambda fd: os.terminal_size((80, 20)))
    quick.setattr(Terminal, "fileno", lambda self: 2)
    text = run(Terminal(), quick)
    assert "it compiles ... 0 s" in text and text.endswith("\r\x1b[2K") and "\n" not in text
    quick.setattr(os, "get_terminal_size", lambda fd: os.terminal_size((9, 20)))
    assert "it compi\r" in run(Terminal(), quick)


def test_short_work_shows_nothing(quick: pytest.MonkeyPatch) -> None:
    quick.setattr(_progress, "PATIENCE", 10.0)
    start = time.monotonic()
    assert run(Terminal(), quick, 0.0) == "" and time.monotonic() - start < 5


def test_nothing_where_nobody_watches(quick: pytest.MonkeyPatch) -> None:
    assert run(io.StringIO(), quick) == ""
    with tp.config(progress=False):
        assert run(Terminal(), quick) == ""
    with tp.config(log="nobody"):
        assert run(Terminal(), quick) == ""
    quick.setenv("TERM", "dumb")
    assert run(Terminal(), quick) == ""


def test_a_lost_terminal_and_errors_of_the_work_do_no_harm(quick: pytest.MonkeyPatch) -> None:
    assert run(Terminal(), quick) == ""  # fileno fails
    quick.setattr(sys, "stderr", Terminal())
    with pytest.raises(KeyError), progress("it"):
        raise KeyError
    with progress("outer"), progress("inner"):
        assert not _progress._shown.acquire(blocking=False)
    assert _progress._shown.acquire(blocking=False)
    _progress._shown.release()


def test_a_compilation_on_a_terminal(quick: pytest.MonkeyPatch) -> None:
    quick.setattr(os, "get_terminal_size", lambda fd: os.terminal_size((80, 20)))
    quick.setattr(Terminal, "fileno", lambda self: 2)
    quick.setattr(sys, "stderr", stream := Terminal())
    quick.setattr(compilation, "_compiled", lambda *args, run=compilation._compiled: (time.sleep(0.2), run(*args))[1])
    with tp.config(cache=False):
        f = tp.tape_function(lambda x: tp.exp(x) * 3.25)
        assert float(f(0.0)) == 3.25
    assert stream.getvalue().startswith("\r\x1b[2Ktapefuse compiles '<lambda>'")
