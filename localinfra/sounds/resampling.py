"""Samples at one rate → samples at another. Pure."""

import math

import numpy as np
from numpy.typing import NDArray

ZEROS = 16  # of a sinc on each side of a sample: -90 dB beyond the band, with BETA
BETA = 9.0
BLOCK = 1 << 22  # numbers multiplied at once


def resampled(samples: NDArray[np.float32], rate: int, wanted: int) -> NDArray[np.float32]:
    """Band-limited (Smith, "Digital Audio Resampling"): each new sample is a sum of those around
    it, weighted by a windowed sinc. Sums of the same fraction of a sample share their weights."""
    if rate == wanted:
        return samples
    common = math.gcd(rate, wanted)
    up, down = wanted // common, rate // common
    band = min(1.0, up / down)
    half = math.ceil(ZEROS / band)
    padded = np.pad(samples, half)
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * half)
    found = np.zeros(-(-len(samples) * up // down), np.float32)
    offsets = np.arange(1 - half, half + 1)
    num_rows = max(1, BLOCK // (2 * half))
    for phase in range(min(up, len(found))):
        base, rest = divmod(phase * down, up)
        distance = offsets - rest / up
        weights = (
            band
            * np.sinc(band * distance)
            * np.i0(BETA * np.sqrt(np.maximum(0.0, 1 - (distance / half) ** 2)))
        )
        kernel = (weights / np.i0(BETA)).astype(np.float32)
        target = found[phase::up]
        # `windows[i]` begins `half` samples before sample i; the sums begin one later.
        own = windows[base + 1 :: down]
        for first in range(0, len(target), num_rows):
            piece = own[first : first + num_rows]
            target[first : first + len(piece)] = piece[: len(target) - first] @ kernel
    return np.clip(found, -1, 1, out=found)
