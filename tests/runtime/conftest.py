"""Each test of the run time has its own cache folder, shared by those of one file where compiling again is not the point."""

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
