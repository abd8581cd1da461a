"""The table of functions says what the tests check, and every function is in it and is checked."""

import pytest

from tests import functions_page


@pytest.fixture(scope="module")
def rows() -> list[str]:
    return [row for _, row in functions_page.rows()]


def test_the_page_is_made_of_the_tests() -> None:
    assert functions_page.PAGE.read_text() == functions_page.text(), "python -m tests.functions_page"


def test_every_function_is_checked_somewhere(rows: list[str]) -> None:
    cells = [row.split(" | ") for row in rows]
    assert [c[0] for c in cells if not c[2].strip()] == []


def test_every_function_says_what_it_does(rows: list[str]) -> None:
    assert [row for row in rows if not row.replace("\\|", "").split("|")[2].strip()] == []
