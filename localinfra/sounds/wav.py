"""WAV files, read strictly: a header that lies is refused, except about a length that its writer
could not know. http://soundfile.sapp.org/doc/WaveFormat/ and RFC 2361."""

import struct
from typing import TYPE_CHECKING, NamedTuple

from localinfra.sounds.heard import BadSound, check_length, check_shape

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PCM, FLOAT, ALAW, MULAW, EXTENSIBLE = 1, 3, 6, 7, 0xFFFE
BITS = {PCM: (8, 16, 24, 32), FLOAT: (32, 64), ALAW: (8,), MULAW: (8,)}
UNKNOWN_LENGTH = 0x7FFF_0000  # from here on: a stream's writer did not know the end
MAX_CHUNKS = 1000
BLOCK = 1 << 20  # samples read at a time: all at once would hold the interpreter's lock

AGAIN = "save it again as 16-bit PCM"


class WavFormat(NamedTuple):
    tag: int  # PCM, FLOAT, ALAW or MULAW
    num_channels: int
    rate: int
    bits: int  # of a sample

    @property
    def frame_bytes(self) -> int:
        return self.num_channels * self.bits // 8


def is_wav(data: bytes) -> bool:
    return data[:4] == b"RIFF" and data[8:12] == b"WAVE"


def read_wav(data: bytes, rate: int, max_seconds: float) -> "NDArray[np.float32]":
    """[num_samples], one channel at `rate`. Raises BadSound."""
    import numpy as np

    from localinfra.sounds.resampling import Resampler

    form, start, end = _parts(data)
    num_frames = (end - start) // form.frame_bytes
    check_length(num_frames, form.rate, max_seconds)
    resampler = Resampler(form.rate, rate)
    for first in range(0, num_frames, BLOCK):
        last = min(first + BLOCK, num_frames)
        piece = data[start + first * form.frame_bytes : start + last * form.frame_bytes]
        channels = _values(piece, form).reshape(-1, form.num_channels)
        mono = channels.mean(axis=1, dtype=np.float32)
        if not np.isfinite(mono).all():
            raise BadSound(f"has samples that are no numbers; {AGAIN}")
        resampler.push(np.clip(mono, -1, 1, out=mono))
    resampler.finish()
    return np.concatenate(resampler.pieces)


def _parts(data: bytes) -> tuple[WavFormat, int, int]:
    """The format, and where the samples begin and end."""
    form: WavFormat | None = None
    at = 12
    for _ in range(MAX_CHUNKS):
        if at + 8 > len(data):
            break
        name, size = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        at += 8
        if name == b"data":
            if form is None:
                raise BadSound(f"does not say how its samples are stored; {AGAIN}")
            left = len(data) - at
            if size > left and size < UNKNOWN_LENGTH:
                raise BadSound(f"claims {size:,} bytes of samples and holds {left:,}; send all")
            return form, at, at + min(size, left)
        if name == b"fmt ":
            form = _format(data[at : at + size])
        at += size + size % 2
    raise BadSound(f"has no samples (a data chunk); {AGAIN}")


def _format(chunk: bytes) -> WavFormat:
    if len(chunk) < 16:
        raise BadSound(f"has a format of {len(chunk)} bytes, of which 16 are needed; {AGAIN}")
    tag, num_channels, rate, _, frame_bytes, bits = struct.unpack_from("<HHIIHH", chunk)
    if tag == EXTENSIBLE and len(chunk) >= 26:
        tag = int.from_bytes(chunk[24:26], "little")
    if bits not in BITS.get(tag, ()):
        raise BadSound(f"is stored in a way that is not read (format {tag}, {bits} bits); {AGAIN}")
    check_shape(num_channels, rate)
    form = WavFormat(tag, num_channels, rate, bits)
    if frame_bytes != form.frame_bytes:
        raise BadSound(
            f"claims {frame_bytes} bytes for {num_channels} channels of {bits} bits, which take "
            f"{form.frame_bytes}; {AGAIN}"
        )
    return form


def _values(piece: bytes, form: WavFormat) -> "NDArray[np.float32]":
    """Samples from -1 to 1, in the order of the file."""
    import numpy as np

    if form.tag in (ALAW, MULAW):
        return companded(form.tag)[np.frombuffer(piece, np.uint8)]
    if form.tag == FLOAT:
        with np.errstate(over="ignore"):  # becomes infinite, which is refused
            return np.frombuffer(piece, f"<f{form.bits // 8}").astype(np.float32)
    if form.bits == 8:  # the only ones without a sign
        return (np.frombuffer(piece, np.uint8).astype(np.float32) - np.float32(128)) / np.float32(
            128
        )
    if form.bits == 24:
        wide = np.zeros((len(piece) // 3, 4), np.uint8)
        wide[:, 1:] = np.frombuffer(piece, np.uint8).reshape(-1, 3)
        return wide.view("<i4")[:, 0].astype(np.float32) / np.float32(1 << 31)
    whole = np.frombuffer(piece, f"<i{form.bits // 8}")
    return whole.astype(np.float32) / np.float32(1 << (form.bits - 1))


def companded(tag: int) -> "NDArray[np.float32]":
    """What each of 256 bytes stands for in A-law or µ-law (ITU-T G.711)."""
    import numpy as np

    codes = np.arange(256) ^ (0x55 if tag == ALAW else 0xFF)
    exponent, mantissa = (codes >> 4) & 7, codes & 15
    if tag == ALAW:
        size = np.where(exponent, (2 * mantissa + 33) << np.maximum(exponent, 1), 4 * mantissa + 2)
        return np.where(codes & 0x80, size, -size).astype(np.float32) * np.float32(4 / 32768)
    size = ((2 * mantissa + 33) << (exponent + 2)) - 132
    return np.where(codes & 0x80, -size, size).astype(np.float32) / np.float32(32768)
