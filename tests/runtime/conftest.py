"""Every test of the run time may see a warning that is given once in a process."""

from __future__ import annotations

import pytest

from tapefuse.runtime import cache


@pytest.fixture(autouse=True)
def fresh_warnings():
    cache._warned.clear()
