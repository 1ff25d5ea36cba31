"""Sound files of clients: tones and noise, in the formats that are read."""

import io
import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

RATE = 16_000


def tone(seconds: float = 0.5, hertz: float = 440, rate: int = RATE) -> NDArray[np.float32]:
    at = np.arange(round(seconds * rate)) / rate
    return (0.5 * np.sin(2 * np.pi * hertz * at)).astype(np.float32)


def noise(seconds: float = 0.5, seed: int = 0, rate: int = RATE) -> NDArray[np.float32]:
    size = round(seconds * rate)
    return np.random.default_rng(seed).uniform(-0.5, 0.5, size).astype(np.float32)


def wav(
    samples: NDArray[np.float32],
    rate: int = RATE,
    *,
    tag: int = 1,
    bits: int = 16,
    claimed: int | None = None,
) -> bytes:
    """`samples`: [num_samples] or [num_samples, num_channels]; `claimed`: bytes of them, if not
    as many as there are."""
    channels = samples.shape[1] if samples.ndim > 1 else 1
    data = stored(samples, tag, bits)
    form = struct.pack(
        "<HHIIHH", tag, channels, rate, rate * channels * bits // 8, channels * bits // 8, bits
    )
    size = len(data) if claimed is None else claimed
    body = b"WAVE" + chunk(b"fmt ", form) + b"data" + struct.pack("<I", size) + data
    return b"RIFF" + struct.pack("<I", len(body)) + body


def chunk(name: bytes, data: bytes) -> bytes:
    return name + struct.pack("<I", len(data)) + data + bytes(len(data) % 2)


def stored(samples: NDArray[np.float32], tag: int = 1, bits: int = 16) -> bytes:
    if tag == 3:
        return samples.astype(f"<f{bits // 8}").tobytes()
    if bits == 8:
        return np.round(samples * 127 + 128).astype(np.uint8).tobytes()
    whole = np.round(samples.astype(np.float64) * ((1 << (bits - 1)) - 1)).astype("<i4")
    if bits == 24:
        return whole.reshape(-1).view(np.uint8).reshape(-1, 4)[:, :3].tobytes()
    return whole.astype(f"<i{bits // 8}").tobytes()


def compressed(samples: NDArray[np.float32], form: str, rate: int = RATE, **options: Any) -> bytes:
    """A file in MP3, FLAC or OGG."""
    import soundfile

    out = io.BytesIO()
    soundfile.write(out, samples, rate, format=form, **options)
    return out.getvalue()
