"""`localinfra setup`: which builds of llama.cpp it tries, and when it is content."""

import sys

import pytest
from click.testing import CliRunner, Result

from localinfra import install
from localinfra.backend_detect import Machine
from localinfra.cli import setup
from localinfra.cli.main import main


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """What pip was asked for. It has no prebuilt wheels, and a compiler."""
    asked: list[tuple[str, ...]] = []

    def command(*arguments: str) -> list[str]:
        asked.append(arguments)
        return [sys.executable, "-c", f"exit({'--only-binary' in arguments:d})"]

    monkeypatch.setattr(install, "pip_command", command)
    monkeypatch.setattr(setup, "look", lambda: Machine("Linux", "x86_64"))
    monkeypatch.setattr(setup, "tools", lambda: {"c++"})
    monkeypatch.delenv("CMAKE_ARGS", raising=False)
    return asked


def called(monkeypatch: pytest.MonkeyPatch, faults: list[str], *arguments: str) -> Result:
    """`faults`: what each trial of a build finds."""
    monkeypatch.setattr(setup, "trial", lambda backend: faults.pop(0))
    return CliRunner().invoke(main, ["setup", *arguments])


def test_a_build_that_runs_is_left_alone(
    tried: list[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    done = called(monkeypatch, [""])
    assert done.exit_code == 0 and "nothing to do" in done.output and not tried


def test_without_a_ready_made_build_it_is_compiled_and_tried(
    tried: list[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    done = called(monkeypatch, ["llama-cpp-python is not installed", ""])
    assert done.exit_code == 0 and "installed and runs" in done.output
    ready, compiled = tried
    assert "--only-binary" in ready and ready[-2].endswith("/whl/cpu")
    assert "--no-binary" in compiled and "--cache-dir" in compiled
    assert compiled[-1] == install.pinned("llama-cpp-python")


def test_without_pip_and_uv_it_says_what_brings_pip(
    tried: list[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(install, "pip_command", lambda *arguments: ["uv-that-is-nowhere"])
    done = called(monkeypatch, ["absent"])
    assert done.exit_code == 1 and "-m ensurepip" in done.output


def test_no_ready_made_build_is_taken_if_it_is_to_be_compiled(
    tried: list[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert called(monkeypatch, [""], "--compile").exit_code == 0
    assert ["--no-binary" in arguments for arguments in tried] == [True]


def test_what_is_missing_or_wrong_is_said(
    tried: list[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    done = called(monkeypatch, ["absent", "it crashes"])
    assert done.exit_code == 1 and "does not work: it crashes" in done.output
    monkeypatch.setattr(setup, "tools", set)
    done = called(monkeypatch, ["absent"])
    assert done.exit_code == 1 and "build-essential" in done.output
