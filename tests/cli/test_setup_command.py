"""`localinfra setup`: which builds of llama.cpp it tries, and when it is content."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from localinfra import install, llama_usable
from localinfra.backend_detect import Machine
from localinfra.cli import setup
from localinfra.cli.main import main
from localinfra.wheels import packed

# What stands in for pip: it has no prebuilt wheels, and unpacks what was compiled.
PIP = """
import pathlib, sys
arguments = sys.argv[1:]
if "--only-binary" in arguments:
    sys.exit(1)
if "--target" in arguments:
    folder = pathlib.Path(arguments[arguments.index("--target") + 1])
    info = folder / "llama_cpp_python-0.3.36.dist-info"
    info.mkdir(parents=True)
    (info / "WHEEL").write_text("Wheel-Version: 1.0\\nTag: py3-none-any\\n")
    (info / "RECORD").write_text(f"{info.name}/WHEEL,,\\n{info.name}/RECORD,,\\n")
"""


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[str, ...]]:
    """What pip was asked for. It has no prebuilt wheels, and a compiler."""
    asked: list[tuple[str, ...]] = []
    monkeypatch.setenv("LOCALINFRA_CACHE", str(tmp_path / "cache"))

    def command(*arguments: str) -> list[str]:
        asked.append(arguments)
        return [sys.executable, "-c", PIP, *arguments]

    monkeypatch.setattr(install, "pip_command", command)
    monkeypatch.setattr(setup, "look", lambda: Machine("Linux", "x86_64"))
    monkeypatch.setattr(setup, "tools", lambda: {"c++"})
    monkeypatch.delenv("CMAKE_ARGS", raising=False)
    return asked


def called(monkeypatch: pytest.MonkeyPatch, faults: list[str], *arguments: str) -> Result:
    """`faults`: what each trial of a build finds."""
    monkeypatch.setattr(setup, "trial", lambda backend, folder=None: faults.pop(0))
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
    ready, compiled, put = tried
    assert "--only-binary" in ready and ready[-2].endswith("/whl/cpu")
    assert "--no-binary" in compiled and "--cache-dir" in compiled
    assert compiled[-1] == install.pinned("llama-cpp-python")
    assert "--target" in compiled and "--target" not in put
    assert put[-1].endswith("/llama_cpp_python-0.3.36-py3-none-any.whl")
    assert not Path(put[-1]).exists()  # it leaves nothing behind


def test_a_build_that_fails_its_trial_replaces_nothing(
    tried: list[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llama_usable, "problem", lambda: "")
    done = called(monkeypatch, ["it was not compiled for cuda", "it crashes"])
    assert done.exit_code == 1 and "it crashes" in done.output
    assert "The installed one is as it was." in done.output
    assert all("--target" in arguments for arguments in tried)


def test_what_a_cuda_build_lacks_is_brought_before_it_is_tried_again(
    tried: list[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    lacks = "it can't be loaded (libcudart.so.12: cannot open shared object file)"
    done = called(monkeypatch, ["absent", lacks, ""])
    assert done.exit_code == 0 and "installed and runs" in done.output
    assert tried[2] == ("nvidia-cuda-runtime-cu12", "nvidia-cublas-cu12")
    assert tried[3][-1].endswith(".whl")
    done = called(monkeypatch, [lacks, ""])  # the installed build lacked nothing else
    assert "nothing to do" in done.output


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
    assert ["--no-binary" in arguments for arguments in tried] == [True, False]
    assert tried[1][-1].endswith(".whl")


def test_what_is_missing_or_wrong_is_said(
    tried: list[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    done = called(monkeypatch, ["absent", "it crashes"])
    assert done.exit_code == 1 and "does not work: it crashes" in done.output
    monkeypatch.setattr(setup, "tools", set)
    done = called(monkeypatch, ["absent"])
    assert done.exit_code == 1 and "build-essential" in done.output


def test_a_wheel_of_what_was_tried_installs_the_same_files(tmp_path: Path) -> None:
    """With the real pip, and a package with files beside its own folder, as llama-cpp-python's."""
    info = "odd_files-1.0.dist-info"
    wheel = tmp_path / "odd_files-1.0-py2.py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        names = {
            "odd_files/__init__.py": "",
            "lib/libodd.so": "x",
            f"{info}/METADATA": "Metadata-Version: 2.1\nName: odd-files\nVersion: 1.0\n",
            f"{info}/WHEEL": "Wheel-Version: 1.0\nTag: py2-none-any\nTag: py3-none-any\n",
        }
        for name, text in names.items():
            archive.writestr(name, text)
        rows = "".join(f"{name},,\n" for name in (*names, f"{info}/RECORD"))
        archive.writestr(f"{info}/RECORD", rows)

    def installed(file: Path, folder: Path) -> set[str]:
        command = [sys.executable, "-m", "pip", "install", "--no-index", "--no-deps", "-q"]
        subprocess.run([*command, "--target", str(folder), str(file)], check=True)
        return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}

    first = installed(wheel, tmp_path / "first")
    (tmp_path / "made").mkdir()
    made = packed(tmp_path / "first", "odd_files", tmp_path / "made")
    assert made.name == wheel.name
    assert installed(made, tmp_path / "second") == first
    assert "lib/libodd.so" in first


def test_a_build_is_tried_where_it_was_unpacked(tmp_path: Path) -> None:
    """The real trial: in the folder is a build that can't be loaded, in this environment one that
    can."""
    assert setup.trial("cpu") == ""
    (tmp_path / "llama_cpp").mkdir()
    (tmp_path / "llama_cpp" / "__init__.py").write_text("raise OSError('of the folder')")
    assert "OSError: of the folder" in setup.trial("cpu", tmp_path)
