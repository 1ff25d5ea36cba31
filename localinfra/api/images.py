"""POST /v1/images/generations."""

import asyncio
import base64
import re
import secrets
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType
from starlette.requests import Request
from starlette.responses import Response

from localinfra.api.body import header_list, read_body
from localinfra.api.image_files import ImageFiles
from localinfra.api.params import MAX_SEED, log_user
from localinfra.api.sse import EventStream, until_disconnect
from localinfra.api.state import limits, runtime
from localinfra.api.usage import Charge, charge_of, dollars
from localinfra.api.vectors import PiecesResponse
from localinfra.errors import InvalidRequest, UnsupportedParameter

if TYPE_CHECKING:
    from localinfra.image.model import ImageModel, PromptTokens
    from localinfra.image.request import ImageRequest

ROUTE = "/v1/images/generations"
DEFAULT_MODEL = "black-forest-labs/FLUX.1-schnell"
MAX_PROMPT_CHARS = 32_000
SIZE = re.compile(r"(\d{1,5})x(\d{1,5})")
MIN_SIDE, MAX_SIDE, SIDE_UNIT = 64, 2048, 16  # pixels
QUALITY_STEPS = {"low": 2}  # of the others, the model's usual number

encode = msgspec.json.Encoder().encode


class ImagesRequest(msgspec.Struct, frozen=True, kw_only=True):
    prompt: str
    model: str | None = None
    n: Annotated[int, Meta(ge=1, le=10)] = 1
    size: str = "auto"
    response_format: Literal["b64_json", "url"] = "b64_json"
    seed: Annotated[int, Meta(ge=0, le=MAX_SEED - 10)] | None = None
    num_inference_steps: Annotated[int, Meta(ge=1, le=50)] | None = None
    guidance_scale: Annotated[float, Meta(ge=0, le=30)] = 0.0
    output_format: Literal["png", "jpeg", "webp"] = "png"
    output_compression: Annotated[int, Meta(ge=0, le=100)] | None = None
    stream: bool = False
    partial_images: Annotated[int, Meta(ge=0, le=3)] = 0
    strict: bool = False  # refuse prompts of which a part would not be read
    quality: str | None = None
    style: str | None = None  # without effect, as is moderation
    moderation: str | None = None
    background: str | None = None
    user: str | None = None

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
        if self.background == "transparent":
            raise UnsupportedParameter(
                "Images here have no transparent background; leave it out.", "background"
            )
        self.dimensions(1024)

    def dimensions(self, default: int) -> tuple[int, int]:
        """Width and height in pixels. Raises InvalidRequest."""
        if self.size == "auto":
            return default, default
        found = SIZE.fullmatch(self.size)
        sides = (int(found[1]), int(found[2])) if found else (0, 0)
        if not all(MIN_SIDE <= side <= MAX_SIDE and side % SIDE_UNIT == 0 for side in sides):
            raise InvalidRequest(
                f"size can't be {self.size[:50]!r}: send WIDTHxHEIGHT, such as 1024x768, both "
                f"multiples of {SIDE_UNIT} from {MIN_SIDE} to {MAX_SIDE}, or auto.",
                "size",
            )
        return sides


class ImageDatum(msgspec.Struct, frozen=True):
    b64_json: str | UnsetType = UNSET
    url: str | UnsetType = UNSET
    seed: int | UnsetType = UNSET  # makes the image again


class ImagesUsage(msgspec.Struct, frozen=True):
    input_tokens: int
    input_tokens_details: dict[str, int]
    output_tokens: int
    total_tokens: int
    estimated_cost: float  # USD


async def create_images(request: Request) -> Response:
    decoded = await read_body(request, ImagesRequest, limits(request))
    body = decoded.value
    body.check()
    log_user(request, body.user)
    model = await runtime(request).image_model(body.model, DEFAULT_MODEL, ROUTE)
    charge = charge_of(request, model)
    tokens = await model.count(body.prompt, strict=body.strict)
    files, base_url = request.app.state.image_files, str(request.base_url)
    answer = ImageAnswer(model, body, tokens, charge, files, base_url)
    cut = {"x-localinfra-truncated": header_list(tokens.cuts)} if tokens.cuts else {}
    headers = {**decoded.headers, **cut}
    if body.stream:
        keepalive_s = runtime(request).settings.keepalive_s
        return EventStream(answer.events(), headers, keepalive_s)
    return await until_disconnect(request.receive, answer.whole(headers))


