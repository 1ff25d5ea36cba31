"""llama.cpp's C API, by llama-cpp-python's ctypes modules.

Their package would also import its own server's classes and what those need, which takes longer
than all of these modules: they are imported without it.
"""

import ctypes
import functools
import importlib
import importlib.util
import sys
from typing import Any

PACKAGE = "llama_cpp"

_spec = importlib.util.find_spec(PACKAGE)
_bare = importlib.util.module_from_spec(_spec) if _spec else None  # not executed
_is_imported = PACKAGE in sys.modules
if _bare and not _is_imported:
    sys.modules[PACKAGE] = _bare
try:
    from llama_cpp import llama_cpp, llama_cpp_ext
    from llama_cpp._ggml import libggml
finally:
    if not _is_imported:
        sys.modules.pop(PACKAGE, None)  # whoever imports the package gets all of it

__all__ = ["ggml", "libggml", "llama_cpp", "llama_cpp_ext", "mtmd"]


@functools.cache
def mtmd() -> Any:
    """The module for libmtmd, which only models with a projector need. Raises an OSError or a
    RuntimeError if llama.cpp was compiled without it."""
    is_imported = PACKAGE in sys.modules
    if _bare and not is_imported:
        sys.modules[PACKAGE] = _bare
    try:
        return importlib.import_module("llama_cpp.mtmd_cpp")
    finally:
        if not is_imported:
            sys.modules.pop(PACKAGE, None)


def ggml(name: str, returns: type | None, *takes: type) -> "ctypes._NamedFuncPointer":
    """A function of ggml.h or ggml-backend.h, which llama-cpp-python loads but does not declare."""
    function: ctypes._NamedFuncPointer = getattr(libggml, name)
    function.restype, function.argtypes = returns, takes
    return function


# OpenMP keeps a team of compute threads for each thread that ever computed. libgomp counts sleeping
# ones too, and no longer lets waiting threads spin once there are more than cores: with two models,
# one of them idle, a step of 7 ms takes 20 (2 cores). The handle also finds symbols of libraries
# that llama.cpp links; builds without OpenMP lack this one.
_pause_openmp = getattr(llama_cpp._lib, "omp_pause_resource_all", None)
_PAUSE_SOFT = 1


def pause_threads() -> None:
    """Ends the waiting compute threads of this thread's team, if there are any."""
    if _pause_openmp is not None:
        _pause_openmp(_PAUSE_SOFT)
