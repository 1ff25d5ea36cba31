"""POST /v1/images/edits: repaints an image, or the part of it that a mask marks.

Takes OpenAI's multipart form, or JSON with data URLs.
"""

from typing import Annotated

from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from localinfra.api.call import Call
from localinfra.api.http.encoded import decode_base64
from localinfra.api.openai.images import DEFAULT_MODEL, ImageFields, answer_images
from localinfra.errors import InvalidRequest, UnsupportedParameter
from localinfra.image.pictures import original
from localinfra.image.request import Original

ROUTE = "/v1/images/edits"
MAX_IMAGES = 16  # OpenAI's
Strength = Annotated[float, Meta(ge=0.01, le=1)]


class EditFields(ImageFields, frozen=True, kw_only=True):
    # a file in the form, or a data URL
    image: str | Annotated[list[str], Meta(max_length=MAX_IMAGES)]
    mask: str | None = None  # likewise; its transparent part is repainted
    strength: Strength | None = None  # how much of the image may change

    def original(self, default_side: int) -> Original:
        """The decoded init image; call it in a thread. Raises InvalidRequest or
        UnsupportedParameter."""
        images = [self.image] if isinstance(self.image, str) else self.image
        if len(images) != 1:
            raise UnsupportedParameter(
                f"Send one image, not {len(images)}: this model edits a single image.", "image"
            )
        image = from_data_url(images[0], "image")
        mask = None if self.mask is None else from_data_url(self.mask, "mask")
        return original(image, mask, self.dimensions, default_side, self.strength)


async def create_edits(request: Request) -> Response:
    """Repaints an image, or the part of it that a mask marks.

    Takes a form with files, or JSON with data URLs."""
    call = await Call.begin_with_form(request, EditFields, files=("image", "mask"))
    body = call.body
    body.check()
    call.log_user(body.user)
    model = await call.models.image(body.model, DEFAULT_MODEL, ROUTE)
    model.check_queue(call.caller)
    start = await call.threads.pictures_in.run(body.original, model.entry.default_size)
    return await answer_images(call, model, start)


def from_data_url(url: str, param: str) -> bytes:
    """The bytes of a data URL. Raises InvalidRequest for any other URL: fetching one of the
    client's choice would be SSRF."""
    head, comma, data = url.partition(";base64,")
    if not head.startswith("data:") or not comma:
        raise InvalidRequest(
            f"{param} must be a file in a multipart form, or a data URL such as "
            "data:image/png;base64,... Other URLs are not fetched.",
            param,
        )
    try:
        return decode_base64(data)
    except ValueError as error:  # binascii.Error, or non-ASCII characters
        raise InvalidRequest(f"{param} is not valid base64: {error}.", param) from None
