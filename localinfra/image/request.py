"""What an image is made of, and what is told while it is made. Plain values."""

from typing import Any, TypeAlias

import msgspec

MIN_SIDE, MAX_SIDE, SIDE_UNIT = 64, 2048, 16  # pixels


class Original(msgspec.Struct, frozen=True):
    """A picture to start from, of the size asked for."""

    picture: Any  # PIL.Image.Image, RGB
    mask: Any | None  # PIL.Image.Image, L: white is painted anew, black stays; None: all changes
    strength: float  # 0 to 1: how much of it is noise at first; of that share of steps are taken


class ImageRequest(msgspec.Struct, frozen=True):
    """Images of one prompt. Width and height in pixels, multiples of 16."""

    prompt: str
    width: int
    height: int
    num_steps: int
    guidance_scale: float
    seeds: tuple[int, ...]  # of each image
    num_previews: int = 0  # of each image, while it is made
    original: Original | None = None

    @property
    def num_steps_taken(self) -> int:
        """Less than all where the noise of an original begins half-way."""
        if self.original is None:
            return self.num_steps
        noisy = min(self.num_steps * self.original.strength, self.num_steps)
        return self.num_steps - int(max(self.num_steps - noisy, 0))  # as diffusers counts


class ImageStep(msgspec.Struct, frozen=True):
    """A step of an image is done; `number` counts from 1."""

    image: int
    number: int


class Preview(msgspec.Struct, frozen=True):
    """How an image looks so far; its number counts from 0."""

    image: int
    number: int
    picture: Any  # PIL.Image.Image


class Finished(msgspec.Struct, frozen=True):
    image: int
    picture: Any  # PIL.Image.Image


Event: TypeAlias = ImageStep | Preview | Finished
