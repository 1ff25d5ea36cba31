"""What requests for text have in common: sampling, length, stops."""

import logging
import secrets
from typing import Annotated, Any

import msgspec
from msgspec import Meta
from starlette.requests import Request

from localinfra.api.render import request_id
from localinfra.api.structured import ResponseFormat
from localinfra.chat.answer import AnswerFormat
from localinfra.engine.request import SamplingParams
from localinfra.errors import UnsupportedParameter

logger = logging.getLogger(__name__)

MAX_STOPS = 64
MAX_STOP_CHARACTERS = 256
MAX_SEED = 2**63 - 1

MaxTokens = Annotated[int, Meta(ge=0, le=1_000_000)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
Bias = Annotated[float, Meta(ge=-100, le=100)]
TopLogprobs = Annotated[int, Meta(ge=0, le=20)]
StopString = Annotated[str, Meta(max_length=MAX_STOP_CHARACTERS)]
ShortName = Annotated[str, Meta(max_length=256)]  # of a setting, or of something declared
# For the template.
TemplateKwargs = Annotated[dict[ShortName, Any], Meta(max_length=64)]


class StreamOptions(msgspec.Struct, frozen=True):
    include_usage: bool | None = None


class SamplingFields(msgspec.Struct, frozen=True, kw_only=True):
    """Fields of every route, with API.md's ranges and defaults. A null is as good as nothing."""

    temperature: Annotated[float, Meta(ge=0, le=2)] = 1.0  # 0: always the likeliest token
    top_p: Annotated[float, Meta(gt=0, le=1)] = 1.0
    min_p: Annotated[float, Meta(ge=0, le=1)] = 0.0
    top_k: Annotated[int, Meta(ge=0, lt=1000)] = 0
    presence_penalty: Penalty = 0.0
    frequency_penalty: Penalty = 0.0
    repetition_penalty: Annotated[float, Meta(ge=0.01, le=5)] = 1.0
    logit_bias: Annotated[dict[int, Bias], Meta(max_length=1024)] = {}
    stop: StopString | Annotated[list[StopString], Meta(max_length=MAX_STOPS)] = []
    seed: Annotated[int, Meta(ge=0, le=MAX_SEED)] | None = None
    stream: bool = False
    response_format: ResponseFormat | None = None
    user: str | None = None  # logged as given, nothing else

    @property
    def stops(self) -> list[str]:
        """The stop strings; empty ones stop nothing."""
        stops = [self.stop] if isinstance(self.stop, str) else self.stop
        return [stop for stop in stops if stop]

    @property
    def answer_format(self) -> AnswerFormat | None:
        return self.response_format.answer_format() if self.response_format else None

    def sampling_params(self) -> SamplingParams:
        return SamplingParams(
            temperature=self.temperature,
            top_p=self.top_p,
            min_p=self.min_p,
            top_k=self.top_k,
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            repetition_penalty=self.repetition_penalty,
            logit_bias=self.logit_bias,
            seed=secrets.randbits(63) if self.seed is None else self.seed,
            is_reproducible=self.seed is not None,
        )


class GenerationFields(SamplingFields, frozen=True, kw_only=True):
    """Fields of OpenAI's routes: chat and text completions."""

    model: str
    max_tokens: MaxTokens | None = None
    n: Annotated[int, Meta(ge=1, le=128)] = 1
    stream_options: StreamOptions | None = None
    functions: list[Any] = msgspec.field(default_factory=list)
    function_call: str | dict[str, Any] = "none"

    @property
    def includes_usage(self) -> bool:
        """Whether OpenAI's extra usage chunk is wanted at the end of a stream."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    def check(self) -> None:
        """What annotations cannot say. Raises InvalidRequest and UnsupportedParameter."""
        unsupported = {
            "functions": bool(self.functions),
            "function_call": self.function_call not in ("none", "auto"),
        }
        for param, is_wanted in unsupported.items():
            if is_wanted:
                raise UnsupportedParameter(
                    f"{param} is not supported; send tools and tool_choice instead, which replaced "
                    "it in OpenAI's API.",
                    param,
                )


def log_user(request: Request, user: str | None) -> None:
    if user is not None:
        logger.info("request %s is for user %r", request_id(request.scope), user)
