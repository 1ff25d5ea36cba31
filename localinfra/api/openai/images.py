"""POST /v1/images/generations, and what it shares with edits: fields, response, events."""

import re
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType
from starlette.requests import Request
from starlette.responses import Response

from localinfra.api.call import Call
from localinfra.api.generation.params import MAX_SEED, NOT_GIVEN, ShortName, chosen_seed
from localinfra.api.generation.usage import Charge, dollars
from localinfra.api.http.body import header_list
from localinfra.api.http.encoded import encode_base64
from localinfra.api.http.pieces import fill_arrays, join_items
from localinfra.api.openai.image_files import ImageFiles
from localinfra.errors import InvalidRequest, UnsupportedParameter
from localinfra.executor import BoundedExecutor
from localinfra.image.files import MEDIA_TYPES, OutputFormat
from localinfra.image.files import encode as encode_file
from localinfra.image.request import (
    MAX_SIDE,
    MIN_SIDE,
    SIDE_UNIT,
    Event,
    Finished,
    ImageRequest,
    ImageStep,
    Original,
    Preview,
)
from localinfra.models.entries import ImageModelEntry

if TYPE_CHECKING:
    from localinfra.image.model import ImageModel, PromptTokens  # brings the pipeline's file
    from localinfra.image.worker import Painting

ROUTE = "/v1/images/generations"
DEFAULT_MODEL = "black-forest-labs/FLUX.1-schnell"
MAX_PROMPT_CHARS = 32_000
SIZE = re.compile(r"([0-9]{1,5})x([0-9]{1,5})")
# The first image's seed; each further image adds 1.
ImageSeed = Annotated[int, Meta(ge=NOT_GIVEN, le=MAX_SEED - 10)]
QUALITY_STEPS = {"low": 2}  # for other qualities, the model's default

encode = msgspec.json.Encoder().encode


class ImageFields(msgspec.Struct, frozen=True, kw_only=True):
    """A prompt, and what to make of it."""

    prompt: str
    model: str | None = None
    n: Annotated[int, Meta(ge=1, le=10)] = 1  # images
    size: ShortName = "auto"  # WIDTHxHEIGHT, multiples of 16 from 64 to 2048; auto: the model's
    response_format: Literal["b64_json", "url"] = "b64_json"
    seed: ImageSeed | None = None  # of the first image; each further one adds 1
    num_inference_steps: Annotated[int, Meta(ge=1, le=50)] | None = None
    guidance_scale: Annotated[float, Meta(ge=0, le=30)] | None = None
    output_format: OutputFormat = "png"
    output_compression: Annotated[int, Meta(ge=0, le=100)] | None = None  # quality, not for png
    stream: bool = False
    partial_images: Annotated[int, Meta(ge=0, le=3)] = 0  # previews of each image, in a stream
    progress: bool = False  # an event per step, in a stream
    strict: bool = False  # refuse prompts that would be cut off
    quality: ShortName | None = None  # low: two steps
    style: ShortName | None = None  # no effect, like moderation
    moderation: ShortName | None = None
    background: ShortName | None = None
    user: str | None = None

    def check(self) -> None:
        """Checks what annotations cannot express. Raises InvalidRequest or
        UnsupportedParameter."""
        check_prompt(self.prompt)
        if self.background == "transparent":
            raise UnsupportedParameter(
                "Transparent backgrounds are not supported: leave background out.", "background"
            )
        if self.response_format == "url" and self.stream:
            raise UnsupportedParameter(
                "A stream can't send URLs, only images: leave response_format out.",
                "response_format",
            )
        if not self.stream and (self.partial_images or self.progress):
            raise InvalidRequest(
                "partial_images and progress need a stream: set stream to true.", "stream"
            )
        if self.output_compression is not None and self.output_format == "png":
            raise UnsupportedParameter(
                "png is always lossless: leave output_compression out, or choose jpeg or webp.",
                "output_compression",
            )
        _ = self.dimensions

    @property
    def dimensions(self) -> tuple[int, int] | None:
        """Width and height in pixels, None for auto. Raises InvalidRequest."""
        if self.size == "auto":
            return None
        found = SIZE.fullmatch(self.size)
        sides = (int(found[1]), int(found[2])) if found else (0, 0)
        if not all(MIN_SIDE <= side <= MAX_SIDE and side % SIDE_UNIT == 0 for side in sides):
            raise InvalidRequest(
                f"size can't be {self.size[:50]!r}: send WIDTHxHEIGHT, such as 1024x768, both "
                f"multiples of {SIDE_UNIT} from {MIN_SIDE} to {MAX_SIDE}, or auto.",
                "size",
            )
        return sides


