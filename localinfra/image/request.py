"""Image requests, and the events while one is made. Plain values."""

import math
from typing import Any, TypeAlias

import msgspec

from localinfra.errors import InvalidRequest

MIN_SIDE, MAX_SIDE, SIDE_UNIT = 64, 2048, 16  # pixels
MEGAPIXEL = 1 << 20


class Original(msgspec.Struct, frozen=True):
    """A picture to start from, already of the requested size."""

    picture: Any  # PIL.Image.Image, RGB
    mask: Any | None  # PIL.Image.Image, L: white is repainted, black stays; None: repaint all
    strength: float  # 0 to 1: share of noise at the start, and of the steps that are run


class ImageRequest(msgspec.Struct, frozen=True):
    """Images of one prompt. Width and height are pixels, multiples of 16."""

    prompt: str
    width: int
    height: int
    num_steps: int
    guidance_scale: float
    seeds: tuple[int, ...]  # one per image
    num_previews: int = 0  # per image, while it is made
    original: Original | None = None
    client: str = ""  # clients take turns, and what is kept of a prompt is each one's own

    @property
    def num_steps_taken(self) -> int:
        """The steps actually run: an original with less than full noise skips the first ones."""
        if self.original is None:
            return self.num_steps
        noisy = min(self.num_steps * self.original.strength, self.num_steps)
        return self.num_steps - int(max(self.num_steps - noisy, 0))  # as diffusers counts

    @property
    def megapixel_steps(self) -> float:
        """How much there is to compute, of all images together."""
        num_pixels = len(self.seeds) * self.width * self.height
        return num_pixels / MEGAPIXEL * self.num_steps_taken


def check_work(request: ImageRequest, most: int | None) -> None:
    """Raises InvalidRequest for one of more than `most` megapixel steps."""
    if most is not None and request.megapixel_steps > most:
        raise InvalidRequest(
            f"The request asks for {len(request.seeds)} x {request.width} x {request.height} "
            f"pixels in {request.num_steps_taken} steps: {math.ceil(request.megapixel_steps)} "
            f"megapixel steps. At most {most} are allowed: ask for fewer or smaller images or "
            "fewer steps, or raise max_megapixel_steps under [server] of models.toml.",
            "num_inference_steps",
        )


class ImageStep(msgspec.Struct, frozen=True):
    """A finished step of an image; `number` counts from 1."""

    image: int
    number: int


class Preview(msgspec.Struct, frozen=True):
    """How an image looks so far; `number` counts from 0."""

    image: int
    number: int
    picture: Any  # PIL.Image.Image


class Finished(msgspec.Struct, frozen=True):
    image: int
    picture: Any  # PIL.Image.Image


Event: TypeAlias = ImageStep | Preview | Finished
