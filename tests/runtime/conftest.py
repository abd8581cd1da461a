"""The tests of the run time keep object code in a folder of their own."""

from __future__ import annotations

import pytest

from tapefuse._config import config
from tapefuse.runtime import cache


@pytest.fixture(autouse=True, scope="session")
def cache_folder(tmp_path_factory: pytest.TempPathFactory):
    with config(cache_dir=str(tmp_path_factory.mktemp("objects"))):
        yield


@pytest.fixture(autouse=True)
def fresh_warnings():
    cache._warned.clear()
