"""Commands about a running server: ps, stop and reload."""

import os
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from serve_process import serving

from localinfra.cli.main import main


def called(stub: Any, *arguments: str) -> Result:
    return CliRunner().invoke(main, [*arguments, "--url", stub.url])


def test_ps_shows_what_is_in_memory(stub: Any) -> None:
    stub.models = (
        b'{"data":[{"id":"a","kind":"text","state":"loaded","memory":{"cpu":2000000000},'
        b'"context_length":4096},{"id":"b","kind":"text","state":"present"},'
        b'{"id":"c","kind":"text","state":"present","prefix_memory":12000000}]}'
    )
    lines = called(stub, "ps").stdout.splitlines()
    assert [line.split() for line in lines] == [
        ["MODEL", "KIND", "STATE", "MEMORY", "PREFIXES", "CONTEXT"],
        ["a", "text", "loaded", "2.0", "GB", "cpu", "-", "4096"],
        ["c", "text", "unloaded", "-", "12.0", "MB", "-"],
    ]
    stub.models = b'{"data":[]}'
    assert "no model in memory" in called(stub, "ps").stdout


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_what_listens_where_a_tunnel_or_another_machine_answers_is_not_ended(
    stub: Any, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "kill", lambda *_: pytest.fail("ended"))
    stub.url = stub.url.replace("127.0.0.1", host)
    done = called(stub, "stop")
    assert done.exit_code == 1 and "where it was started" in done.output


def test_a_server_of_this_machine_is_ended() -> None:
    with serving() as server:
        done = called(server, "stop")
        assert done.exit_code == 0, done.output
        assert server.popen.wait() == 0


def test_without_a_server_the_command_says_how_to_start_one(tmp_path: Path) -> None:
    file = tmp_path / "models.toml"
    file.write_text("server.port = 1")
    done = CliRunner().invoke(main, ["ps", "--config", str(file)])
    assert done.exit_code == 1 and "localinfra serve" in done.output
