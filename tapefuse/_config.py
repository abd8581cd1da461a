"""The flags: each is an environment variable, an attribute and a `with` block at once.

    TAPEFUSE_ENGINE=numba python train.py       # environment
    tapefuse.config.engine = "numba"            # for the whole process
    with tapefuse.config(engine="numba"): ...   # for this thread, inside the block

A value of the wrong kind is a ValueError that says what is accepted; an unknown flag is an AttributeError.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from tapefuse._records import dataclass

started = time.time_ns()  # about when this process read the sources of the package
_WORDS = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}


def _bool(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    return _WORDS[str(value).strip().lower()]


def _threads(value: Any) -> int | None:
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if isinstance(value, (bool, float)) or int(value) < 1:
        raise ValueError
    return int(value)


def _repetitions(value: Any) -> int:
    if isinstance(value, bool) or str(value).strip().lower() in _WORDS.keys() - {"0", "1"}:
        return 5 if _bool(value) else 0
    if isinstance(value, float) or int(value) < 0:
        raise ValueError
    return int(value)


def _engine(value: Any) -> str:
    if value not in ("llvm", "numba"):
        raise ValueError
    return value


def _text(value: Any) -> str:
    if not isinstance(value, (str, os.PathLike)):
        raise ValueError
    return os.fspath(value)


@dataclass(frozen=True, slots=True)
class Flag:
    """One flag. `convert` takes a Python value or the environment's text; it fails on a bad one."""

    name: str
    default: Any
    convert: Callable[[Any], Any]
    accepts: str
    meaning: str
    changes_code: bool = False  # part of the key of compiled programs

    @property
    def variable(self) -> str:
        return f"TAPEFUSE_{self.name.upper()}"

    def parse(self, value: Any, source: str) -> Any:
        try:
            return self.convert(value)
        except (ValueError, KeyError, TypeError):
            raise ValueError(f"{source}={value!r}: expected {self.accepts}") from None


FLAGS = {
    flag.name: flag
    for flag in (
        Flag("check", False, _bool, "true or false", "verify graphs after each pass, check results of rules"),
        Flag("engine", "llvm", _engine, "'llvm' or 'numba'", "what runs compiled programs", changes_code=True),
        Flag("threads", None, _threads, "a positive number or None for all", "threads of compiled programs"),
        Flag("strict", False, _bool, "true or false", "no reassociation of floating-point sums", changes_code=True),
        Flag("disable_jit", False, _bool, "true or false", "interpret traced functions with NumPy"),
        Flag(
            "compile_repeated_tapes",
            5,
            _repetitions,
            "true, false or a number of repetitions",
            "after how many equal eager tapes in a row the next ones are compiled; 0: never",
        ),
        Flag("cache", True, _bool, "true or false", "keep compiled programs on disk"),
        Flag("cache_dir", "", _text, "a folder", "where they are kept; empty: the user's cache folder"),
        Flag("progress", True, _bool, "true or false", "a line on the terminal while compiling takes long"),
        Flag("log", "", _text, "topics such as 'cache,trace:debug'", "what is logged to stderr"),
    )
}

# While this list is not empty, in whatever thread, compiled functions look at their thread's settings before they run.
# It has an entry for every `with config(...)` block here, for every tape and trace in `tracer.state`; only appending
# and popping are atomic, so the entries carry no meaning.
busy: list[None] = []
on_change: list[Callable[[], None]] = []  # called after a flag was set for the whole process

_overrides: ContextVar[dict[str, Any] | None] = ContextVar("tapefuse_config", default=None)


