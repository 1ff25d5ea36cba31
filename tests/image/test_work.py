"""How much a request for images may ask for."""

from typing import Any

import msgspec
import pytest

from localinfra.config.settings import ServerSettings
from localinfra.errors import InvalidRequest
from localinfra.image.request import ImageRequest, Original, check_work

DEFAULT = ServerSettings().max_megapixel_steps


def asked(side: int, num_steps: int, num_images: int = 1, **options: Any) -> ImageRequest:
    request = ImageRequest("x", side, side, num_steps, 0.0, tuple(range(num_images)))
    return msgspec.structs.replace(request, **options)


def test_images_pixels_and_steps_count() -> None:
    assert asked(1024, 4).megapixel_steps == 4
    assert asked(2048, 4, 3).megapixel_steps == 48
    assert asked(512, 1, 2).megapixel_steps == 0.5


def test_an_edit_counts_the_steps_that_it_takes() -> None:
    start = Original(picture=None, mask=None, strength=0.5)
    assert asked(1024, 4, original=start).megapixel_steps == 2


@pytest.mark.parametrize(
    "request_",
    [
        asked(1024, 4, 10),
        asked(1024, 50, 10),
        asked(2048, 50),
        asked(2048, 28, 4),
        asked(2048, 4, 10),
    ],
)
def test_what_clients_send_is_not_too_much(request_: ImageRequest) -> None:
    check_work(request_, DEFAULT)


def test_too_much_is_refused_with_what_to_lower() -> None:
    check_work(asked(2048, 50, 10), None)
    check_work(asked(1024, 4), 4)
    with pytest.raises(InvalidRequest) as caught:
        check_work(asked(2048, 50, 10), DEFAULT)
    assert caught.value.message == (
        "The request asks for 10 x 2048 x 2048 pixels in 50 steps: 2000 megapixel steps. At most "
        "512 are allowed: ask for fewer or smaller images or fewer steps, or raise "
        "max_megapixel_steps under [server] of models.toml."
    )
    with pytest.raises(InvalidRequest, match="steps: 5 megapixel"):
        check_work(asked(1040, 4), 4)
