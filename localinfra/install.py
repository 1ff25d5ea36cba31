"""The commands that install what is missing, as a reader can paste them.

localinfra itself is on no package index: its extras come from a checkout, or by the names of the
packages that they bring.
"""

import re
import shlex
import sys
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import localinfra

ROOT = Path(localinfra.__file__).resolve().parent.parent


def pip(*arguments: str) -> str:
    return shlex.join([sys.executable, "-m", "pip", "install", *arguments])


def extra(name: str) -> str:
    """For one of pyproject.toml's optional parts, such as "embeddings"."""
    if (ROOT / "pyproject.toml").exists():
        return pip("-e", f"{ROOT}[{name}]")
    marker = re.compile(rf"extra\s*==\s*['\"]{name}['\"]")
    return pip(*(r.partition(";")[0].strip() for r in requirements() if marker.search(r)))


def pinned(package: str) -> str:
    """The requirement as localinfra's own metadata has it."""
    return next(
        (r.partition(";")[0].strip() for r in requirements() if r.startswith(package)), package
    )


def requirements() -> list[str]:
    try:
        return requires("localinfra") or []
    except PackageNotFoundError:  # started from a folder, never installed
        return []
