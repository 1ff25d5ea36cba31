"""A GGUF file → the same model with its weights in another type, by llama.cpp's own quantizer.

The source must have passed `models/gguf/reader.py`. Takes seconds to minutes and holds no
interpreter lock meanwhile: to be able to stop it, call it in a process of its own.
"""

import ctypes
import os
from pathlib import Path

from llama_cpp import llama_cpp

from localinfra.llama import log
from localinfra.llama.model import init_library

# enum llama_ftype; norms and other vectors stay F32 in all of them
FTYPES = {"f16": 1, "q4_0": 2, "q8_0": 7}


class QuantizeFailed(Exception):
    """No usable file was written; the message carries llama.cpp's own words."""


def quantize(source: Path, target: Path, type: str, threads: int) -> None:
    """Writes `target`, from weights of any type. Raises QuantizeFailed; a part of `target` may
    be left behind then."""
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
        reason = log.recent_errors() or f"llama_model_quantize gave {code}"
        raise QuantizeFailed(f"{source} could not be written as {type.upper()}: {reason}")
