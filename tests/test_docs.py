"""Links in the documents lead to existing files and headings."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
FILE = re.compile(r"`((?:[a-z_]+/)+(?:[a-z_]+\.(?:py|md|toml|yml))?|scripts/[a-z_]+)`")
LINK = re.compile(r"\]\((?!\w+:)([^)#]*)(?:#([^)]*))?\)")


def anchors(document: Path) -> set[str]:
    """Its headings as links spell them: lower case, blanks as hyphens, no other signs."""
    headings = re.findall(r"^#+ (.*)$", document.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_links_lead_somewhere(document: Path) -> None:
    for path, anchor in LINK.findall(document.read_text(encoding="utf-8")):
        target = document.parent / path if path else document
        assert target.exists(), path
        assert not anchor or anchor in anchors(target), f"{path}#{anchor}"


def test_the_readme_leads_to_every_document() -> None:
    linked = {path for path, _ in LINK.findall((ROOT / "README.md").read_text(encoding="utf-8"))}
    assert {f"docs/{path.name}" for path in ROOT.glob("docs/*.md")} <= linked


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_files_named_in_the_text_exist(document: Path) -> None:
    """`engine/kvcache.py` may leave the package's name out."""
    named = FILE.findall(re.sub(r"```.*?```", "", document.read_text(encoding="utf-8"), flags=re.S))
    places = (ROOT, ROOT / "localinfra", ROOT / "tests", document.parent)
    assert not [path for path in named if not any((place / path).exists() for place in places)]


def test_the_tests_that_hold_a_promise_are_there() -> None:
    security = (ROOT / "SECURITY.md").read_text()
    table = security.partition("### Between keys")[2].partition("\n## ")[0]
    code = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    files = {path.name for path in (ROOT / "tests").rglob("test_*.py")}
    named = re.findall(r"`(?:[\w/]+/)?(test_\w+(?:\.py)?)`", table)
    assert len(named) > 15
    for name in named:
        assert name in files if name.endswith(".py") else f"def {name}(" in code, name


def test_the_tests_that_security_names_exist() -> None:
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text)
    assert len(named) > 40
    for file, name in named:
        assert f"def {name}(" in (ROOT / file).read_text(encoding="utf-8"), f"{file}::{name}"
