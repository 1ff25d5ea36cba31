"""What a status of llama_decode means for the next steps."""

from localinfra.engine.backend import DecodeFailed, DeviceFailed
from localinfra.llama import log

COMPUTE_FAILED = -3  # what a GPU's driver reports stays so; lack of memory (-2) passes


def decode_failure(code: int, *, is_offloaded: bool) -> DecodeFailed:
    """`is_offloaded`: some layers are on a GPU."""
    reason = log.recent_errors() or "no further word from llama.cpp"
    is_lost = code <= COMPUTE_FAILED and is_offloaded
    return (DeviceFailed if is_lost else DecodeFailed)(f"llama_decode gave {code} ({reason})")
