"""Untrusted image files from clients → pictures of the requested size."""

import io
import math
from typing import Any

from localinfra.errors import InvalidRequest
from localinfra.image.request import MAX_SIDE, MIN_SIDE, SIDE_UNIT, Original

FORMATS = ("PNG", "JPEG", "WEBP")
MAX_PIXELS = 4096 * 4096  # decoded, 67 MB
# A progressive JPEG is decoded once per scan: 1,600 empty scans (85 kB) took 7 s.
MAX_SCANS = 64
START_OF_SCAN = b"\xff\xda"
# 0.75 skips the first of four steps, which keeps a picture's composition. A masked area starts from
# pure noise: the unmasked rest holds it in place.
PICTURE_STRENGTH, MASK_STRENGTH = 0.75, 1.0
WHITE = (255, 255, 255, 255)


def open_picture(data: bytes, param: str) -> Any:
    """Decodes a file into an upright RGBA picture. Raises InvalidRequest if that fails."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        picture: Any = Image.open(io.BytesIO(data), formats=FORMATS)
        if picture.format == "JPEG" and data.count(START_OF_SCAN) > MAX_SCANS:
            raise InvalidRequest(
                f"{param} is a JPEG with more than {MAX_SCANS} scans: save it as a baseline JPEG.",
                param,
            )
        if picture.width * picture.height > MAX_PIXELS:  # known from the header
            raise InvalidRequest(
                f"{param} has {picture.width} x {picture.height} pixels; at most {MAX_PIXELS} "
                "(4096 x 4096) are accepted. Send a smaller one.",
                param,
            )
        if picture.mode.startswith("I;16"):  # Pillow would turn all but the darkest pixels white
            picture = picture.convert("I").point(lambda value: value * (1 / 257) + 0).convert("L")
        return ImageOps.exif_transpose(picture).convert("RGBA")
    except InvalidRequest:
        raise
    except Exception as error:  # Pillow's decoders raise exceptions of any type
        is_unknown = isinstance(error, UnidentifiedImageError)
        reason = "unknown or broken" if is_unknown else str(error)[:200] or type(error).__name__
        raise InvalidRequest(
            f"{param} can't be read as an image ({reason}): send a complete file in "
            f"{', '.join(FORMATS)}.",
            param,
        ) from None


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
    from PIL import Image, ImageOps

    picture = open_picture(image, "image")
    alpha = picture.getchannel("A")
    has_holes = alpha.getextrema()[0] == 0
    if mask is not None:
        masked = open_picture(mask, "mask")
        if masked.size != picture.size:
            raise InvalidRequest(
                f"The mask has {_dimensions(masked.size)} pixels and the image "
                f"{_dimensions(picture.size)}: they must have the same size.",
                "mask",
            )
        alpha = masked.getchannel("A")
        if alpha.getextrema()[0] == 255:
            raise InvalidRequest(
                "The mask has no transparent pixels: its transparent part is what gets repainted.",
                "mask",
            )
    if mask is not None or not has_holes:
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, WHITE), picture)
    size = size or proportional(picture.width, picture.height, default_side)
    fitted = ImageOps.fit(picture.convert("RGB"), size)
    is_masked = mask is not None or has_holes
    opening = ImageOps.fit(ImageOps.invert(alpha), size) if is_masked else None
    default = MASK_STRENGTH if is_masked else PICTURE_STRENGTH
    return Original(fitted, opening, default if strength is None else strength)


def _dimensions(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"
