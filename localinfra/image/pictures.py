"""Image files from clients → what an edit starts from, in the requested size."""

import math

from localinfra.errors import InvalidRequest
from localinfra.image.request import MAX_SIDE, MIN_SIDE, SIDE_UNIT, Original
from localinfra.pictures import dimensions, open_picture, over_white

# 0.75 skips the first of four steps, which keeps a picture's composition. A masked area starts from
# pure noise: the unmasked rest holds it in place.
PICTURE_STRENGTH, MASK_STRENGTH = 0.75, 1.0


def proportional(width: int, height: int, default_side: int) -> tuple[int, int]:
    """A size of about these proportions with at most `default_side` squared pixels."""
    scale = min(1.0, default_side / math.sqrt(width * height))
    return _side(width * scale), _side(height * scale)


def _side(length: float) -> int:
    return min(max(SIDE_UNIT * round(length / SIDE_UNIT), MIN_SIDE), MAX_SIDE)


def original(
    image: bytes,
    mask: bytes | None,
    size: tuple[int, int] | None,
    default_side: int,
    strength: float | None,
) -> Original:
    """What an edit starts from. Without a `size`, keeps the image's proportions; with other ones,
    crops to the middle. As in OpenAI's API, the transparent part of the mask, or without a mask
    that of the image, is repainted. Takes 0.3 s for 16 megapixels.

    Raises InvalidRequest if a file can't be read or the mask doesn't fit.
    """
    from PIL import ImageOps

    picture = open_picture(image, "image")
    alpha = picture.getchannel("A")
    has_holes = alpha.getextrema()[0] == 0
    if mask is not None:
        masked = open_picture(mask, "mask")
        if masked.size != picture.size:
            raise InvalidRequest(
                f"The mask has {dimensions(masked.size)} pixels and the image "
                f"{dimensions(picture.size)}: they must have the same size.",
                "mask",
            )
        alpha = masked.getchannel("A")
        if alpha.getextrema()[0] == 255:
            raise InvalidRequest(
                "The mask has no transparent pixels: its transparent part is what gets repainted.",
                "mask",
            )
    if mask is not None or not has_holes:
        picture = over_white(picture)
    size = size or proportional(picture.width, picture.height, default_side)
    fitted = ImageOps.fit(picture.convert("RGB"), size)
    is_masked = mask is not None or has_holes
    opening = ImageOps.fit(ImageOps.invert(alpha), size) if is_masked else None
    default = MASK_STRENGTH if is_masked else PICTURE_STRENGTH
    return Original(fitted, opening, default if strength is None else strength)
