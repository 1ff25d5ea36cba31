"""What is installed, and commands that install what is missing, ready to paste.

localinfra is on no package index: its extras are installed from a checkout, or package by package.
"""

import importlib.util
import re
import shlex
import sys
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import localinfra

ROOT = Path(localinfra.__file__).resolve().parent.parent


def is_installed(library: str) -> bool:
    """Without importing it."""
    return importlib.util.find_spec(library) is not None


def pip(*arguments: str) -> str:
    """For this environment; those that uv makes have no pip."""
    own, uvs = [sys.executable, "-m", "pip", "install"], ["uv", "pip", "install", "--python"]
    command = own if is_installed("pip") else [*uvs, sys.executable]
    return shlex.join([*command, *arguments])


def extra(name: str) -> str:
    """The command for one of pyproject.toml's extras, such as "embeddings"."""
    if (ROOT / "pyproject.toml").exists():
        return pip("-e", f"{ROOT}[{name}]")
    marker = re.compile(rf"extra\s*==\s*['\"]{name}['\"]")
    return pip(*(r.partition(";")[0].strip() for r in requirements() if marker.search(r)))


def pinned(package: str) -> str:
    """The package's requirement, with its version, from localinfra's metadata."""
    return next(
        (r.partition(";")[0].strip() for r in requirements() if r.startswith(package)), package
    )


def requirements() -> list[str]:
    try:
        return requires("localinfra") or []
    except PackageNotFoundError:  # run from a folder, never installed
        return []
