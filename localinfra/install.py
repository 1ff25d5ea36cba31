"""What is installed, and commands that install what is missing, ready to paste.

localinfra is on no package index: its extras are installed from a checkout, or package by package,
and llama.cpp by scripts/serve, or by `localinfra setup`.
"""

import importlib.util
import re
import shlex
import sys
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import localinfra

ROOT = Path(localinfra.__file__).resolve().parent.parent
HAS_SCRIPTS = (ROOT / "scripts" / "serve").exists()  # a checkout, which sets its .venv up itself


def is_installed(library: str) -> bool:
    """Without importing it."""
    return importlib.util.find_spec(library) is not None


def pip(*arguments: str) -> str:
    return shlex.join(pip_command(*arguments))


def pip_command(*arguments: str) -> list[str]:
    """For this environment; those that uv makes have no pip."""
    own, uvs = [sys.executable, "-m", "pip", "install"], ["uv", "pip", "install", "--python"]
    return [*(own if is_installed("pip") else [*uvs, sys.executable]), *arguments]


def extra(name: str) -> str:
    """The command for one of pyproject.toml's extras, such as "embeddings"."""
    if (ROOT / "pyproject.toml").exists():
        return pip("-e", f"{ROOT}[{name}]")
    marker = re.compile(rf"extra\s*==\s*['\"]{name}['\"]")
    return pip(*(r.partition(";")[0].strip() for r in requirements() if marker.search(r)))


def rebuild(backend: str = "", *, compiles: bool = False, has_scripts: bool = HAS_SCRIPTS) -> str:
    """The command that replaces llama.cpp: by a build for the backend, by default the one that
    suits this machine, and if asked, by one compiled for exactly this CPU."""
    if has_scripts:
        prefix = "CMAKE_ARGS=-DGGML_NATIVE=on " if compiles else ""
        prefix += f"LOCALINFRA_BACKEND={backend} " if backend else ""
        return prefix + shlex.quote(str(ROOT / "scripts" / "serve"))
    words = [f"--backend {backend}"] if backend else []
    return " ".join(["localinfra setup", *words, *(["--compile"] if compiles else [])])


def repair(has_scripts: bool = HAS_SCRIPTS) -> str:
    """The command that replaces a llama.cpp that does not run here."""
    if has_scripts:  # its set-up would believe its stamp, unless it is asked for another build
        return rebuild("cpu", compiles=True, has_scripts=True)
    return rebuild(has_scripts=False)


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
