"""The chat templates that llama.cpp tests with, from llama-cpp-python's pinned source distribution.

Fetched once for each version into the user's cache; never part of this repository.
"""

import os
import subprocess
import sys
import tarfile
import tempfile
from importlib.metadata import version
from pathlib import Path

import pytest

INSIDE = "/vendor/llama.cpp/models/templates/"


def folder() -> Path:
    """Where they are. Skips the test, with the reason, if they can't be fetched."""
    pinned = version("llama-cpp-python").partition("+")[0]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "localinfra"
    found = cache / f"templates-{pinned}"
    if not found.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as scratch:
            unpacked = Path(scratch) / "templates"
            unpacked.mkdir()
            fetch(f"llama-cpp-python=={pinned}", Path(scratch), unpacked)
            try:
                unpacked.rename(found)
            except OSError:  # another process was first
                assert found.exists()
    return found


def fetch(requirement: str, scratch: Path, unpacked: Path) -> None:
    download = [sys.executable, "-m", "pip", "--no-input", "--disable-pip-version-check"]
    download += ["download", "--no-deps", "--no-binary", "llama-cpp-python", "-d", str(scratch)]
    done = subprocess.run([*download, requirement], capture_output=True, text=True)
    archive = next(scratch.glob("*.tar.gz"), None)
    if done.returncode or archive is None:
        pytest.skip(f"{requirement} can't be fetched: {done.stderr.strip()[-300:]}")
    with tarfile.open(archive) as tar:
        for member in tar:
            if INSIDE in member.name and member.name.endswith(".jinja"):
                file = tar.extractfile(member)
                assert file
                (unpacked / Path(member.name).name).write_bytes(file.read())
