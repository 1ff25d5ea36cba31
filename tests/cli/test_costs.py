"""`localinfra costs` without a server: the table, JSON, and the reset."""

import datetime
import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from localinfra import costs
from localinfra.cli.main import main
from localinfra.costs import CostRow, Used

TIME = datetime.datetime(2026, 1, 2, 3, 4, tzinfo=datetime.UTC)


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LOCALINFRA_CACHE", str(tmp_path))
    return costs.default_path()


@pytest.fixture
def kept(path: Path) -> Path:
    """A costs file with two keys, one of which used two models."""
    text = Used(
        requests=2, prompt_tokens=12_345, cached_tokens=345, generated_tokens=678, usd=0.0137
    )
    for key, model, used in (
        ("ff00aa11", "org/chatty:2024-07", text),
        ("none", "org/chatty:2024-07", text),
        ("none", "flux", Used(requests=1, images=3, usd=0.006)),
    ):
        row = CostRow(key=key, model=model, first_at=TIME, last_at=TIME)
        row.add(used)
        costs.add(path, [row])
    return path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["costs", *arguments])


def test_the_table_has_a_row_for_each_key_and_model_and_their_sum(kept: Path) -> None:
    lines = [line.split() for line in run().stdout.splitlines()]
    assert "".join(lines[0]) == "KEYMODELREQUESTSTOKENSINCACHEDTOKENSOUTIMAGESUSDSINCE"
    model = "org/chatty:2024-07"
    assert [line[:-2] for line in lines[1:]] == [
        ["ff00aa11", model, "2", "12,345", "345", "678", "0", "0.013700"],
        ["none", "flux", "1", "0", "0", "0", "3", "0.006000"],
        ["none", model, "2", "12,345", "345", "678", "0", "0.013700"],
        ["all", "5", "24,690", "690", "1,356", "3", "0.033400"],
    ]
    local = TIME.astimezone()
    assert lines[1][-2:] == [f"{local:%Y-%m-%d}", f"{local:%H:%M}"]


def test_the_json_is_that_of_the_file(kept: Path) -> None:
    printed = json.loads(run("--json").stdout)
    assert printed == json.loads(kept.read_bytes())
    assert printed["since"] and len(printed["rows"]) == 3
    assert printed["rows"][2] == {
        "key": "none", "model": "flux", "requests": 1, "prompt_tokens": 0, "cached_tokens": 0,
        "generated_tokens": 0, "images": 3, "usd": 0.006,
        "first_at": "2026-01-02T03:04:00Z", "last_at": "2026-01-02T03:04:00Z",
    }  # fmt: skip


def test_a_reset_shows_what_was_counted_and_starts_from_zero(kept: Path) -> None:
    ended = run("--reset")
    assert ended.exit_code == 0 and "ff00aa11" in ended.stdout and str(kept) in ended.stderr
    assert run().stdout == "Nothing has been used yet.\n"


def test_before_the_first_request_there_is_nothing(path: Path) -> None:
    assert run().stdout == "Nothing has been used yet.\n"
    assert json.loads(run("--json").stdout)["rows"] == []
    assert not path.exists()


def test_a_damaged_file_is_a_one_line_error_and_a_reset_repairs_it(kept: Path) -> None:
    kept.write_text("[]")
    ended = run()
    assert ended.exit_code == 1 and ended.stdout == ""
    assert ended.stderr.startswith(f"error: {kept} can't be read") and "--reset" in ended.stderr
    assert run("--reset").exit_code == 0
    assert run().stdout == "Nothing has been used yet.\n"
