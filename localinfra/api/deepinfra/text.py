"""POST /v1/inference/{model} for text models: a prompt in the model's own format → texts, or a
stream of one text's tokens."""

import contextlib
import itertools
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Annotated

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from localinfra.api.call import Call
from localinfra.api.deepinfra.status import ROUTE, InferenceStatus, Timer, refuse_webhook
from localinfra.api.generation.params import Defaults, MaxTokens, SamplingFields, none_if_not_given
from localinfra.api.generation.usage import UsageMeter
from localinfra.api.pictures import MAX_PICTURES, refuse_link, see, senses
from localinfra.chat.answer import Answer
from localinfra.chat.messages import ImageUrl
from localinfra.engine.deltas import Deltas
from localinfra.engine.output import OutputDelta
from localinfra.errors import InvalidRequest, UnsupportedParameter
from localinfra.models.senses import Sense
from localinfra.text.request import TextParams, TextRequest
from localinfra.text.showing import NOTHING_SHOWN, Link, ShownPictures, mark

if TYPE_CHECKING:
    from localinfra.text.model import TextModel  # brings numpy, which only a loaded model needs

DEFAULT_NEW_TOKENS = 512  # DeepInfra's
PLACE = "<image>"  # of a picture
NOBODY = -1  # no message: all pictures are asked about

encode = msgspec.json.Encoder().encode


class TextBody(SamplingFields, frozen=True, kw_only=True):
    input: str  # may contain control tokens
    max_new_tokens: MaxTokens | None = None
    num_responses: Annotated[int, Meta(ge=1, le=128)] = 1
    # data URLs of pictures, or files in a form, for models that see; they stand where `<image>`
    # does in `input`, else before it
    images: Annotated[list[str], Meta(max_length=MAX_PICTURES)] = msgspec.field(
        default_factory=list
    )
    image: str | None = None  # the same of one picture
    webhook: str | None = None

    def check(self) -> None:
        super().check()
        refuse_webhook(self.webhook)
        if self.max_new_tokens == 0:
            raise InvalidRequest("max_new_tokens must be at least 1.", "max_new_tokens")
        if self.stream and self.num_responses > 1:
            raise InvalidRequest(
                "Only one response can be streamed, since events do not say which one they belong "
                "to: leave out stream or num_responses.",
                "num_responses",
            )
        count = len(self.links)
        places = self.input.count(PLACE) if count else 0
        if count > MAX_PICTURES:
            raise InvalidRequest(
                f"image and images are {count} pictures; at most {MAX_PICTURES} are read.", "images"
            )
        if count and places not in (0, count):
            raise InvalidRequest(
                f"input has {places} times {PLACE}, and there are {count} pictures: write it once "
                "for each of them, or leave it out.",
                "input",
            )

    @property
    def links(self) -> list[Link]:
        """The pictures, in the order of their places."""
        one = [Link(ImageUrl(self.image), "image")] if self.image else []
        return one + [Link(ImageUrl(url), f"images[{at}]") for at, url in enumerate(self.images)]

    def marked(self, word: str) -> str:
        """The input with marks in the places of pictures."""
        marks = [mark(word, at) for at in range(len(self.links))]
        texts = self.input.split(PLACE)
        if len(texts) == 1:
            return "".join(marks) + self.input
        return "".join(itertools.chain(*zip(texts, [*marks, ""], strict=True)))

    def params(self, defaults: Defaults) -> TextParams:
        given = none_if_not_given(self.max_new_tokens)
        return TextParams(
            sampling=self.sampling_params(defaults),
            num_choices=self.num_responses,
            top_logprobs=0 if self.stream else None,
            max_tokens=given or DEFAULT_NEW_TOKENS,
            max_tokens_param="max_new_tokens" if given else None,
            stops=self.stops,
        )


class GeneratedText(msgspec.Struct, frozen=True):
    generated_text: str


class TextResults(msgspec.Struct, frozen=True):
    request_id: str
    inference_status: InferenceStatus
    results: list[GeneratedText]
    num_tokens: int  # generated, of all results
    num_input_tokens: int


class NativeToken(msgspec.Struct, frozen=True):
    id: int
    text: str  # text completed by this token: "" after half a character or half a stop string
    logprob: float
    special: bool


