"""Flags: environment, attribute and `with` block, each checked when it is set."""

from __future__ import annotations

import asyncio
import logging
import threading

import pytest

from tapefuse._config import FLAGS, Config, config


def test_values_from_the_environment() -> None:
    flags = Config({"TAPEFUSE_ENGINE": "numba", "TAPEFUSE_THREADS": "3", "TAPEFUSE_CACHE": "off", "OTHER": "x"})
    assert (flags.engine, flags.threads, flags.cache, flags.strict) == ("numba", 3, False, False)
    defaults = Config({"TAPEFUSE_THREADS": "", "TAPEFUSE_ENGINE": "", "TAPEFUSE_CHECK": ""})
    assert {name: getattr(defaults, name) for name in FLAGS} == {f.name: f.default for f in FLAGS.values()}


@pytest.mark.parametrize(
    ("variable", "value"),
    [("TAPEFUSE_ENGINE", "gpu"), ("TAPEFUSE_THREADS", "0"), ("TAPEFUSE_THREADS", "many"), ("TAPEFUSE_CHECK", "maybe")],
)
def test_bad_values_say_what_is_accepted(variable: str, value: str) -> None:
    name = variable.removeprefix("TAPEFUSE_").lower()
    with pytest.raises(ValueError, match=f"{variable}='{value}': expected {FLAGS[name].accepts}"):
        Config({variable: value})
    with pytest.raises(ValueError, match=f"{name}='{value}': expected"):
        setattr(Config({}), name, value)
    with pytest.raises(ValueError, match=f"{name}='{value}'"), config(**{name: value}):
        pass


def test_a_bad_value_may_be_reported_late() -> None:
    flags = Config({"TAPEFUSE_ENGINE": "gpu"}, late=True)
    assert flags.threads is None
    for _ in range(2):
        with pytest.raises(ValueError, match="TAPEFUSE_ENGINE='gpu': expected 'llvm' or 'numba'"):
            _ = flags.engine
    with flags(engine="numba"):
        assert flags.engine == "numba"
    flags.engine = "llvm"
    assert flags.engine == "llvm"


def test_unknown_flags() -> None:
    flags = Config({})
    for use in (lambda: flags.engin, lambda: setattr(flags, "engin", "llvm"), lambda: flags(engin="llvm").__enter__()):
        with pytest.raises(AttributeError, match="no flag 'engin'; did you mean 'engine'"):
            use()
    with pytest.raises(AttributeError, match="there are check, engine"):
        _ = flags.zzz


def test_with_blocks_nest_and_end_with_an_exception() -> None:
    with config(strict=True, threads=2):
        with pytest.raises(KeyError), config(threads=1) as inner:
            assert (inner.strict, config.threads) == (True, 1)
            raise KeyError
        assert config.threads == 2
    assert config.threads is None and not config.strict


def test_with_blocks_are_seen_by_their_own_thread_and_task_only() -> None:
    seen = []
    with config(strict=True):
        thread = threading.Thread(target=lambda: seen.append(config.strict))
        thread.start()
        thread.join()
    assert seen == [False]

    async def task(value: int) -> int | None:
        with config(threads=value):
            await asyncio.sleep(0.001)
            return config.threads

    async def both() -> list[int | None]:
        return await asyncio.gather(task(1), task(2))

    assert asyncio.run(both()) == [1, 2]


def test_attributes_are_for_the_process() -> None:
    config.strict = True
    try:
        seen = []
        thread = threading.Thread(target=lambda: seen.append(config.strict))
        thread.start()
        thread.join()
        assert seen == [True] and ("strict", True) in config.code_key() and "strict=True" in repr(config)
    finally:
        config.strict = False
    assert ("strict", False) in config.code_key()
    assert {name for name, _ in config.code_key()} == {"engine", "strict"}


def test_log_sets_the_levels_of_topics() -> None:
    cache, trace = logging.getLogger("tapefuse.cache"), logging.getLogger("tapefuse.trace")
    with config(log="cache, trace:debug"):
        assert (cache.level, trace.level) == (logging.INFO, logging.DEBUG)
    assert (cache.level, trace.level) == (logging.NOTSET, logging.NOTSET)
