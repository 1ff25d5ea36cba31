"""What benchmarks write into the documents."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))

from benchreport import ROOT, publish, table

SCRIPTS = sorted(path.name for path in (ROOT / "scripts").glob("bench_*"))


def test_a_table_is_markdown() -> None:
    assert table(["a", "b"], [["1", "2"]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"


def test_a_report_replaces_the_last_one(tmp_path: Path) -> None:
    document = tmp_path / "speed.md"
    document.write_text("before\n<!-- bench_x -->\nold\n<!-- end of bench_x -->\nafter\n")
    publish("bench_x", "new", writes=False, folder=tmp_path)
    assert "old" in document.read_text()
    publish("bench_x", "new", writes=True, folder=tmp_path)
    assert document.read_text() == (
        "before\n<!-- bench_x -->\nnew\n<!-- end of bench_x -->\nafter\n"
    )


def test_a_report_without_a_place_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="bench_x"):
        publish("bench_x", "new", writes=True, folder=tmp_path)


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_documents_have_a_place_for_every_benchmark(script: str) -> None:
    places = [f"<!-- {script} -->", f"<!-- end of {script} -->"]
    documents = [path.read_text(encoding="utf-8") for path in (ROOT / "docs").glob("*.md")]
    assert [text.count(places[0]) + text.count(places[1]) for text in documents].count(2) == 1