class ImageAnswer:
    """The events of one request → a response, or the events of OpenAI's image streams."""

    def __init__(
        self,
        model: "ImageModel",
        body: ImagesRequest,
        tokens: "PromptTokens",
        charge: Charge,
        files: ImageFiles,
        base_url: str,
    ):
        self._model = model
        self._body = body
        self._tokens = tokens
        self._charge = charge
        self._files = files
        self._base_url = base_url.rstrip("/")
        self._created = int(time.time())
        self._request = self._image_request()

    def _image_request(self) -> "ImageRequest":
        from localinfra.image.request import ImageRequest

        body, entry = self._body, self._model.entry
        width, height = body.dimensions(entry.default_size)
        steps = body.num_inference_steps or QUALITY_STEPS.get(body.quality or "", entry.steps)
        seed = secrets.randbits(32) if body.seed is None else body.seed
        return ImageRequest(
            prompt=body.prompt,
            width=width,
            height=height,
            num_steps=steps,
            guidance_scale=body.guidance_scale,
            seeds=tuple(range(seed, seed + body.n)),
            num_previews=body.partial_images if body.stream else 0,
        )

    async def whole(self, headers: Mapping[str, str]) -> Response:
        from localinfra.image.request import Finished

        parts = [b'{"created":%d,"data":[' % self._created]
        async with aclosing(self._model.events(self._request)) as events:
            finished = []
            async for event in events:
                if isinstance(event, Finished):
                    self._charge.add(images=1)
                    finished.append(event)
        for event in sorted(finished, key=lambda event: event.image):
            data = await self._file(event.picture, event.image)
            parts.append((b"," if event.image else b"") + await self._datum(data, event.image))
        common = encode({**self._common(), "usage": self._usage()})
        parts.append(b"],%b" % common.removeprefix(b"{"))
        return PiecesResponse(parts, headers)

    async def events(self) -> AsyncGenerator[bytes | list[bytes], None]:
        from localinfra.image.request import Finished, Preview

        async with aclosing(self._model.events(self._request)) as events:
            async for event in events:
                if isinstance(event, Preview):
                    data = await self._file(event.picture, event.image)
                    yield await self._event(
                        "image_generation.partial_image",
                        data,
                        event.image,
                        partial_image_index=event.number,
                    )
                elif isinstance(event, Finished):
                    self._charge.add(images=1)
                    data = await self._file(event.picture, event.image)
                    usage = {"usage": self._usage()}
                    yield await self._event(
                        "image_generation.completed", data, event.image, **usage
                    )

    async def _event(self, kind: str, data: bytes, image: int, **more: Any) -> bytes:
        encoded = await asyncio.to_thread(base64.b64encode, data)
        about = {
            **self._common(),
            "type": kind,
            "created_at": self._created,
            "index": image,
            **more,
        }
        return encode({**about, "b64_json": encoded.decode()})

    async def _file(self, picture: Any, image: int) -> bytes:
        from localinfra.image.files import encode as encode_file

        request = self._request
        made_from = {
            "prompt": request.prompt,
            "seed": request.seeds[image],
            "steps": request.num_steps,
            "guidance_scale": request.guidance_scale,
            "model": self._model.name,
            "software": "localinfra",
        }
        form, compression = self._body.output_format, self._body.output_compression
        return await asyncio.to_thread(encode_file, picture, form, compression, made_from)

    async def _datum(self, data: bytes, image: int) -> bytes:
        seed = self._request.seeds[image]
        if self._body.response_format == "url":
            path = self._files.put(data, f"image/{self._body.output_format}")
            return encode(ImageDatum(url=self._base_url + path, seed=seed))
        encoded = await asyncio.to_thread(base64.b64encode, data)
        return b'{"b64_json":"%b","seed":%d}' % (encoded, seed)

    def _common(self) -> dict[str, str]:
        """What OpenAI's answers say of all images."""
        request = self._request
        return {
            "size": f"{request.width}x{request.height}",
            "quality": self._body.quality or "auto",
            "background": "opaque",
            "output_format": self._body.output_format,
        }

    def _usage(self) -> ImagesUsage:
        num_tokens = min(self._tokens.t5, self._tokens.t5_limit)
        cost = dollars(self._charge.price.of(0, num_images=len(self._request.seeds)))
        details = {"text_tokens": num_tokens, "image_tokens": 0}
        return ImagesUsage(num_tokens, details, 0, num_tokens, cost)
