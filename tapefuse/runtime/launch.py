"""The launcher's text: `launch.ll`, as it is for every program, or with a clock that is read after each kernel."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Mapping
from typing import Any

from tapefuse.runtime.entry import source

_CLOCK = """\
@tapefuse_stamps = external global [0 x i64]
declare i64 @tapefuse_watched()
declare i64 @tapefuse_interrupted()
declare i32 @clock_gettime(i32, ptr)
define internal void @stamp(i64 %k) nounwind {
  %now = alloca { i64, i64 }
  call i32 @clock_gettime(i32 CLOCK, ptr %now)
  %seconds = load i64, ptr %now
  %rest.at = getelementptr { i64, i64 }, ptr %now, i32 0, i32 1
  %rest = load i64, ptr %rest.at
  %whole = mul i64 %seconds, 1000000000
  %time = add i64 %whole, %rest
  %at = getelementptr [0 x i64], ptr @tapefuse_stamps, i64 0, i64 %k
  store i64 %time, ptr %at
  ret void
}"""
_TIMED = {
    "{stamps_declared}": _CLOCK,
    "{started}": "call void @stamp(i64 0)",
    "{stepped}": "%s.done = add i64 %s, 1\n  call void @stamp(i64 %s.done)",
}
WATCH = ("tapefuse_watched", "tapefuse_interrupted")  # what launchers import, see interrupt.ll
Stamps = ctypes.Array[ctypes.c_int64]  # nanoseconds: when the launcher began, then when each kernel ended


def launcher_text(timed: bool = False) -> str:
    """LLVM text of `tapefuse_run`."""
    text = source("launch")
    text = text.replace("NUMBERS", ", ".join(f"i64 {k}" for k in range(64)))
    for place, code in _TIMED.items():
        text = text.replace(place, code if timed else "")
    return text.replace("CLOCK", str(getattr(time, "CLOCK_MONOTONIC", 1))) if timed else text


def timed_symbols(stamps: Stamps, watch: Mapping[str, int]) -> Mapping[str, int]:
    """What the timed launcher imports: its clock, where it writes, and what stops it (addresses of WATCH)."""
    clock: Any = ctypes.cast(ctypes.CDLL(None).clock_gettime, ctypes.c_void_p)
    return {"tapefuse_stamps": ctypes.addressof(stamps), "clock_gettime": int(clock.value), **watch}
