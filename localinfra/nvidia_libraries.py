"""NVIDIA's libraries from PyPI's packages, for builds of llama.cpp that come without them.

Ready-made CUDA builds need libcudart and libcublas, which the system's CUDA toolkit has, or else
packages of NVIDIA (nvidia-cublas-cu12 and so on): those are in no place that the system's loader
searches. It is asked first, and what it doesn't find is loaded by its path before the next try, so
that a build without CUDA costs nothing, and one that finds its libraries keeps them.

Imports only the standard library: what tries a build in a child needs it too.
"""

import ctypes
import importlib.util
import re
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

Loaded = TypeVar("Loaded")

# As the loaders of glibc and musl say it.
MISSING = re.compile(
    r"(lib[\w.+-]+?\.so[.\d]*): cannot open shared object file"
    r"|Error loading shared library (lib[\w.+-]+?\.so[.\d]*):"
)


def with_libraries(load: Callable[[], Loaded], folders: list[Path] | None = None) -> Loaded:
    """What `load` returns, once the libraries are loaded that it lacks and NVIDIA's packages have.

    `folders`: where those are; default: this environment's. Raises what `load` raises."""
    preloaded: set[str] = set()
    while True:
        try:
            return load()
        except (OSError, RuntimeError) as error:  # llama-cpp-python makes a RuntimeError of it
            name = missing_library(str(error))
            folders = package_folders() if folders is None else folders
            path = next((found for folder in folders if (found := folder / name).exists()), None)
            if not name or name in preloaded or path is None:
                raise
            preloaded.add(name)
            preload(path, folders)


def preload(path: Path, folders: list[Path]) -> None:
    """It stays loaded as long as the process, and serves whoever needs a library of its name."""
    with_libraries(lambda: ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL), folders)


def missing_library(error: str) -> str:
    """The file that the system's loader has not found; "" if it says nothing of the kind."""
    found = MISSING.search(error)
    return (found[1] or found[2]) if found else ""


def package_folders() -> list[Path]:
    """Where NVIDIA's packages have their libraries: nvidia/cublas/lib, for CUDA 13 nvidia/cu13/lib
    and so on."""
    spec = importlib.util.find_spec("nvidia")
    roots = (spec and spec.submodule_search_locations) or ()
    return sorted(folder for root in roots for folder in Path(root).glob("*/lib"))
