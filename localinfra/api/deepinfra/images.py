"""POST /v1/inference/{model} for image models: a prompt → images as data URLs.

Takes DeepInfra's own fields, or those of Cog models under `input`, as its client's Sdxl class does.
"""

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType
from starlette.requests import Request
from starlette.responses import Response

from localinfra.api.call import Call
from localinfra.api.deepinfra.status import ROUTE, InferenceStatus, Timer, refuse_webhook
from localinfra.api.generation.params import chosen_seed
from localinfra.api.http.body import struct_from
from localinfra.api.http.encoded import encode_base64
from localinfra.api.http.held import holding
from localinfra.api.http.pieces import fill_arrays, join_items
from localinfra.api.openai.image_edits import Strength, from_data_url
from localinfra.api.openai.images import (
    ImageSeed,
    check_prompt,
    collect_images,
    cut_header,
    image_file,
)
from localinfra.errors import InvalidRequest, UnsupportedParameter
from localinfra.executor import in_turns
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

NumImages = Annotated[int, Meta(ge=1, le=10)]
Side = int | Annotated[str, Meta(pattern=r"^[0-9]{1,5}$")]  # Vercel's AI SDK sends strings

encode = msgspec.json.Encoder().encode


class NativeImageFields(msgspec.Struct, frozen=True, kw_only=True):
    """Fields of both request forms."""

    prompt: str = ""
    width: Side | None = None  # default: the model's, or the image's proportions
    height: Side | None = None
    num_inference_steps: Annotated[int, Meta(ge=1, le=50)] | None = None
    guidance_scale: Annotated[float, Meta(ge=0, le=30)] | None = None
    seed: ImageSeed | None = None
    negative_prompt: str | None = None  # refused if set
    image: str | None = None  # the init image: a data URL, or a file in a form
    mask: str | None = None  # likewise; its transparent parts are repainted

    def check(self) -> None:
        """Checks what annotations cannot express. Raises InvalidRequest or
        UnsupportedParameter."""
        check_prompt(self.prompt)
        if self.negative_prompt:
            raise UnsupportedParameter(
                "negative_prompt is not supported by this model: leave it out.",
                "negative_prompt",
            )
        if self.image is None and self.mask is not None:
            raise InvalidRequest("A mask needs an image: send both.", "mask")
        self.dimensions(MIN_SIDE)

    def dimensions(self, default: int) -> tuple[int, int]:
        """Width and height in pixels. Raises InvalidRequest."""
        return side("width", self.width, default), side("height", self.height, default)

    def original(self, strength: float | None, default: int) -> Original | None:
        """The decoded init image; call it in a thread. Raises InvalidRequest."""
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


class CogInput(NativeImageFields, frozen=True, kw_only=True):
    num_outputs: NumImages = 1
    prompt_strength: Strength | None = None


class ImageBody(NativeImageFields, frozen=True, kw_only=True):
    num_images: NumImages = 1
    strength: Strength | None = None
    use_compel: bool | None = None  # no effect: FLUX has no prompt weights
    webhook: str | None = None
    # in place of the other fields
    input: Annotated[Any, holding(CogInput)] | UnsetType = UNSET


class NativeImages(msgspec.Struct, frozen=True, kw_only=True):
    """The images, in the order of their seeds."""

    images: Sequence[str] = ()  # data URLs
    nsfw_content_detected: list[bool]  # always false: images are not checked
    seed: int  # of the first image; each further one adds 1
    request_id: str
    inference_status: InferenceStatus


class CogImages(msgspec.Struct, frozen=True, kw_only=True):
    """The images in Cog's form."""

    output: Sequence[str] = ()  # data URLs
    status: str
    request_id: str
    inference_status: InferenceStatus


class Made(msgspec.Struct, frozen=True):
    urls: list[bytes]  # each as JSON
    seeds: Sequence[int]
    request_id: str
    status: InferenceStatus


async def infer_images(request: Request, name: str) -> Response:
    call = await Call.begin_with_form(request, ImageBody, files=("image", "mask"))
    body = call.body
    refuse_webhook(body.webhook)
    if body.input is not UNSET:
        fields = await in_turns(struct_from(body.input, CogInput))
        return await infer_cog_images(Call(request, fields), name)
    made = await make_images(call, name, body.num_images, body.strength)
    answer = NativeImages(
        nsfw_content_detected=[False] * body.num_images,
        seed=made.seeds[0],
        request_id=made.request_id,
        inference_status=made.status,
    )
    return call.pieces(fill_arrays(answer, {"images": join_items(made.urls)}))


async def infer_cog_images(call: Call[CogInput], name: str) -> Response:
    body = call.body
    made = await make_images(call, name, body.num_outputs, body.prompt_strength)
    answer = CogImages(
        status=made.status.status, request_id=made.request_id, inference_status=made.status
    )
    return call.pieces(fill_arrays(answer, {"output": join_items(made.urls)}))


async def make_images(
    call: Call[NativeImageFields], name: str, num_images: int, strength: float | None
) -> Made:
    timer, fields = Timer(), call.body
    fields.check()
    if strength is not None and not fields.image:
        raise InvalidRequest("strength needs an image: send one, or leave out strength.", "image")
    model = await call.models.image(name, name, ROUTE)
    charge = call.charge(model)
    model.check_queue(call.caller)
    tokens = await model.count(fields.prompt, strict=False)
    call.add_headers(cut_header(tokens))
    start = await call.threads.pictures_in.run(fields.original, strength, model.entry.default_size)
    wanted = native_image_request(
        fields, num_images, model.entry, start, call.default_seed, call.caller
    )
    executor = call.threads.pictures_out

    async def data_url(event: Finished) -> bytes:
        file = await image_file(executor, model, wanted, event)
        return b'"data:image/png;base64,%b"' % await executor.run(encode_base64, file)

    urls = await collect_images(model.events(wanted, charge.add_left_over), charge, data_url)
    status = timer.status(charge.cost, min(tokens.t5, tokens.t5_limit))
    return Made(urls, wanted.seeds, timer.request_id, status)


def native_image_request(
    fields: NativeImageFields,
    num_images: int,
    entry: ImageModelEntry,
    start: Original | None,
    default_seed: int | None,
    client: str,
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
        client=client,
    )
