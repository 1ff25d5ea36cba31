"""What an image is made of, and what is told while it is made. Plain values."""

from typing import Any, TypeAlias

import msgspec


class ImageRequest(msgspec.Struct, frozen=True):
    """Images of one prompt. Width and height in pixels, multiples of 16."""

    prompt: str
    width: int
    height: int
    num_steps: int
    guidance_scale: float
    seeds: tuple[int, ...]  # of each image
    num_previews: int = 0  # of each image, while it is made


class Step(msgspec.Struct, frozen=True):
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


Event: TypeAlias = Step | Preview | Finished
