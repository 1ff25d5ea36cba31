"""Untrusted picture files become pixels, or an error that says what is wrong."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from picture_files import file, plain, png_header, scan_bomb, text_bomb, webp_of_size
from PIL import Image

from localinfra import pictures
from localinfra.errors import InvalidRequest
from localinfra.pictures import Pixels, read_pixels


def array(pixels: Pixels) -> NDArray[np.uint8]:
    """[height, width, 3]"""
    return np.frombuffer(pixels.data, np.uint8).reshape(pixels.height, pixels.width, 3)


def is_about(pixels: Pixels, color: tuple[int, int, int], distance: int = 8) -> bool:
    return bool((abs(array(pixels).astype(int) - color) <= distance).all())


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "GIF"])
def test_each_format_becomes_red_green_and_blue(form: str) -> None:
    pixels = read_pixels(file(plain(), form), "image")
    assert (pixels.width, pixels.height, len(pixels.data)) == (128, 64, 128 * 64 * 3)
    assert is_about(pixels, (200, 30, 60))


@pytest.mark.parametrize(
    ("picture", "form", "expected"),
    [
        (Image.new("L", (8, 8), 77), "PNG", (77, 77, 77)),
        (Image.new("1", (8, 8), 1), "PNG", (255, 255, 255)),
        (plain(8, 8).quantize(4), "PNG", (200, 30, 60)),
        (Image.new("LA", (8, 8), (0, 128)), "PNG", (127, 127, 127)),
        (Image.new("RGBA", (8, 8), (9, 9, 9, 0)), "PNG", (255, 255, 255)),
        (Image.new("RGBA", (8, 8), (9, 9, 9, 0)), "WEBP", (255, 255, 255)),
        (Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", (255, 0, 0)),
        (Image.fromarray(np.full((8, 8), 0x8080, np.uint16)), "PNG", (128, 128, 128)),
    ],
    ids=["grey", "bits", "palette", "grey alpha", "alpha", "WebP alpha", "CMYK", "16 bits"],
)
def test_each_way_to_store_colors(
    picture: Image.Image, form: str, expected: tuple[int, int, int]
) -> None:
    assert is_about(read_pixels(file(picture, form), "image"), expected, 3)


def test_transparent_colors_of_palettes_and_of_16_bits_are_white() -> None:
    palette = plain(8, 8).quantize(4)
    held = palette.getpixel((0, 0))
    assert is_about(read_pixels(file(palette, transparency=held), "image"), (255, 255, 255))
    deep = Image.fromarray(np.full((8, 8), 0x4040, np.uint16))
    assert is_about(read_pixels(file(deep, transparency=0x4040), "image"), (255, 255, 255))


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG"])
def test_the_first_frame_of_an_animation(form: str) -> None:
    others = [plain(64, 64, color) for color in ((0, 255, 0), (0, 0, 255))]
    data = file(plain(64, 64), form, save_all=True, append_images=others, duration=50)
    assert is_about(read_pixels(data, "image"), (200, 30, 60))


def test_a_photograph_is_turned_upright_unless_its_notes_are_broken() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: rotate clockwise
    data = file(plain(128, 64), "JPEG", exif=exif)
    assert read_pixels(data, "image").width == 64
    at = data.index(b"Exif\0\0") + 6
    broken = data[:at] + b"\xff" * 12 + data[at + 12 :]
    assert read_pixels(broken, "image").width == 128


def test_the_same_picture_has_the_same_digest_in_every_lossless_format() -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8))
    same = [file(noise), file(noise, compress_level=1), file(noise, "WEBP", lossless=True)]
    assert len({read_pixels(data, "image").digest for data in same}) == 1
    wide, high = (read_pixels(file(plain(*size)), "image") for size in ((64, 32), (32, 64)))
    assert wide.data == high.data and wide.digest != high.digest


def test_a_phones_photograph_is_read_in_a_smaller_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "MAX_PIXELS", 100 * 100)
    monkeypatch.setattr(pictures, "MAX_JPEG_PIXELS", 400 * 400)
    pixels = read_pixels(file(plain(400, 300), "JPEG"), "image")
    assert (pixels.width, pixels.height) == (100, 75) and is_about(pixels, (200, 30, 60))
    for other in (file(plain(400, 300), "JPEG", progressive=True), file(plain(400, 300))):
        with pytest.raises(InvalidRequest, match="400 x 300 pixels"):
            read_pixels(other, "image")
    with pytest.raises(InvalidRequest, match="500 x 500 pixels"):
        read_pixels(file(plain(500, 500), "JPEG"), "image")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "can't be read as an image"),
        (b"not an image", "send a complete file in PNG, JPEG, WEBP, GIF"),
        (file(plain(), "BMP"), "unknown or broken"),
        (file(plain(), "TIFF"), "unknown or broken"),
        (file(plain(), "PPM"), "unknown or broken"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "unknown or broken"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "unknown or broken"),
        (b"GIF89a" + bytes(100), "can't be read"),
        (png_header(0, 0), "can't be read"),
        (png_header(60_000, 60_000), "exceeds limit"),
        (png_header(10_000, 9_500), "exceeds limit"),
        (png_header(5_000, 5_000), "5000 x 5000 pixels; at most 16777216"),
        (webp_of_size(16_383, 16_383), "16383 x 16383 pixels; at most 16777216"),
        (png_header(64, 64), "can't be read"),
        (file(plain(500, 500, (1, 2, 3)), "JPEG")[:300], "can't be read"),
        (file(plain(1, 10_000)), "1 x 10000 pixels; one side may be at most 200 times"),
        (file(plain(300, 1)), "300 x 1 pixels"),
        (text_bomb(), "can't be read"),
        (scan_bomb(), "more than 64 scans"),
        (b"\x89PNG" + bytes(33 << 20), "34,603,012 bytes; at most 33,554,432"),
    ],
)
def test_bad_files_are_refused(data: bytes, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message) as caught:
        read_pixels(data, "image")
    assert caught.value.param == "image"


def test_a_file_cut_anywhere_is_refused_or_read() -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    for form in pictures.FORMATS:
        whole = file(noise, form)
        for end in range(0, len(whole), 97):
            check_cut(whole[:end])


def check_cut(data: bytes) -> None:
    try:
        pixels: Any = read_pixels(data, "image")
    except InvalidRequest as error:
        assert error.message.startswith("image ")
    else:
        assert len(pixels.data) == 64 * 64 * 3
