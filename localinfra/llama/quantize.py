"""A GGUF file → the same model with weights of another type, by llama.cpp's own quantizer.

The source must have passed `models/gguf/reader.py`. Takes seconds to minutes without holding the
GIL; run it in a child process to be able to stop it.
"""

import ctypes
import os
from pathlib import Path

from localinfra.llama import log
from localinfra.llama.library import llama_cpp
from localinfra.llama.log import init_library

# enum llama_ftype; norms and other vectors stay F32 in all of them
FTYPES = {"f16": 1, "q4_0": 2, "q8_0": 7}


class QuantizeFailed(Exception):
    """No usable file was written; the message quotes llama.cpp."""


def quantize(source: Path, target: Path, type: str, threads: int) -> None:
    """Writes `target` from weights of any type. Raises QuantizeFailed, and may leave a partial
    `target` then."""
    init_library()
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = FTYPES[type]
    params.nthread = threads
    params.allow_requantize = True
    log.recent_errors()
    code = llama_cpp.llama_model_quantize(
        os.fsencode(source), os.fsencode(target), ctypes.byref(params)
    )
    if code:
        reason = log.recent_errors() or f"llama_model_quantize returned {code}"
        raise QuantizeFailed(f"{source} could not be written as {type.upper()}: {reason}")
