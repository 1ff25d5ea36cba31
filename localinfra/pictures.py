"""Untrusted picture files → pixels, within limits of bytes, pixels and time.

Knows formats and what their decoders do with hostile files; not what the pixels are for. Blocking:
call it in a thread. A picture within the limits takes at most about a second.
"""

import hashlib
import io
import struct
import warnings
from typing import Any

import msgspec

from localinfra.errors import InvalidRequest

# Pillow's other decoders are older, less tried, or open files by themselves.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF")
MAX_BYTES = 32 << 20
MAX_PIXELS = 4096 * 4096  # decoded, 67 MB as RGBA
# A baseline JPEG can be decoded at a half, a fourth or an eighth of its size, as a phone's 50
# megapixels need. A progressive one is first held whole.
MAX_JPEG_PIXELS = 8192 * 8192
REDUCTIONS = (1, 2, 4, 8)  # DCT scaling of libjpeg
# A progressive JPEG is decoded once per scan: 1,600 empty scans (85 kB) took 7 s.
MAX_SCANS = 64
MAX_RATIO = 200  # of the sides; encoders shrink the shorter one to nothing
JPEG_START, START_OF_SCAN = b"\xff\xd8", b"\xff\xda"
WHITE = (255, 255, 255)


class Pixels(msgspec.Struct, frozen=True):
    """A picture in 8 bits: `data` has height rows of width pixels, each red, green and blue."""

    width: int
    height: int
    data: bytes
    is_coarse: bool = False  # no more of it is wanted: it is not read in tiles

    @property
    def digest(self) -> bytes:
        """32 bytes, the same for the same picture in whatever format it came."""
        found = hashlib.sha256(struct.pack("<II?", self.width, self.height, self.is_coarse))
        found.update(self.data)  # a copy of 50 MB would hold the interpreter's lock
        return found.digest()


def read_pixels(data: bytes, param: str, max_side: int | None = None) -> Pixels:
    """A file's first picture, upright and over white; a JPEG beyond MAX_PIXELS in a smaller size,
    and any whose longer side has more pixels than `max_side`, which makes it coarse.

    Raises InvalidRequest, which names `param`, if it can't be read or is beyond a limit.
    """
    from PIL import Image

    picture = open_picture(data, param, reduces=True)
    sides = sorted(picture.size)
    if sides[1] > MAX_RATIO * sides[0]:
        raise InvalidRequest(
            f"{param} has {dimensions(picture.size)} pixels; one side may be at most {MAX_RATIO} "
            "times the other. Send a part of it, or add a margin.",
            param,
        )
    picture = over_white(picture)
    if max_side and sides[1] > max_side:
        picture.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
    assert isinstance(picture, Image.Image)
    return Pixels(picture.width, picture.height, picture.tobytes(), max_side is not None)


def open_picture(data: bytes, param: str, *, reduces: bool = False) -> Any:
    """Decodes a file into an upright RGBA `PIL.Image.Image`; of animations the first frame. With
    `reduces`, a JPEG of too many pixels is decoded in a smaller size.

    Raises InvalidRequest, which names `param`, if it can't be read or is beyond a limit.
    """
    from PIL import Image, UnidentifiedImageError

    warnings.filterwarnings("error", category=Image.DecompressionBombWarning)
    _refuse_by_bytes(data, param)
    try:
        picture: Any = Image.open(io.BytesIO(data), formats=FORMATS)
        if reduces:
            _reduce(picture)
        _refuse_large(picture.size, param)  # known from the header
        return _upright(_in_eight_bits(picture)).convert("RGBA")
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


def over_white(picture: Any) -> Any:
    """An RGBA picture without its transparency, as RGB."""
    from PIL import Image

    # Not by `alpha_composite`, which holds the interpreter's lock: 100 ms for 16 megapixels.
    white = Image.new("RGB", picture.size, WHITE)
    white.paste(picture, mask=picture)
    return white


def dimensions(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"


def _refuse_by_bytes(data: bytes, param: str) -> None:
    if len(data) > MAX_BYTES:
        raise InvalidRequest(
            f"{param} has {len(data):,} bytes; at most {MAX_BYTES:,} are accepted. Send a smaller "
            "picture.",
            param,
        )
    # By its bytes: what begins so may also be opened as a format of several JPEGs (MPO).
    if data.startswith(JPEG_START) and data.count(START_OF_SCAN) > MAX_SCANS:
        raise InvalidRequest(
            f"{param} is a JPEG with more than {MAX_SCANS} scans: save it as a baseline JPEG.",
            param,
        )
    if canvas := _webp_canvas(data):  # opening it takes memory for all of its pixels
        _refuse_large(canvas, param)


def _webp_canvas(data: bytes) -> tuple[int, int] | None:
    """The size in an extended WebP file's header: https://developers.google.com/speed/webp/docs/
    riff_container. None for other files; their decoder refuses more than 16383 x 16383 pixels."""
    if data[:4] != b"RIFF" or data[8:16] != b"WEBPVP8X" or len(data) < 30:
        return None
    width, height = (int.from_bytes(data[at : at + 3], "little") + 1 for at in (24, 27))
    return width, height


def _refuse_large(size: tuple[int, int], param: str) -> None:
    if size[0] * size[1] > MAX_PIXELS:
        raise InvalidRequest(
            f"{param} has {dimensions(size)} pixels; at most {MAX_PIXELS} (4096 x 4096) are "
            "accepted. Send a smaller one.",
            param,
        )


def _reduce(picture: Any) -> None:
    """Has a baseline JPEG decoded in the largest size within MAX_PIXELS."""
    num_pixels = picture.width * picture.height
    is_progressive = picture.info.get("progressive")
    if picture.format not in ("JPEG", "MPO") or is_progressive or num_pixels > MAX_JPEG_PIXELS:
        return
    by = next((by for by in REDUCTIONS if num_pixels <= MAX_PIXELS * by * by), REDUCTIONS[-1])
    if by > 1:
        picture.draft(None, (picture.width // by, picture.height // by))


def _in_eight_bits(picture: Any) -> Any:
    """The same picture unless it has 16 bits of grey, of which Pillow would turn all but the
    darkest white."""
    if not picture.mode.startswith("I"):
        return picture
    grey = picture.convert("I").point(lambda value: value * (1 / 257) + 0).convert("L")
    if isinstance(transparent := grey.info.get("transparency"), int):
        grey.info["transparency"] = transparent // 257
    return grey


def _upright(picture: Any) -> Any:
    """As the EXIF data say; as it is where they can't be read."""
    from PIL import ImageOps

    picture.load()  # errors of the picture itself
    try:
        return ImageOps.exif_transpose(picture)
    except Exception:
        return picture
