"""Scratch files need no disk: a full or read-only one has no temporary folder."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from localinfra.children import module_command, result_of
from localinfra.logs import stacks
from localinfra.scratch import memory_file
from localinfra.sounds.decoding import decoded
from localinfra.sounds.heard import BadSound

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has files in memory")


@pytest.fixture
def no_temporary_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    with pytest.raises(OSError):
        tempfile.TemporaryFile()


@on_linux
@pytest.mark.usefixtures("no_temporary_folder")
def test_a_scratch_file_is_in_memory_and_shared_with_a_child() -> None:
    with memory_file() as file:
        program = "import os, sys; os.write(int(sys.argv[1]), b'from the child')"
        number = file.fileno()
        command = [sys.executable, "-c", program, str(number)]
        subprocess.run(command, pass_fds=[number], check=True)
        file.seek(0)
        assert file.read() == b"from the child"
        assert not os.get_inheritable(number)


@on_linux
@pytest.mark.usefixtures("no_temporary_folder")
def test_what_uses_one_works_without_a_disk() -> None:
    """Above all the watchdog, which notes the stacks before it gives up a thread that hangs."""
    assert "test_what_uses_one_works_without_a_disk" in stacks()
    assert result_of(module_command("localinfra.nothing"), 600).errors
    with pytest.raises(BadSound) as caught:
        decoded(b"OggS" + bytes(100), 16_000, 30.0)
    assert "its decoder ended" not in str(caught.value)  # it has read the file and answered


def test_without_files_in_memory_there_are_temporary_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create", raising=False)
    with memory_file() as file:
        file.write(b"kept")
        file.seek(0)
        assert file.read() == b"kept"
