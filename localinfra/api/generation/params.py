"""Fields shared by all requests for text: sampling, length, stops."""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from localinfra.api.generation.response_format import ResponseFormat
from localinfra.chance import random_seed
from localinfra.chat.answer import AnswerFormat
from localinfra.engine.request import SamplingParams
from localinfra.errors import InvalidRequest, UnsupportedParameter
from localinfra.models.sampling import (
    RepetitionPenalty,
    SamplingSettings,
)

MAX_STOPS = 64
MAX_STOP_CHARACTERS = 256
MAX_SEED = 2**63 - 1

NOT_GIVEN = -1  # several UIs send it for "no limit" or "random"
DEFAULT_TEXT_TOKENS = 2048  # of a completion, if neither the request nor models.toml says

MaxTokens = Annotated[int, Meta(ge=NOT_GIVEN, le=1_000_000)]
TopK = Annotated[int, Meta(ge=NOT_GIVEN, lt=1000)]
Bias = Annotated[float, Meta(ge=-100, le=100)]
TopLogprobs = Annotated[int, Meta(ge=0, le=20)]
StopString = Annotated[str, Meta(max_length=MAX_STOP_CHARACTERS)]
ShortName = Annotated[str, Meta(max_length=256)]
TemplateKwargs = Annotated[dict[ShortName, Any], Meta(max_length=64)]
Seed = Annotated[int, Meta(ge=NOT_GIVEN, le=MAX_SEED)]


class StreamOptions(msgspec.Struct, frozen=True):
    include_usage: bool | None = None  # send the usage in a last chunk of its own


class Defaults(msgspec.Struct, frozen=True):
    """What a request gets for fields that it leaves out."""

    seed: int | None = None  # None: a new one each time
    sampling: SamplingSettings = SamplingSettings()

    def sampling_params(self, given: Mapping[str, float], seed: int | None) -> SamplingParams:
        """`given` and `seed`: as in the request."""
        chosen, is_reproducible = chosen_seed(seed, self.seed)
        params = SamplingParams(seed=chosen, is_reproducible=is_reproducible)
        return msgspec.structs.replace(params, **{**self.sampling.given, **given})


class SamplingFields(
    SamplingSettings, frozen=True, kw_only=True, forbid_unknown_fields=False, omit_defaults=False
):
    """Fields of every text route. A null counts as absent."""

    top_k: TopK | None = None  # sample from this many of the likeliest tokens; 0 or -1: from all
    repeat_penalty: RepetitionPenalty | None = None  # Ollama's and llama.cpp's name for it
    # token id → what is added to its logit; 100: always, -100: never
    logit_bias: Annotated[dict[int, Bias], Meta(max_length=1024)] = msgspec.field(
        default_factory=dict
    )
    # the answer ends before any of these texts
    stop: StopString | Annotated[list[StopString], Meta(max_length=MAX_STOPS)] = msgspec.field(
        default_factory=list
    )
    seed: Seed | None = None  # the same request and seed give the same text; -1: random
    stream: bool = False  # send events as the answer is generated
    response_format: ResponseFormat | None = None  # the answer is guaranteed to have this form
    user: str | None = None  # only logged

    @property
    def stops(self) -> list[str]:
        """The stop strings, without empty ones."""
        stops = [self.stop] if isinstance(self.stop, str) else self.stop
        return [stop for stop in stops if stop]

    def check(self) -> None:
        """Checks what annotations cannot express. Raises InvalidRequest or
        UnsupportedParameter."""
        both = (self.repetition_penalty, self.repeat_penalty)
        if None not in both and both[0] != both[1]:
            raise InvalidRequest(
                "repeat_penalty is another name for repetition_penalty: leave one of them out.",
                "repeat_penalty",
            )

    @property
    def answer_format(self) -> AnswerFormat | None:
        return self.response_format.answer_format() if self.response_format else None

    def sampling_params(self, defaults: Defaults) -> SamplingParams:
        given = self.given
        if self.top_k == NOT_GIVEN:
            given["top_k"] = 0
        if self.repeat_penalty is not None:
            given["repetition_penalty"] = self.repeat_penalty
        params = defaults.sampling_params(given, self.seed)
        return msgspec.structs.replace(params, logit_bias=self.logit_bias)


class GenerationFields(SamplingFields, frozen=True, kw_only=True):
    """Fields of OpenAI's routes: chat and text completions."""

    model: str  # a name, an alias, NAME:VERSION or deploy_id:ID
    max_tokens: MaxTokens | None = None  # the most tokens to generate; -1: as not given
    n: Annotated[int, Meta(ge=1, le=128)] = 1  # answers, over a prompt that is read once
    stream_options: StreamOptions | None = None
    # refused, like the next: send tools and tool_choice
    functions: list[Any] = msgspec.field(default_factory=list)
    function_call: str | dict[str, Any] = "none"

    @property
    def includes_usage(self) -> bool:
        """Whether a stream should end in OpenAI's extra usage chunk."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    def check(self) -> None:
        super().check()
        unsupported = {
            "functions": any(function is not None for function in self.functions),
            "function_call": self.function_call not in ("none", "auto", "", {}),
        }
        for param, is_wanted in unsupported.items():
            if is_wanted:
                raise UnsupportedParameter(
                    f"{param} is not supported: send tools and tool_choice, which replaced it in "
                    "OpenAI's API.",
                    param,
                )


def none_if_not_given(number: int | None) -> int | None:
    """The number; None for NOT_GIVEN."""
    return None if number == NOT_GIVEN else number


def chosen_seed(seed: int | None, default_seed: int | None, num_bits: int = 63) -> tuple[int, bool]:
    """The request's seed, else the server's, else a random one; and whether the same request would
    get it again."""
    named = default_seed if none_if_not_given(seed) is None else seed
    return (random_seed(num_bits), False) if named is None else (named, True)


def kwarg_paths(kwargs: Iterable[str]) -> dict[str, str]:
    """The paths in a request of these template variables."""
    return {name: f"chat_template_kwargs.{name}" for name in kwargs}
