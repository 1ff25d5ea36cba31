"""Fields shared by all requests for text: sampling, length, stops."""

from collections.abc import Iterable
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from localinfra.api.generation.response_format import ResponseFormat
from localinfra.chance import random_seed
from localinfra.chat.answer import AnswerFormat
from localinfra.engine.request import SamplingParams
from localinfra.errors import InvalidRequest, UnsupportedParameter

MAX_STOPS = 64
MAX_STOP_CHARACTERS = 256
MAX_SEED = 2**63 - 1

NOT_GIVEN = -1  # several UIs send it for "no limit" or "random"
DEFAULT_TEXT_TOKENS = 2048  # of a completion, if neither the request nor models.toml says

MaxTokens = Annotated[int, Meta(ge=NOT_GIVEN, le=1_000_000)]
TopK = Annotated[int, Meta(ge=NOT_GIVEN, lt=1000)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
RepetitionPenalty = Annotated[float, Meta(ge=0.01, le=5)]
Bias = Annotated[float, Meta(ge=-100, le=100)]
TopLogprobs = Annotated[int, Meta(ge=0, le=20)]
StopString = Annotated[str, Meta(max_length=MAX_STOP_CHARACTERS)]
ShortName = Annotated[str, Meta(max_length=256)]
TemplateKwargs = Annotated[dict[ShortName, Any], Meta(max_length=64)]
Seed = Annotated[int, Meta(ge=NOT_GIVEN, le=MAX_SEED)]


class StreamOptions(msgspec.Struct, frozen=True):
    include_usage: bool | None = None


class SamplingFields(msgspec.Struct, frozen=True, kw_only=True):
    """Fields of every text route. A null counts as absent."""

    temperature: Annotated[float, Meta(ge=0, le=2)] = 1.0  # 0: always the likeliest token
    top_p: Annotated[float, Meta(gt=0, le=1)] = 1.0
    min_p: Annotated[float, Meta(ge=0, le=1)] = 0.0
    top_k: TopK = 0
    presence_penalty: Penalty = 0.0
    frequency_penalty: Penalty = 0.0
    repetition_penalty: RepetitionPenalty | None = None
    repeat_penalty: RepetitionPenalty | None = None  # Ollama's and llama.cpp's name for it
    logit_bias: Annotated[dict[int, Bias], Meta(max_length=1024)] = {}
    stop: StopString | Annotated[list[StopString], Meta(max_length=MAX_STOPS)] = []
    seed: Seed | None = None
    stream: bool = False
    response_format: ResponseFormat | None = None
    user: str | None = None  # only logged

    @property
    def stops(self) -> list[str]:
        """The stop strings, without empty ones."""
        stops = [self.stop] if isinstance(self.stop, str) else self.stop
        return [stop for stop in stops if stop]

    def check(self) -> None:
        """Checks what annotations cannot express. Raises InvalidRequest or
        UnsupportedParameter."""
        if self._repetition_penalties[1:]:
            raise InvalidRequest(
                "repeat_penalty is another name for repetition_penalty: leave one of them out.",
                "repeat_penalty",
            )

    @property
    def _repetition_penalties(self) -> list[float]:
        """The distinct values given under both names."""
        given = (self.repetition_penalty, self.repeat_penalty)
        return sorted({penalty for penalty in given if penalty is not None})

    @property
    def answer_format(self) -> AnswerFormat | None:
        return self.response_format.answer_format() if self.response_format else None

    def sampling_params(self, default_seed: int | None) -> SamplingParams:
        seed, is_reproducible = chosen_seed(self.seed, default_seed)
        return SamplingParams(
            temperature=self.temperature,
            top_p=self.top_p,
            min_p=self.min_p,
            top_k=none_if_not_given(self.top_k) or 0,
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            repetition_penalty=next(iter(self._repetition_penalties), 1.0),
            logit_bias=self.logit_bias,
            seed=seed,
            is_reproducible=is_reproducible,
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
