"""What tests of traced functions share."""

import pytest

import tapefuse as tp


@pytest.fixture(params=["eager", "interpreted", "compiled"])
def stage(request):
    """stage(f): `f` itself, or traced and interpreted, or compiled."""
    if request.param == "eager":
        yield lambda f: f
    else:
        with tp.config(disable_jit=request.param == "interpreted"):
            yield tp.tape_function
