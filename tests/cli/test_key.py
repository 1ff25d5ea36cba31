"""`localinfra key`, without a server."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from localinfra import costs
from localinfra.cli.main import main
from localinfra.costs import CostRow
from localinfra.keys import file
from localinfra.keys.record import KeyLimits, hash_of


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LOCALINFRA_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("LOCALINFRA_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("LOCALINFRA_API_KEYS", raising=False)
    settings = tmp_path / "models.toml"
    settings.write_text(
        "[server]\nserve_pulled = false\n[model.here]\nkind = 'text'\nsource = 'x.gguf'"
    )
    monkeypatch.setenv("LOCALINFRA_CONFIG", str(settings))
    return file.default_path()


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["key", *arguments])


def test_the_output_of_new_is_the_key_alone_and_its_hash_is_kept(path: Path) -> None:
    made = run("new", "alice")
    assert made.exit_code == 0, made.output
    key = made.stdout.removesuffix("\n")
    assert key.startswith("sk-li-") and "\n" not in key
    book = file.read(path)
    assert book and [record.sha256 for record in book.keys] == [hash_of(key.encode()).hex()]
    assert key not in path.read_text() and key not in run("list").output


def test_all_it_may_do_is_kept_and_listed(path: Path) -> None:
    options = ["--rpm", "6", "--tpm", "7000", "--concurrent", "2", "--expires", "30d", "--manage"]
    shown = json.loads(run("new", "bob", *options, "--model", "here", "--json").stdout)
    book = file.read(path)
    assert book
    [record] = book.keys
    assert record.limits == KeyLimits(rpm=6, tpm=7000, concurrent=2)
    assert record.expires and (record.expires - record.created).days == 30
    assert (record.models, record.may_manage) == (("here",), True)
    key = shown.pop("key")
    assert hash_of(key.encode()).hex()[:8] == shown["id"]
    [listed] = json.loads(run("list", "--json").stdout)
    assert listed == shown
    heading, row = run("list").stdout.splitlines()
    assert heading.split()[:2] == ["NAME", "ID"]
    assert row.split()[:2] == ["bob", record.label] and "7,000" in row and row.endswith("yes")


def test_the_first_key_says_what_it_changes(path: Path) -> None:
    first, second = run("new", "alice").stderr, run("new", "bob").stderr
    assert "from now on this user's servers ask everyone for one" in first
    assert "`localinfra key new NAME --manage`" in first
    assert "from now on" not in second and "not shown again" in second


def test_a_server_that_has_keys_already_is_not_said_to_change(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCALINFRA_API_KEYS", "plain")
    assert "from now on" not in run("new", "alice").stderr


def test_an_unknown_model_is_told(path: Path) -> None:
    assert (
        "No model is called heer yet; did you mean here?"
        in run("new", "alice", "--model", "heer").stderr
    )


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["new", "a b"], "can't be a key's name"),
        (["new", ""], "can't be a key's name"),
        (["new", "alice"], "There is a key of alice already"),
        (["new", "x", "--rpm", "0"], "--rpm"),
        (["new", "x", "--expires", "soon"], "write 12h, 30d, 8w or a day"),
        (["new", "x", "--expires", "0d"], "write 12h"),
        (["new", "x", "--expires", "999999w"], "write 12h"),
        (["new", "x", "--expires", "2001-01-01"], "name a later day"),
        (["revoke", "alicia"], "did you mean alice?"),
    ],
)
def test_mistakes_are_named_and_change_nothing(path: Path, arguments: list[str], why: str) -> None:
    run("new", "alice")
    before = path.read_bytes()
    result = run(*arguments)
    assert result.exit_code in (1, 2) and why in result.stderr and not result.stdout
    assert path.read_bytes() == before


@pytest.mark.parametrize("time", ["90m", "12h", "2w", "2999-12-31"])
def test_a_key_may_expire(path: Path, time: str) -> None:
    assert run("new", "alice", "--expires", time).exit_code == 0
    assert "never" not in run("list").stdout


def test_revoked_keys_are_gone_and_the_last_one_says_what_follows(path: Path) -> None:
    assert "no named key yet" in run("list").stdout
    assert "There is no named key" in run("revoke", "alice").stderr
    run("new", "alice")
    run("new", "bob")
    assert run("revoke", "alice").stdout.splitlines() == [
        "Servers refuse the key of alice within a second; its running answers go on."
    ]
    assert "alice" not in run("list").stdout
    last = run("revoke", "bob").stdout
    assert "go on asking for one" in last and f"delete {path}" in last
    assert f"delete {path}" in run("list").stdout


def test_a_damaged_file_is_a_clear_error(path: Path) -> None:
    run("new", "alice")
    path.write_text("{")
    for arguments in (["list"], ["new", "x"], ["revoke", "alice"]):
        result = run(*arguments)
        assert result.exit_code == 2 and f"{path} is damaged" in result.stderr


def test_costs_have_the_names_of_keys(path: Path) -> None:
    key = run("new", "alice").stdout.strip()
    label, now = hash_of(key.encode()).hex()[:8], costs.now()
    rows = [CostRow(key=each, model="m", first_at=now, last_at=now) for each in (label, "none")]
    costs.add(costs.default_path(), rows)
    shown = CliRunner().invoke(main, ["costs"]).stdout
    assert f"{label} alice" in shown and "none" in shown
    run("revoke", "alice")
    assert "alice" not in CliRunner().invoke(main, ["costs"]).stdout


def test_a_shell_completes_names(path: Path) -> None:
    run("new", "alice")
    run("new", "bob")
    words = {"COMP_WORDS": "localinfra key revoke a", "COMP_CWORD": "3"}
    result = CliRunner().invoke(
        main, [], prog_name="localinfra", env={"_LOCALINFRA_COMPLETE": "bash_complete", **words}
    )
    assert result.stdout.split() == ["plain,alice"]
