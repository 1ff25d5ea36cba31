"""Clients' image files: what an edit starts from, and what is refused."""

import numpy as np
import pytest
from picture_files import file, plain, png_header, scan_bomb, text_bomb
from PIL import Image

from localinfra.errors import InvalidRequest
from localinfra.image.pictures import original, proportional


def with_hole(picture: Image.Image, box: tuple[int, int, int, int]) -> Image.Image:
    holed = picture.convert("RGBA")
    holed.paste((0, 0, 0, 0), box)
    return holed


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "GIF"])
def test_formats(form: str) -> None:
    start = original(file(plain(), form), None, None, 1024, None)
    assert start.picture.size == (128, 64) and start.picture.mode == "RGB"
    assert start.mask is None and start.strength == 0.75
    assert np.abs(np.asarray(start.picture).astype(int) - (200, 30, 60)).max() < 8


@pytest.mark.parametrize(
    ("size", "expected"),
    [((1024, 1024), (1024, 1024)), ((4000, 3000), (1184, 880)), ((100, 70), (96, 64)),
     ((3000, 40), (2048, 64)), ((500, 501), (496, 496))],
)  # fmt: skip
def test_without_a_size_the_proportions_are_kept(
    size: tuple[int, int], expected: tuple[int, int]
) -> None:
    assert proportional(*size, 1024) == expected


def test_other_proportions_crop_to_the_middle() -> None:
    picture = plain(300, 100)
    picture.paste((0, 0, 255), (100, 0, 200, 100))
    start = original(file(picture), None, (64, 64), 1024, 0.5)
    assert start.picture.size == (64, 64) and start.strength == 0.5
    assert np.asarray(start.picture)[32, 32].tolist() == [0, 0, 255]
    assert np.asarray(start.picture)[32, 3, 0] < 40  # the red sides are cut off


def test_the_transparent_part_of_the_mask_is_repainted() -> None:
    mask = with_hole(plain(), (0, 0, 64, 64))
    start = original(file(plain()), file(mask), None, 1024, None)
    assert start.strength == 1.0
    repainted = np.asarray(start.mask)
    assert repainted[:, :60].min() == 255 and repainted[:, 68:].max() == 0


def test_an_image_with_holes_is_its_own_mask() -> None:
    start = original(file(with_hole(plain(), (64, 0, 128, 64))), None, (64, 64), 1024, None)
    assert start.mask is not None and start.strength == 1.0
    assert np.asarray(start.mask)[:, :20].max() == 0


def test_half_transparent_images_get_a_white_background() -> None:
    start = original(file(Image.new("RGBA", (64, 64), (0, 0, 0, 128))), None, None, 1024, None)
    assert start.mask is None and 120 < np.asarray(start.picture).mean() < 135


def test_transparent_areas_outside_the_mask_get_a_white_background_too() -> None:
    start = original(
        file(with_hole(plain(), (64, 0, 128, 64))), file(with_hole(plain(), (0, 0, 32, 64))),
        None, 1024, None,
    )  # fmt: skip
    assert np.asarray(start.picture)[32, 120].tolist() == [255, 255, 255]


def test_sixteen_bits_become_eight() -> None:
    ramp = np.tile(np.linspace(0, 65535, 128, dtype=np.uint16), (64, 1))
    start = original(file(Image.fromarray(ramp)), None, None, 1024, None)
    assert abs(np.asarray(start.picture).mean() - 127.5) < 2


def test_a_photograph_is_turned_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: rotate clockwise
    start = original(file(plain(128, 64), "JPEG", exif=exif), None, None, 1024, None)
    assert start.picture.size == (64, 128)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "can't be read as an image"),
        (b"not an image", "send a complete file in PNG, JPEG, WEBP, GIF"),
        (b"GIF89a" + bytes(100), "can't be read"),
        (png_header(60_000, 60_000), "exceeds limit"),
        (png_header(5_000, 5_000), "at most 16777216"),
        (png_header(64, 64), "can't be read"),
        (file(plain(500, 500, (1, 2, 3)), "JPEG")[:300], "can't be read"),
        (text_bomb(), "can't be read"),
        (scan_bomb(), "more than 64 scans"),
    ],
)
def test_bad_files_are_refused(data: bytes, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message) as caught:
        original(data, None, None, 1024, None)
    assert caught.value.param == "image"
    with pytest.raises(InvalidRequest) as caught:
        original(file(plain()), data, None, 1024, None)
    assert caught.value.param == "mask"


def test_a_file_cut_anywhere_is_refused_or_read() -> None:
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8))
    for form in ("PNG", "JPEG", "WEBP"):
        whole = file(noise, form)
        for end in range(0, len(whole), 97):
            try:
                original(whole[:end], None, None, 1024, None)
            except InvalidRequest:
                continue


def test_masks_without_transparency_or_of_another_size_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="no transparent pixels"):
        original(file(plain()), file(plain()), None, 1024, None)
    with pytest.raises(InvalidRequest, match="the same size"):
        original(file(plain()), file(plain(64, 64)), None, 1024, None)