class Config:
    """The current flags, see FLAGS. Read and set them as attributes; call it for a `with` block."""

    check: bool
    engine: str
    threads: int | None
    strict: bool
    disable_jit: bool
    compile_repeated_tapes: int
    cache: bool
    cache_dir: str
    progress: bool
    log: str

    def __init__(self, environ: Any = os.environ, late: bool = False):
        """`late`: a bad value in the environment is an error when the flag is first read, not here."""
        values, bad = {}, {}
        for f in FLAGS.values():
            try:
                values[f.name] = f.parse(environ[f.variable], f.variable) if environ.get(f.variable) else f.default
            except ValueError as e:
                if not late:
                    raise
                bad[f.name] = str(e)
        object.__setattr__(self, "_values", values)
        object.__setattr__(self, "_bad", bad)

    def __getattr__(self, name: str) -> Any:
        inner = _overrides.get()
        if inner is not None and name in inner:
            return inner[name]
        values, bad = object.__getattribute__(self, "_values"), object.__getattribute__(self, "_bad")
        if name in values:
            return values[name]
        raise ValueError(bad[name]) if name in bad else _unknown(name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in FLAGS:
            raise _unknown(name)
        self._values[name] = FLAGS[name].parse(value, name)
        if name == "log":
            _set_log_levels(self.log)
        for notify in on_change:
            notify()

    @contextmanager
    def __call__(self, **flags: Any) -> Iterator[Config]:
        """Other values inside a `with` block, for the current thread (and asyncio task) only."""
        for name in flags:
            if name not in FLAGS:
                raise _unknown(name)
        new = {name: FLAGS[name].parse(value, name) for name, value in flags.items()}
        token = _overrides.set({**(_overrides.get() or {}), **new})
        busy.append(None)
        try:
            _set_log_levels(self.log)
            yield self
        finally:
            _overrides.reset(token)
            busy.pop()
            _set_log_levels(self.log)

    def code_key(self) -> tuple[tuple[str, Any], ...]:
        """Names and values of the flags that change generated code; part of every cache key."""
        return tuple((f.name, getattr(self, f.name)) for f in FLAGS.values() if f.changes_code)

    def run_key(self) -> tuple[Any, ...]:
        """What decides how a traced function is run; functions keep a compiled form for each."""
        return (*self.code_key(), self.threads, self.disable_jit)

    def __repr__(self) -> str:
        return f"config({', '.join(f'{name}={getattr(self, name)!r}' for name in FLAGS)})"

    def __dir__(self) -> list[str]:
        return [*FLAGS, "code_key", "run_key"]


def _unknown(name: str) -> AttributeError:
    import difflib  # takes 0.6 ms

    near = difflib.get_close_matches(name, FLAGS, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(FLAGS)}"
    return AttributeError(f"no flag {name!r}{hint}")


_log_levels: dict[str, int] = {}  # topics whose level was set here


def _set_log_levels(text: str) -> None:
    """`"cache,trace:debug"`: logger `tapefuse.cache` at INFO, `tapefuse.trace` at DEBUG, both written to stderr."""
    if not text and not _log_levels:
        return
    import logging  # takes 3 ms

    wanted = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        topic, _, level = item.partition(":")
        wanted[topic] = logging.getLevelNamesMapping().get((level or "info").upper(), logging.INFO)
    if wanted == _log_levels:
        return
    for topic in _log_levels.keys() - wanted.keys():
        logging.getLogger(f"tapefuse.{topic}").setLevel(logging.NOTSET)
    for topic, number in wanted.items():
        logging.getLogger(f"tapefuse.{topic}").setLevel(number)
    root = logging.getLogger("tapefuse")
    if wanted and not root.handlers:
        root.addHandler(logging.StreamHandler())
    _log_levels.clear()
    _log_levels.update(wanted)


config = Config(late=True)  # so that `import tapefuse` works, and the command line can say it in one line
_set_log_levels(config.log)


@dataclass(frozen=True, slots=True)
class Options:
    """What one compiled function wants; None: as the flags say.

    `memory_budget`: most bytes of results and scratch memory that a call may take. `outputs`: "tensor", or "numpy" for
    arrays and Python's numbers.
    """

    engine: str | None = None
    threads: int | None = None
    strict: bool = False
    memory_budget: int | None = None
    outputs: str = "tensor"
