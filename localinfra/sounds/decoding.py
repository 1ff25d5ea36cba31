"""Compressed sound files → samples, by a process of its own (`decoder.py`): decoders in C meet
untrusted bytes there, and the server lives on whatever becomes of it. Blocking."""

import subprocess
import time
from typing import TYPE_CHECKING

import msgspec

from localinfra.children import OWN_GROUP, module_command
from localinfra.executor import stop_if_abandoned
from localinfra.scratch import memory_file
from localinfra.sounds.heard import BadSound

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

COMMAND = module_command("localinfra.sounds.decoder")
# Half an hour of MP3 takes ten seconds. The process also has a limit of its own, in CPU time.
LIMIT_S = 600.0
POLL_S = 0.2
MARKS = (b"ID3", b"fLaC", b"OggS")


class DecodingRequest(msgspec.Struct, frozen=True):
    rate: int
    max_seconds: float


class DecodingResult(msgspec.Struct, frozen=True):
    """The line before the samples."""

    problem: str = ""
    num_samples: int = 0


def is_compressed(data: bytes) -> bool:
    """Whether it begins like MP3, FLAC or OGG."""
    # eleven bits of synchronization, then the layer, where 0 is no MPEG audio
    is_mpeg = len(data) > 1 and data[0] == 0xFF and data[1] & 0xE0 == 0xE0 and bool(data[1] & 6)
    return is_mpeg or data.startswith(MARKS)


def decoded(data: bytes, rate: int, max_seconds: float) -> "NDArray[np.float32]":
    """[num_samples], one channel at `rate`. Raises BadSound; Abandoned if nobody waits for it."""
    import numpy as np

    request = msgspec.json.encode(DecodingRequest(rate, max_seconds)).decode()
    with memory_file() as source, memory_file() as target:
        source.write(data)
        source.seek(0)
        process = subprocess.Popen(
            [*COMMAND, request],
            stdin=source,
            stdout=target,
            stderr=subprocess.DEVNULL,  # libmpg123 warns there of what it reads
            start_new_session=True,  # Ctrl-C must not end it first
            creationflags=OWN_GROUP,
        )
        try:
            status = _ended(process)
        finally:
            process.kill()
            process.wait()
        target.seek(0)
        line = target.readline(4096)
        try:
            result = msgspec.json.decode(line, type=DecodingResult)
        except msgspec.MsgspecError:
            raise BadSound(f"can't be decoded (its decoder ended with {status}); {AGAIN}") from None
        if result.problem:
            raise BadSound(result.problem)
        found = np.frombuffer(target.read(), np.float32)
    if len(found) != result.num_samples or not np.isfinite(found).all():
        raise BadSound(f"can't be decoded (its decoder ended with {status}); {AGAIN}")
    return found


AGAIN = "send it as WAV"


def _ended(process: "subprocess.Popen[bytes]") -> int:
    """Its exit status."""
    end_s = time.monotonic() + LIMIT_S
    while time.monotonic() < end_s:
        stop_if_abandoned()
        try:
            return process.wait(POLL_S)
        except subprocess.TimeoutExpired:
            continue
    raise BadSound(f"takes too long to decode; {AGAIN}")
