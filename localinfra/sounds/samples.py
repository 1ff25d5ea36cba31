"""A client's sound file → samples as a model's projector takes them."""

import base64
import hashlib
import struct
from functools import cached_property
from typing import TYPE_CHECKING

import msgspec

from localinfra.errors import InvalidRequest
from localinfra.sounds import decoding, wav
from localinfra.sounds.heard import BadSound

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAX_BYTES = 64 << 20  # half an hour of 16 kHz and 16 bits
MAX_SECONDS = 1800.0
FORMATS = "WAV, MP3, FLAC or OGG"


class Samples(msgspec.Struct, frozen=True, eq=False, dict=True):
    """A sound of one channel."""

    data: "NDArray[np.float32]"  # [num_samples], -1 to 1
    rate: int  # samples per second

    @property
    def seconds(self) -> float:
        return len(self.data) / self.rate

    @cached_property
    def digest(self) -> bytes:
        """32 bytes, the same for the same samples in whatever format they came."""
        found = hashlib.sha256(b"sound" + struct.pack("<I", self.rate))
        found.update(self.data.data)
        return found.digest()


def is_sound(data: bytes) -> bool:
    """Whether a file's first bytes are those of a sound."""
    return wav.is_wav(data) or decoding.is_compressed(data)


def is_sound_url(url: str) -> bool:
    """Whether base64, alone or in a data URL, begins like a sound."""
    start = url.find("base64,", 0, 300) + len("base64,") if url[:5].lower() == "data:" else 0
    try:
        return is_sound(base64.b64decode(url[start : start + 16]))
    except ValueError:
        return False


def read_samples(data: bytes, param: str, rate: int, max_seconds: float = MAX_SECONDS) -> Samples:
    """A file's sound, its channels mixed into one, `rate` samples per second. Blocking: takes up
    to seconds.

    Raises InvalidRequest, which names `param`, if it can't be read or is beyond a limit.
    """
    if len(data) > MAX_BYTES:
        raise InvalidRequest(
            f"{param} has {len(data):,} bytes of sound; at most {MAX_BYTES:,} are accepted. Send a "
            "part of it, or as MP3.",
            param,
        )
    try:
        if wav.is_wav(data):
            found = wav.read_wav(data, rate, max_seconds)
        elif decoding.is_compressed(data):
            found = decoding.decoded(data, rate, max_seconds)
        else:
            raise BadSound(f"can't be read as a sound: send a complete file in {FORMATS}")
    except BadSound as error:
        raise InvalidRequest(f"{param} {error}.", param) from None
    return Samples(found, rate)
