"""What the documents claim: the README's example prints what it says, links lead somewhere, commands exist."""

import contextlib
import io
import linecache
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted(p.relative_to(ROOT).as_posix() for p in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


def test_the_readmes_example_prints_what_it_says():
    text = (ROOT / "README.md").read_text()
    code, printed = re.search(r"```python\n(.*?)```\s+```\n(.*?)```", text, re.S).groups()
    assert len(code.splitlines()) == 15
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(compile(code, "README.md", "exec"), {})
    assert out.getvalue() == printed


EXAMPLES = [(d, k) for d in DOCUMENTS if d != "README.md" for k in range((ROOT / d).read_text().count("```python\n"))]


@pytest.mark.parametrize(("document", "number"), EXAMPLES)
def test_the_examples_of_the_documents_run(document, number, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = re.findall(r"```python\n(.*?)```", (ROOT / document).read_text(), re.S)[number]
    name = f"{document}[{number}]"
    linecache.cache[name] = (len(code), None, code.splitlines(True), name)  # functions have their source, as in a file
    exec(compile(code, name, "exec"), {"__name__": "example"})


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_inside_the_repository_lead_somewhere(document):
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", (ROOT / document).read_text())
    missing = [t for t in targets if not ((ROOT / document).parent / t).exists()]
    assert not missing


def test_decisions_are_numbered_without_gaps():
    names = sorted(p.name for p in (ROOT / "docs" / "decisions").glob("*.md"))
    assert [n[:4] for n in names] == [f"{k:04}" for k in range(1, len(names) + 1)]
