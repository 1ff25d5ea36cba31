"""POST /v1/inference/{model} for image models: a prompt → images as data URLs.

Takes DeepInfra's own fields, and those of Cog models under `input`, as its class Sdxl sends them.
"""

import base64
from collections.abc import Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from localinfra.api.deepinfra.status import ROUTE, InferenceStatus, Timer, refuse_webhook
from localinfra.api.generation.params import MAX_SEED, chosen_seed
from localinfra.api.generation.usage import Charge, charge_of
from localinfra.api.http.body import Decoded, decode, header_list
from localinfra.api.http.form import read_body_or_form
from localinfra.api.http.pieces import PiecesResponse
from localinfra.api.http.sse import until_disconnect
from localinfra.api.http.state import default_seed, limits, runtime, threads
from localinfra.api.openai.image_edits import Strength, from_data_url
from localinfra.api.openai.images import check_prompt, image_file
from localinfra.errors import InvalidRequest, UnsupportedParameter
from localinfra.executor import give_way
from localinfra.image.pictures import original
from localinfra.image.request import (
    MAX_SIDE,
    MIN_SIDE,
    SIDE_UNIT,
    Finished,
    ImageRequest,
    Original,
)
from localinfra.models.entries import ImageModelEntry

if TYPE_CHECKING:
    from localinfra.image.model import ImageModel  # brings the pipeline's file

NO_INPUT = msgspec.Raw()

NumImages = Annotated[int, Meta(ge=1, le=10)]
Side = int | Annotated[str, Meta(pattern=r"^[0-9]{1,5}$")]  # Vercel's AI SDK sends strings

encode = msgspec.json.Encoder().encode


class NativeImageFields(msgspec.Struct, frozen=True, kw_only=True):
    """Fields of both forms."""

    prompt: str = ""
    width: Side | None = None  # default: the model's, or the image's proportions
    height: Side | None = None
    num_inference_steps: Annotated[int, Meta(ge=1, le=50)] | None = None
    guidance_scale: Annotated[float, Meta(ge=0, le=30)] | None = None
    seed: Annotated[int, Meta(ge=0, le=MAX_SEED - 10)] | None = None
    negative_prompt: str | None = None  # known, to be refused
    image: str | None = None  # to begin with: a data URL, or a file of a form
    mask: str | None = None  # likewise: what is transparent in it is painted anew

    def check(self) -> None:
        """What annotations cannot say. Raises InvalidRequest and UnsupportedParameter."""
        check_prompt(self.prompt)
        if self.negative_prompt:
            raise UnsupportedParameter(
                "negative_prompt is not supported: this model follows the prompt alone.",
                "negative_prompt",
            )
        if self.image is None and self.mask is not None:
            raise InvalidRequest("A mask needs an image, of which it opens a part.", "mask")
        self.dimensions(MIN_SIDE)

    def dimensions(self, default: int) -> tuple[int, int]:
        """Width and height in pixels. Raises InvalidRequest."""
        return side("width", self.width, default), side("height", self.height, default)

    def original(self, strength: float | None, default: int) -> Original | None:
        """Decodes the files: in a thread. Raises InvalidRequest."""
        if not self.image:
            return None
        is_sized = self.width is not None or self.height is not None
        return original(
            from_data_url(self.image, "image"),
            from_data_url(self.mask, "mask") if self.mask else None,
            self.dimensions(default) if is_sized else None,
            default,
            strength,
        )


def side(name: str, given: Side | None, default: int) -> int:
    length = default if given is None else int(given)
    if not MIN_SIDE <= length <= MAX_SIDE or length % SIDE_UNIT:
        raise InvalidRequest(
            f"{name} can't be {length}: send a multiple of {SIDE_UNIT} from {MIN_SIDE} to "
            f"{MAX_SIDE}.",
            name,
        )
    return length


class ImageBody(NativeImageFields, frozen=True, kw_only=True):
    num_images: NumImages = 1
    strength: Strength | None = None
    use_compel: bool | None = None  # without effect: FLUX knows no weights of words
    webhook: str | None = None
    input: msgspec.Raw = NO_INPUT  # a CogInput, and the rest is not given


class CogInput(NativeImageFields, frozen=True, kw_only=True):
    num_outputs: NumImages = 1
    prompt_strength: Strength | None = None


