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

from localinfra.nvidia_libraries import with_libraries

PACKAGE = "llama_cpp"

_spec = importlib.util.find_spec(PACKAGE)
_bare = importlib.util.module_from_spec(_spec) if _spec else None  # not executed
_is_imported = PACKAGE in sys.modules
if _bare and not _is_imported:
    sys.modules[PACKAGE] = _bare
try:
    # It needs all others but libllama: here a CUDA build says which libraries it lacks.
    with_libraries(lambda: importlib.import_module("llama_cpp._ggml"))
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