def check_prompt(prompt: str) -> None:
    """Raises InvalidRequest."""
    if not prompt.strip():
        raise InvalidRequest("The prompt is empty: describe the image.", "prompt")
    if len(prompt) > MAX_PROMPT_CHARS:
        raise InvalidRequest(
            f"The prompt has {len(prompt)} characters, but at most {MAX_PROMPT_CHARS} are allowed. "
            "The model only reads a few hundred words.",
            "prompt",
        )


class ImageDatum(msgspec.Struct, frozen=True):
    b64_json: str | UnsetType = UNSET
    url: str | UnsetType = UNSET
    seed: int | UnsetType = UNSET  # reproduces the image


class ImagesUsage(msgspec.Struct, frozen=True):
    input_tokens: int
    input_tokens_details: dict[str, int]
    output_tokens: int  # always 0: images have no tokens here
    total_tokens: int
    estimated_cost: float  # USD


class ImagesAbout(msgspec.Struct, frozen=True):
    """What concerns all images of a request."""

    size: str  # WIDTHxHEIGHT
    quality: str
    background: Literal["opaque"]
    output_format: OutputFormat


class ImagesAnswer(ImagesAbout, frozen=True, kw_only=True):
    """The images, in order of their seeds."""

    created: int  # Unix time
    data: Sequence[ImageDatum] = ()
    usage: ImagesUsage


class ImageProgress(msgspec.Struct, frozen=True):
    """An event per step, if `progress` is asked for."""

    type: str  # image_generation.progress or image_edit.progress
    created_at: int  # Unix time
    index: int  # of the image
    step: int
    steps: int  # in all


class ImageFile(ImagesAbout, frozen=True, kw_only=True):
    """An event with an image."""

    type: str
    created_at: int  # Unix time
    index: int  # of the image
    b64_json: str


class ImagePreview(ImageFile, frozen=True, kw_only=True):
    """An image while it is being made, if `partial_images` are asked for. Its type is
    image_generation.partial_image or image_edit.partial_image."""

    partial_image_index: int


class ImageCompleted(ImageFile, frozen=True, kw_only=True):
    """A finished image. The event's type is image_generation.completed or image_edit.completed."""

    seed: int  # reproduces the image
    usage: ImagesUsage


async def create_images(request: Request) -> Response:
    """Makes images from a prompt.

    A stream sends each image once it is done, and previews with `partial_images`."""
    call = await Call.begin(request, ImageFields)
    body = call.body
    body.check()
    call.log_user(body.user)
    model = await call.models.image(body.model, DEFAULT_MODEL, ROUTE)
    return await answer_images(call, model)


async def answer_images(
    call: Call[ImageFields], model: "ImageModel", original: Original | None = None
) -> Response:
    """Generates the images for a checked body, from the init image if there is one."""
    body = call.body
    model.check_queue(call.caller)
    tokens = await model.count(body.prompt, strict=body.strict)
    call.add_headers(cut_header(tokens))
    wanted = image_request(body, model.entry, original, call.default_seed, call.caller)
    answer = ImageAnswer(call, model, wanted, tokens)
    if body.stream:
        return call.stream(answer.events(), answer.painting)
    return call.pieces(await answer.whole())


def cut_header(tokens: "PromptTokens") -> dict[str, str]:
    """`x-localinfra-truncated`: where the prompt was cut off."""
    return {"x-localinfra-truncated": header_list(tokens.cuts)} if tokens.cuts else {}


def image_request(
    body: ImageFields,
    entry: ImageModelEntry,
    original: Original | None,
    default_seed: int | None,
    client: str,
) -> ImageRequest:
    width, height = body.dimensions or (entry.default_size, entry.default_size)
    if original is not None:
        width, height = original.picture.size
    seed, _ = chosen_seed(body.seed, default_seed, num_bits=32)
    return ImageRequest(
        prompt=body.prompt,
        width=width,
        height=height,
        num_steps=body.num_inference_steps or QUALITY_STEPS.get(body.quality or "", entry.steps),
        guidance_scale=entry.guidance_scale if body.guidance_scale is None else body.guidance_scale,
        seeds=tuple(range(seed, seed + body.n)),
        num_previews=body.partial_images if body.stream else 0,
        original=original,
        client=client,
    )


