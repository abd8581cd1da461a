"""Settings of the whole run: passes are verified, programs kept apart from the user's, random tests repeatable."""

import atexit
import os
import shutil
import tempfile

os.environ.setdefault("TAPEFUSE_CHECK", "1")
if "TAPEFUSE_CACHE_DIR" not in os.environ:  # subprocesses of tests inherit it
    os.environ["TAPEFUSE_CACHE_DIR"] = tempfile.mkdtemp(prefix="tapefuse-tests-")
    atexit.register(shutil.rmtree, os.environ["TAPEFUSE_CACHE_DIR"], ignore_errors=True)

from hypothesis import settings  # after the flags, which are read when tapefuse is imported

settings.register_profile("fixed", derandomize=True, deadline=None, database=None)
settings.register_profile("explore", deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))