class NativeDetails(msgspec.Struct, frozen=True):
    finish_reason: str
    num_input_tokens: int
    num_tokens: int  # generated


class NativeTokenEvent(msgspec.Struct, frozen=True):
    token: NativeToken
    generated_text: str | None = None  # the whole text, on the last event
    details: NativeDetails | None = None  # on the last event


async def infer_text(request: Request, name: str) -> Response:
    timer = Timer()
    call = await Call.begin_with_form(request, TextBody, files=("image", "images"))
    call.body.check()
    if call.body.stream and call.body.links:
        return await call.begun_in_time(begin_text(call, name, timer))
    return await begin_text(call, name, timer)


async def begin_text(call: Call[TextBody], name: str, timer: Timer) -> Response:
    body = call.body
    call.log_user(body.user)
    model = await call.models.text(name, ROUTE)
    charge = call.charge(model)
    shown = await pictures_of(call, model)
    if shown.word:
        text = await model.prompts.shown_text(body.marked(shown.word), shown, "input")
        prompt, pictures = text.ids, text.pictures
    else:
        prompt, pictures = await model.prompts.text(body.input, param="input"), ()
    compiled = await model.grammars.compile(Answer(body.answer_format), client=call.caller)
    call.report_ignored(compiled.left_out)
    deltas = model.generate(
        TextRequest(
            prompts=[prompt],
            pictures=pictures,
            params=body.params(call.defaults(name)),
            grammar=compiled.grammar,
            prompt_param="input",
            client=call.caller,
        )
    )
    num_image_tokens = sum(placed.picture.num_tokens for placed in pictures)
    meter = UsageMeter(charge, deltas, [len(prompt)], body.num_responses, num_image_tokens)
    if body.stream:
        return call.stream(token_events(model, len(prompt), deltas, meter), deltas)
    texts = await whole_texts(deltas, meter)
    usage = meter.usage()
    num_input, num_generated = usage.prompt_tokens, usage.completion_tokens
    status = timer.status(usage.estimated_cost, num_input, num_generated)
    results = [GeneratedText(text) for text in texts]
    return call.json(TextResults(timer.request_id, status, results, num_generated, num_input))


async def pictures_of(call: Call[TextBody], model: "TextModel") -> ShownPictures:
    """Raises the errors of `see`, and UnsupportedParameter if the model doesn't."""
    if not (found := call.body.links):
        return NOTHING_SHOWN
    if Sense.SIGHT not in senses(model):
        await refuse_link(call, model, found[0])
        raise UnsupportedParameter(
            f"{model.name} takes text only: leave {found[0].path} out.", found[0].path
        )
    return await see(call, model, found, NOBODY)


async def whole_texts(deltas: Deltas, meter: UsageMeter) -> list[str]:
    """The choices' texts, in order."""
    texts: dict[int, str] = {}
    async with contextlib.aclosing(deltas):
        async for step in deltas:
            for delta in step:
                meter.add(delta)
                texts[delta.choice] = texts.get(delta.choice, "") + delta.text
    return [texts[choice] for choice in sorted(texts)]


async def token_events(
    model: "TextModel", num_input: int, deltas: Deltas, meter: UsageMeter
) -> AsyncGenerator[list[bytes], None]:
    """An event per sampled token; yields those of one step together."""
    text = ""
    async with contextlib.aclosing(deltas):
        async for step in deltas:
            events: list[bytes] = []
            for delta in step:
                meter.add(delta)
                text += delta.text
                events.append(encode_event(token_event(model, num_input, delta, text)))
            if events:
                yield events


def token_event(
    model: "TextModel", num_input: int, delta: OutputDelta, text: str
) -> NativeTokenEvent:
    """`text`: the whole response so far."""
    drawn = delta.drawn
    assert drawn is not None and drawn.logprob is not None, "logprobs were asked for"
    token = NativeToken(drawn.token, delta.text, drawn.logprob, model.is_special(drawn.token))
    if delta.finish_reason is None:
        return NativeTokenEvent(token)
    return NativeTokenEvent(
        token, text, NativeDetails(delta.finish_reason, num_input, delta.num_generated)
    )


def encode_event(event: NativeTokenEvent) -> bytes:
    """The event's JSON with "error" escaped: LangChain takes any stream with that word in it for a
    failure."""
    return encode(event).replace(b"error", b"\\u0065rror")
