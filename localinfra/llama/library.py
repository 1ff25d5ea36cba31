"""llama.cpp's C API, by llama-cpp-python's ctypes modules.

Their package would also import its own server's classes and what those need, which takes longer
than all of these modules: they are imported without it.
"""

import importlib.util
import sys

PACKAGE = "llama_cpp"

_spec = importlib.util.find_spec(PACKAGE)
_is_imported = PACKAGE in sys.modules
if _spec and not _is_imported:
    sys.modules[PACKAGE] = importlib.util.module_from_spec(_spec)  # not executed
try:
    from llama_cpp import llama_cpp, llama_cpp_ext
    from llama_cpp._ggml import libggml
finally:
    if not _is_imported:
        sys.modules.pop(PACKAGE, None)  # whoever imports the package gets all of it

__all__ = ["libggml", "llama_cpp", "llama_cpp_ext"]
