"""POST /v1/inference/{model} for text models: a prompt in the model's own format → texts, or a
stream of one text's tokens."""

import contextlib
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
from localinfra.chat.answer import Answer
from localinfra.engine.deltas import Deltas
from localinfra.engine.output import OutputDelta
from localinfra.errors import InvalidRequest
from localinfra.text.request import TextParams, TextRequest

if TYPE_CHECKING:
    from localinfra.text.model import TextModel  # brings numpy, which only a loaded model needs

DEFAULT_NEW_TOKENS = 512  # DeepInfra's

encode = msgspec.json.Encoder().encode


class TextBody(SamplingFields, frozen=True, kw_only=True):
    input: str  # may contain control tokens
    max_new_tokens: MaxTokens | None = None
    num_responses: Annotated[int, Meta(ge=1, le=128)] = 1
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

    def params(self, defaults: Defaults) -> TextParams:
        return TextParams(
            sampling=self.sampling_params(defaults),
            num_choices=self.num_responses,
            top_logprobs=0 if self.stream else None,
            max_tokens=none_if_not_given(self.max_new_tokens) or DEFAULT_NEW_TOKENS,
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
    call = await Call.begin_with_form(request, TextBody)
    body = call.body
    body.check()
    call.log_user(body.user)
    model = await call.models.text(name, ROUTE)
    charge = call.charge(model)
    prompt = await model.prompts.text(body.input, param="input")
    compiled = await model.grammars.compile(Answer(body.answer_format), client=call.caller)
    call.report_ignored(compiled.left_out)
    deltas = model.generate(
        TextRequest(
            prompts=[prompt],
            params=body.params(call.defaults(name)),
            grammar=compiled.grammar,
            prompt_param="input",
            client=call.caller,
        )
    )
    meter = UsageMeter(charge, [len(prompt)], body.num_responses)
    if body.stream:
        return call.stream(token_events(model, len(prompt), deltas, meter), deltas)
    texts = await whole_texts(deltas, meter)
    usage = meter.usage()
    num_input, num_generated = usage.prompt_tokens, usage.completion_tokens
    status = timer.status(usage.estimated_cost, num_input, num_generated)
    results = [GeneratedText(text) for text in texts]
    return call.json(TextResults(timer.request_id, status, results, num_generated, num_input))


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