async def image_file(
    executor: BoundedExecutor,
    model: "ImageModel",
    request: ImageRequest,
    event: Finished | Preview,
    form: OutputFormat = "png",
    compression: int | None = None,
) -> bytes:
    """The image file, with the parameters that reproduce it as metadata. Raises QueueFull."""
    made_from: dict[str, object] = {
        "prompt": request.prompt,
        "seed": request.seeds[event.image],
        "steps": request.num_steps,
        "guidance_scale": request.guidance_scale,
        "model": model.name,
        "software": "localinfra",
    }
    if request.original is not None:
        made_from["strength"] = request.original.strength
    return await executor.run(encode_file, event.picture, form, compression, made_from)


async def collect_images(
    painting: "Painting",
    charge: Charge,
    encode_image: Callable[[Finished], Awaitable[bytes]],
) -> list[bytes]:
    """All images in order, each encoded while the next is being generated."""
    images: dict[int, bytes] = {}
    async with aclosing(painting) as events:
        async for event in events:
            if isinstance(event, Finished):
                charge.add(images=1)
                images[event.image] = await encode_image(event)
    return [images[number] for number in sorted(images)]


class ImageAnswer:
    """A request's events → a response, or the events of OpenAI's image streams. The constructor
    queues the request and raises QueueFull."""

    def __init__(
        self,
        call: Call[ImageFields],
        model: "ImageModel",
        wanted: ImageRequest,
        tokens: "PromptTokens",
    ):
        self._model = model
        self._body = call.body
        self._request = wanted
        self._tokens = tokens
        self._charge = call.charge(model)
        self._executor = call.threads.pictures_out
        self._files, self._caller = call.store(ImageFiles), call.caller
        self._base_url = str(call.request.base_url).rstrip("/")
        self._created = int(time.time())
        self.painting = model.events(wanted, self._charge.add_left_over)

    async def whole(self) -> list[bytes]:
        """The whole response, in pieces."""
        data = await collect_images(self.painting, self._charge, self._datum)
        answer = ImagesAnswer(
            created=self._created,
            usage=self._usage(len(data)),
            **msgspec.structs.asdict(self._about(self._request.width, self._request.height)),
        )
        return fill_arrays(answer, {"data": join_items(data)})

    async def events(self) -> AsyncGenerator[bytes | list[bytes], None]:
        async with aclosing(self.painting) as events:
            async for event in events:
                if isinstance(event, Finished):
                    self._charge.add(images=1)
                if shown := await self._event(event):
                    yield shown

    async def _event(self, event: Event) -> bytes | None:
        kind = "image_generation" if self._request.original is None else "image_edit"
        created, index = self._created, event.image
        if isinstance(event, ImageStep):
            if not self._body.progress:
                return None
            steps = self._request.num_steps_taken
            return encode(ImageProgress(f"{kind}.progress", created, index, event.number, steps))
        data = await self._file(event)
        fields = {
            "created_at": created,
            "index": index,
            "b64_json": (await self._executor.run(encode_base64, data)).decode(),
            **msgspec.structs.asdict(self._about(event.picture.width, event.picture.height)),
        }
        if isinstance(event, Finished):
            fields |= {"seed": self._request.seeds[index], "usage": self._usage(1)}
            return encode(ImageCompleted(type=f"{kind}.completed", **fields))
        fields["partial_image_index"] = event.number
        return encode(ImagePreview(type=f"{kind}.partial_image", **fields))

    async def _file(self, event: Finished | Preview) -> bytes:
        form, compression = self._body.output_format, self._body.output_compression
        return await image_file(
            self._executor, self._model, self._request, event, form, compression
        )

    async def _datum(self, event: Finished) -> bytes:
        data, seed = await self._file(event), self._request.seeds[event.image]
        if self._body.response_format == "url":
            media_type = MEDIA_TYPES[self._body.output_format]
            path = self._files.put(data, media_type, self._caller)
            return encode(ImageDatum(url=self._base_url + path, seed=seed))
        encoded = await self._executor.run(encode_base64, data)
        return b'{"b64_json":"%b","seed":%d}' % (encoded, seed)

    def _about(self, width: int, height: int) -> ImagesAbout:
        quality, form = self._body.quality or "auto", self._body.output_format
        return ImagesAbout(f"{width}x{height}", quality, "opaque", form)

    def _usage(self, num_images: int) -> ImagesUsage:
        num_tokens = min(self._tokens.t5, self._tokens.t5_limit)
        cost = dollars(self._charge.price.of(0, num_images=num_images))
        details = {"text_tokens": num_tokens, "image_tokens": 0}
        return ImagesUsage(num_tokens, details, 0, num_tokens, cost)
