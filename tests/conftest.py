"""Settings of the whole test run: every pass is verified, and random tests draw the same programs each time."""

import os

os.environ.setdefault("TAPEFUSE_CHECK", "1")

from hypothesis import settings  # after the flag, which is read at import

settings.register_profile("fixed", derandomize=True, deadline=None, database=None)
settings.register_profile("explore", deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))
