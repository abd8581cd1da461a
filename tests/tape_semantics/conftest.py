"""`run`, which every file here uses."""

import pytest

import tapefuse as tp
from tests.tape_semantics.helpers import plain


@pytest.fixture(params=["eager", "staged"])
def run(request):
    """run(f, *args): the plain result of `f`, called in Python or traced and compiled."""
    return lambda f, *args: plain((f if request.param == "eager" else tp.tape_function(f))(*args))
