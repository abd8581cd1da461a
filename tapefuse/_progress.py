"""A line on the terminal while something takes long: it appears after a second, counts the seconds, and is erased.

    with progress("tapefuse compiles 'train_step'"):
        ...

There is none when stderr is a file, a pipe or a notebook, when TAPEFUSE_LOG writes there, or with TAPEFUSE_PROGRESS=0.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tapefuse._config import config

PATIENCE = 1.0  # seconds before the line appears
EVERY = 0.5
_ERASE = "\r\x1b[2K"
_shown = threading.Lock()  # one line at a time


@contextmanager
def progress(what: str) -> Iterator[None]:
    """Show `what` and the seconds passed while the block runs, if it runs for long and somebody watches."""
    if not _is_watched() or not _shown.acquire(blocking=False):
        yield
        return
    done = threading.Event()
    line = threading.Thread(target=_draw, args=(what, done), daemon=True)
    try:
        line.start()
        yield
    finally:
        done.set()
        line.join()
        _shown.release()


def _is_watched() -> bool:
    stream = sys.stderr
    if not config.progress or config.log or os.environ.get("TERM") == "dumb":
        return False
    try:
        return stream is not None and stream.isatty()
    except ValueError:  # closed
        return False


def _draw(what: str, done: threading.Event) -> None:
    start, stream = time.monotonic(), sys.stderr
    if done.wait(PATIENCE):
        return
    try:
        while True:
            width = os.get_terminal_size(stream.fileno()).columns if hasattr(stream, "fileno") else 80
            text = f"{what} ... {time.monotonic() - start:.0f} s"
            stream.write(_ERASE + text[: width - 1])
            stream.flush()
            if done.wait(EVERY):
                break
        stream.write(_ERASE)
        stream.flush()
    except (OSError, ValueError):  # the terminal went away
        return