class Images(msgspec.Struct, frozen=True):
    """What an answer says beside its images."""

    nsfw_content_detected: list[bool]  # nothing is looked at: always false
    seed: int  # of the first image; those of the others count upwards
    request_id: str
    inference_status: InferenceStatus


class CogResult(msgspec.Struct, frozen=True):
    """What an answer in Cog's form says beside its images."""

    status: str
    request_id: str
    inference_status: InferenceStatus


class Made(msgspec.Struct, frozen=True):
    urls: list[bytes]  # pieces of a JSON array
    seeds: Sequence[int]
    request_id: str
    status: InferenceStatus
    headers: dict[str, str]

    def response(self, name: bytes, about: Images | CogResult, ignored: Decoded[Any]) -> Response:
        """An object with the images under this name."""
        tail = b"],%b" % encode(about).removeprefix(b"{")
        parts = [b'{"%b":[' % name, *self.urls, tail]
        return PiecesResponse(parts, {**self.headers, **ignored.headers})


async def infer_images(request: Request, name: str) -> Response:
    files = ("image", "mask")
    decoded = await read_body_or_form(request, ImageBody, limits(request), files=files)
    body = decoded.value
    refuse_webhook(body.webhook)
    if body.input != NO_INPUT:
        await give_way()  # the body took its time, and so does this
        cog = decode(bytes(body.input), CogInput)
        made = await make_images(
            request, name, cog.value, cog.value.num_outputs, cog.value.prompt_strength
        )
        result = CogResult(made.status.status, made.request_id, made.status)
        return made.response(b"output", result, cog)
    made = await make_images(request, name, body, body.num_images, body.strength)
    flags = [False] * body.num_images
    images = Images(flags, made.seeds[0], made.request_id, made.status)
    return made.response(b"images", images, decoded)


async def make_images(
    request: Request, name: str, fields: NativeImageFields, num_images: int, strength: float | None
) -> Made:
    timer = Timer()
    fields.check()
    if strength is not None and not fields.image:
        raise InvalidRequest("strength says how much of an image may change: send one.", "image")
    model = await runtime(request).image_model(name, name, ROUTE)
    charge = charge_of(request, model)
    model.check_queue()
    tokens = await model.count(fields.prompt, strict=False)
    start = await threads(request).pictures_in.run(
        fields.original, strength, model.entry.default_size
    )
    wanted = native_image_request(fields, num_images, model.entry, start, default_seed(request))
    urls = await until_disconnect(request.receive, data_urls(request, model, wanted, charge))
    status = timer.status(charge.cost, min(tokens.t5, tokens.t5_limit))
    cut = {"x-localinfra-truncated": header_list(tokens.cuts)} if tokens.cuts else {}
    return Made(urls, wanted.seeds, timer.request_id, status, cut)


def native_image_request(
    fields: NativeImageFields,
    num_images: int,
    entry: ImageModelEntry,
    start: Original | None,
    default_seed: int | None,
) -> ImageRequest:
    width, height = start.picture.size if start else fields.dimensions(entry.default_size)
    seed, _ = chosen_seed(fields.seed, default_seed, num_bits=32)
    scale = fields.guidance_scale
    return ImageRequest(
        prompt=fields.prompt,
        width=width,
        height=height,
        num_steps=fields.num_inference_steps or entry.steps,
        guidance_scale=entry.guidance_scale if scale is None else scale,
        seeds=tuple(range(seed, seed + num_images)),
        original=start,
    )


async def data_urls(
    request: Request, model: "ImageModel", wanted: ImageRequest, charge: Charge
) -> list[bytes]:
    """Each image as a JSON string, with commas between them."""
    urls: dict[int, bytes] = {}
    executor = threads(request).pictures_out
    async with aclosing(model.events(wanted)) as events:
        async for event in events:
            if isinstance(event, Finished):  # encoded while the next one is painted
                charge.add(images=1)
                file = await image_file(executor, model, wanted, event)
                encoded = await executor.run(base64.b64encode, file)
                urls[event.image] = b'"data:image/png;base64,%b"' % encoded
    return [(b"," if image else b"") + urls[image] for image in sorted(urls)]
