"""Samples at one rate → samples at another. Pure."""

import math

import numpy as np
from numpy.typing import NDArray

ZEROS = 16  # of a sinc on each side of a sample: -90 dB beyond the band, with BETA
BETA = 9.0
BLOCK = 1 << 22  # numbers multiplied at once
# Samples converted at once. A sound in eight channels at 192 kHz is a hundred times as large as
# what is made of it, and half an hour of silence takes a file of a megabyte.
PIECE = 1 << 20

Floats = NDArray[np.float32]


class Resampler:
    """Band-limited (Smith, "Digital Audio Resampling"): each new sample is a sum of those around
    it, weighted by a windowed sinc. Sums of the same fraction of a sample share their weights.

    Takes a sound in blocks of any size, on which no bit of the result depends, and keeps a piece of
    it at a time."""

    def __init__(self, rate: int, wanted: int):
        common = math.gcd(rate, wanted)
        self._up, self._down = wanted // common, rate // common
        self._band = min(1.0, self._up / self._down)
        self._half = math.ceil(ZEROS / self._band)  # samples on each side that a sum is made of
        self._piece = -(-PIECE // self._down) * self._down  # begins with a whole new sample
        self._kernels: dict[int, Floats] = {}  # by the fraction
        self._held = [np.zeros(self._half, np.float32)]
        self._num_held = self._half
        self.pieces: list[Floats] = []  # of the result so far

    def push(self, samples: Floats) -> None:
        """These follow: [any number], -1 to 1."""
        if self._up == self._down:
            self.pieces.append(samples)
            return
        self._held.append(samples)
        self._num_held += len(samples)
        needed = self._piece + 2 * self._half
        if self._num_held < needed:
            return
        held = np.concatenate(self._held)
        while len(held) >= needed:
            self.pieces.append(self._converted(held[:needed]))
            held = held[self._piece :]
        self._held, self._num_held = [held.copy()], len(held)

    def finish(self) -> None:
        """The sound has ended."""
        if self._up != self._down:
            silence = np.zeros(self._half, np.float32)
            self.pieces.append(self._converted(np.concatenate([*self._held, silence])))
            self._held = []

    def _converted(self, padded: Floats) -> Floats:
        """`padded`: samples, and `half` of those before and after them."""
        half, up, down = self._half, self._up, self._down
        num_samples = len(padded) - 2 * half
        windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * half)
        found = np.zeros(-(-num_samples * up // down), np.float32)
        num_rows = max(1, BLOCK // (2 * half))
        for phase in range(min(up, len(found))):
            kernel = self._kernel(phase)
            target = found[phase::up]
            # `windows[i]` begins `half` samples before sample i; the sums begin one later.
            own = windows[phase * down // up + 1 :: down]
            for first in range(0, len(target), num_rows):
                piece = own[first : first + num_rows]
                target[first : first + len(piece)] = piece[: len(target) - first] @ kernel
        return np.clip(found, -1, 1, out=found)

    def _kernel(self, phase: int) -> Floats:
        if (known := self._kernels.get(phase)) is not None:
            return known
        half = self._half
        distance = np.arange(1 - half, half + 1) - phase * self._down % self._up / self._up
        weights = (
            self._band
            * np.sinc(self._band * distance)
            * np.i0(BETA * np.sqrt(np.maximum(0.0, 1 - (distance / half) ** 2)))
        )
        kernel: Floats = (weights / np.i0(BETA)).astype(np.float32)
        self._kernels[phase] = kernel
        return kernel


def resampled(samples: Floats, rate: int, wanted: int) -> Floats:
    """All of a sound at once: [num_samples], -1 to 1."""
    resampler = Resampler(rate, wanted)
    resampler.push(samples)
    resampler.finish()
    return np.concatenate(resampler.pieces)
