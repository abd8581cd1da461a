"""Settings of the whole test run: every pass is verified, and random tests draw the same programs each time."""

import os

os.environ.setdefault("TAPEFUSE_CHECK", "1")

from hypothesis import settings  # noqa: E402 (the flag above must be set before anything imports tapefuse)

settings.register_profile("fixed", derandomize=True, deadline=None, database=None)
settings.register_profile("explore", deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))
