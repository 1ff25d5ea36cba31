"""POST /v1/inference/{model} for image models: a prompt → images as data URLs.

Takes DeepInfra's own fields, and those of Cog models under `input`, as its class Sdxl sends them.
"""

import asyncio
import base64
import secrets
from collections.abc import Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from localinfra.api.body import Decoded, decode, header_list
from localinfra.api.form import read_body_or_form
from localinfra.api.images import MAX_PROMPT_CHARS, MAX_SIDE, MIN_SIDE, SIDE_UNIT
from localinfra.api.inference_status import ROUTE, InferenceStatus, Timer, refuse_webhook
from localinfra.api.params import MAX_SEED
from localinfra.api.sse import until_disconnect
from localinfra.api.state import limits, runtime
from localinfra.api.vectors import PiecesResponse
from localinfra.errors import InvalidRequest, UnsupportedParameter

if TYPE_CHECKING:
    from localinfra.image.model import ImageModel
    from localinfra.image.request import ImageRequest

NO_INPUT = msgspec.Raw()

NumImages = Annotated[int, Meta(ge=1, le=10)]
Side = int | Annotated[str, Meta(pattern=r"^[0-9]{1,5}$")]  # Vercel's AI SDK sends strings

encode = msgspec.json.Encoder().encode


class ImageFields(msgspec.Struct, frozen=True, kw_only=True):
    """Fields of both forms. What FLUX.1 Schnell can't do is known, to be refused by name."""

    unsupported: ClassVar[tuple[str, ...]] = ()

    prompt: str = ""
    width: Side | None = None  # default: the model's
    height: Side | None = None
    num_inference_steps: Annotated[int, Meta(ge=1, le=50)] | None = None
    guidance_scale: Annotated[float, Meta(ge=0, le=30)] = 0.0
    seed: Annotated[int, Meta(ge=0, le=MAX_SEED - 10)] | None = None
    negative_prompt: str | None = None
    image: str | None = None

    def check(self) -> None:
        """What annotations cannot say. Raises InvalidRequest and UnsupportedParameter."""
        if not self.prompt.strip():
            raise InvalidRequest("The prompt is empty: say what the image shall show.", "prompt")
        if len(self.prompt) > MAX_PROMPT_CHARS:
            raise InvalidRequest(
                f"The prompt has {len(self.prompt)} characters; at most {MAX_PROMPT_CHARS} are "
                "taken, and the model reads some hundred words.",
                "prompt",
            )
        for field in ("negative_prompt", "image", *self.unsupported):
            if getattr(self, field) not in (None, ""):
                raise UnsupportedParameter(
                    f"{field} is not supported here: this route makes images from a prompt alone.",
                    field,
                )
        self.dimensions(MIN_SIDE)

    def dimensions(self, default: int) -> tuple[int, int]:
        """Width and height in pixels. Raises InvalidRequest."""
        return side("width", self.width, default), side("height", self.height, default)


def side(name: str, given: Side | None, default: int) -> int:
    length = default if given is None else int(given)
    if not MIN_SIDE <= length <= MAX_SIDE or length % SIDE_UNIT:
        raise InvalidRequest(
            f"{name} can't be {length}: send a multiple of {SIDE_UNIT} from {MIN_SIDE} to "
            f"{MAX_SIDE}.",
            name,
        )
    return length


class ImageBody(ImageFields, frozen=True, kw_only=True):
    unsupported = ("strength",)

    num_images: NumImages = 1
    strength: float | None = None
    use_compel: bool | None = None  # without effect: FLUX knows no weights of words
    webhook: str | None = None
    input: msgspec.Raw = NO_INPUT  # a CogInput, and the rest is not given


class CogInput(ImageFields, frozen=True, kw_only=True):
    unsupported = ("mask", "prompt_strength")

    num_outputs: NumImages = 1
    mask: str | None = None
    prompt_strength: float | None = None


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
    decoded = await read_body_or_form(request, ImageBody, limits(request), files=("image",))
    body = decoded.value
    refuse_webhook(body.webhook)
    if body.input != NO_INPUT:
        cog = decode(bytes(body.input), CogInput)
        made = await make_images(request, name, cog.value, cog.value.num_outputs)
        result = CogResult(made.status.status, made.request_id, made.status)
        return made.response(b"output", result, cog)
    made = await make_images(request, name, body, body.num_images)
    flags = [False] * body.num_images
    images = Images(flags, made.seeds[0], made.request_id, made.status)
    return made.response(b"images", images, decoded)


async def make_images(request: Request, name: str, fields: ImageFields, num_images: int) -> Made:
    timer = Timer()
    fields.check()
    model = await runtime(request).image_model(name, name, ROUTE)
    tokens = await model.count(fields.prompt, strict=False)
    wanted = image_request(fields, num_images, model)
    urls = await until_disconnect(request.receive, data_urls(model, wanted))
    cost = round(num_images * model.entry.price.image, 12)
    status = timer.status(cost, min(tokens.t5, tokens.t5_limit))
    cut = {"x-localinfra-truncated": header_list(tokens.cuts)} if tokens.cuts else {}
    return Made(urls, wanted.seeds, timer.request_id, status, cut)


def image_request(fields: ImageFields, num_images: int, model: "ImageModel") -> "ImageRequest":
    from localinfra.image.request import ImageRequest

    width, height = fields.dimensions(model.entry.default_size)
    seed = secrets.randbits(32) if fields.seed is None else fields.seed
    return ImageRequest(
        prompt=fields.prompt,
        width=width,
        height=height,
        num_steps=fields.num_inference_steps or model.entry.steps,
        guidance_scale=fields.guidance_scale,
        seeds=tuple(range(seed, seed + num_images)),
    )


async def data_urls(model: "ImageModel", wanted: "ImageRequest") -> list[bytes]:
    """Each image as a JSON string, with commas between them."""
    from localinfra.image.request import Finished

    async with aclosing(model.events(wanted)) as events:
        finished = [event async for event in events if isinstance(event, Finished)]
    finished.sort(key=lambda event: event.image)
    urls = []
    for event in finished:
        made_from = {
            "prompt": wanted.prompt,
            "seed": wanted.seeds[event.image],
            "steps": wanted.num_steps,
            "guidance_scale": wanted.guidance_scale,
            "model": model.name,
            "software": "localinfra",
        }
        url = await asyncio.to_thread(data_url, event.picture, made_from)
        urls.append(b"," + url if event.image else url)
    return urls


def data_url(picture: Any, made_from: dict[str, object]) -> bytes:
    from localinfra.image.files import encode as encode_file

    data = encode_file(picture, "png", None, made_from)
    return b'"data:image/png;base64,%b"' % base64.b64encode(data)
