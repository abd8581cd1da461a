"""Settings of the whole run: passes are verified, programs kept apart from the user's, random tests repeatable, and
the longest tests first."""

import atexit
import gc
import os
import shutil
import tempfile
from collections.abc import Generator

import pytest
from _pytest.runner import runtestprotocol

os.environ.setdefault("TAPEFUSE_CHECK", "1")
if "TAPEFUSE_CACHE_DIR" not in os.environ:  # subprocesses of tests inherit it
    os.environ["TAPEFUSE_CACHE_DIR"] = tempfile.mkdtemp(prefix="tapefuse-tests-")
    atexit.register(shutil.rmtree, os.environ["TAPEFUSE_CACHE_DIR"], ignore_errors=True)

from hypothesis import settings  # after the flags, which are read when tapefuse is imported

settings.register_profile("fixed", derandomize=True, deadline=None, database=None)
settings.register_profile("explore", deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Nearly everything that collecting tests makes stays: no collection of garbage looks through it, now or later."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Random programs take longest; short tests in the end leave no worker idle."""
    items.sort(key=lambda item: not item.path.name.startswith("test_random_"))


def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    """A worker sends what there is to say: that tens of thousands of tests were set up and torn down takes longer than
    to do it."""
    if not hasattr(item.config, "workerinput"):
        return None
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for report in runtestprotocol(item, log=False, nextitem=nextitem):
        if report.when == "call" or not report.passed:
            item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True
