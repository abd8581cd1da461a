"""Look at the compiled programs that are kept on disk.

    tapefuse cache ls        # what is kept, the last used first
    tapefuse cache verify    # read every file; damaged ones are removed. Exit code 1 if there were any
    tapefuse cache clear     # remove everything
"""

from __future__ import annotations

import argparse
import time

from tapefuse._config import config
from tapefuse.cli import output
from tapefuse.cli.errors import UsageError
from tapefuse.runtime.cache import Entry, ObjectCache, default_folder

_AGES = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=tuple(_ACTIONS))
    parser.add_argument("-o", dest="out", metavar="FILE", help="write there instead of stdout")


def main(options: argparse.Namespace) -> int:
    lines, code = _ACTIONS[options.action](_cache())
    output.write("\n".join(lines), "cache", options.out)
    return code


def _cache() -> ObjectCache:
    try:
        return ObjectCache(default_folder())
    except OSError as e:
        raise UsageError(f"there is no cache folder: {e}") from None


def _ls(cache: ObjectCache) -> tuple[list[str], int]:
    entries = list(cache.entries())
    rows = [("program", "size", "last used", "compiled in", "key"), *(_row(e) for e in entries)]
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    lines = ["  ".join(text.ljust(n) for text, n in zip(row, widths, strict=True)).rstrip() for row in rows]
    return [*(lines if entries else ()), _summary(cache, entries)], 0


def _row(entry: Entry) -> tuple[str, ...]:
    seconds = entry.metadata.get("seconds")
    took = "" if seconds is None else f"{1000 * seconds:.0f} ms"
    name = str(entry.metadata.get("name", ""))
    shown = name if name.isprintable() else ascii(name)
    return shown[:40], f"{entry.size / 1000:.1f} kB", f"{_age(time.time() - entry.used)} ago", took, entry.key[:12]


def _age(seconds: float) -> str:
    return next((f"{int(seconds // n)} {unit}" for unit, n in _AGES if seconds >= n), "0 s")


def _summary(cache: ObjectCache, entries: list[Entry]) -> str:
    total = sum(e.size for e in entries) / 1e6
    off = "" if config.cache else " (the flag `cache` is off)"
    return f"{len(entries)} programs, {total:.2f} MB of at most {cache.limit / 1e6:.0f} MB in {cache.folder}{off}"


def _verify(cache: ObjectCache) -> tuple[list[str], int]:
    damaged = sorted(cache.verify())
    lines = [f"damaged or of an older version, removed: {path}" for path in damaged]
    entries = list(cache.entries())
    return [*lines, f"{len(entries)} programs are whole, {len(damaged)} files were not"], 1 if damaged else 0


def _clear(cache: ObjectCache) -> tuple[list[str], int]:
    return [f"removed {cache.clear()} files from {cache.folder}"], 0


_ACTIONS = {"ls": _ls, "verify": _verify, "clear": _clear}
