"""`options`, `keep_alive` and other fields that Ollama's routes share → values of the engine.

Pure.
"""

import re
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from msgspec import Meta

from localinfra.api.generation.params import (
    MAX_STOPS,
    NOT_GIVEN,
    Defaults,
    Seed,
    StopString,
    TopK,
    TopLogprobs,
)
from localinfra.api.generation.thinking import thinking_kwargs
from localinfra.chat.answer import ANY_OBJECT, AnswerFormat
from localinfra.chat.messages import Json
from localinfra.engine.request import SamplingParams
from localinfra.errors import InvalidRequest, UnsupportedParameter
from localinfra.models.sampling import RepetitionPenalty, SamplingSettings
from localinfra.text.request import TextParams

if TYPE_CHECKING:
    from localinfra.text.model import TextModel  # brings numpy, which only a loaded model needs

# Ollama's own where neither request nor model says. Not its repeat_penalty of 1.1: it counts over
# 64 tokens there, over all of them here.
USUAL = SamplingSettings(temperature=0.8, top_k=40, top_p=0.9)

MAX_KEPT_S = 1e9  # 30 years; longer ones are for good

# What Go's time.ParseDuration takes, and a number alone for seconds, as in JSON.
NUMBER = r"(?:\d+(?:\.\d*)?|\.\d+)"
UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "": 1.0}
STEP = re.compile(rf"(?P<number>{NUMBER})(?P<unit>[a-zµ]*)", re.ASCII)
DURATION = re.compile(rf"[+-]?(?:{NUMBER}|(?:{NUMBER}(?:[nuµm]?s|[mh]))+)", re.ASCII)

KeepAlive = float | Annotated[str, Meta(max_length=100)]


class OllamaOptions(
    SamplingSettings, frozen=True, kw_only=True, forbid_unknown_fields=False, omit_defaults=False
):
    """Others, such as mirostat and num_gpu, are ignored and named."""

    top_k: TopK | None = None
    repeat_penalty: RepetitionPenalty | None = None
    seed: Seed | None = None
    stop: StopString | Annotated[list[StopString], Meta(max_length=MAX_STOPS)] = msgspec.field(
        default_factory=list
    )
    num_predict: Annotated[int, Meta(ge=-2, le=1_000_000)] = 0  # below 1: what the context leaves
    num_ctx: int | None = None  # a model has one length here; only a longer one is ignored

    def sampling_params(self, model: "TextModel", default_seed: int | None) -> SamplingParams:
        given = self.given
        if self.top_k == NOT_GIVEN:
            given["top_k"] = 0
        if self.repeat_penalty is not None:
            given["repetition_penalty"] = self.repeat_penalty
        # As in Ollama, what the model's authors recommend counts without being sent.
        recommended = model.details.recommended or SamplingSettings()
        usual = USUAL.given | recommended.given | model.entry.sampling.given
        return Defaults(default_seed).sampling_params(usual | given, self.seed)

    @property
    def stops(self) -> list[str]:
        stops = [self.stop] if isinstance(self.stop, str) else self.stop
        return [stop for stop in stops if stop]


class OllamaFields(msgspec.Struct, frozen=True, kw_only=True):
    """Fields of all routes that use a model."""

    model: str
    options: OllamaOptions = OllamaOptions()
    keep_alive: KeepAlive | None = None

    def __post_init__(self) -> None:
        """Raises InvalidRequest."""
        if isinstance(self.keep_alive, str):
            duration_s(self.keep_alive)

    @property
    def kept_s(self) -> float | None:
        """Seconds for which the model stays in memory without a request; None: for good, also if
        there is no `keep_alive`."""
        given = -1.0 if self.keep_alive is None else self.keep_alive
        seconds = given if isinstance(given, float) else duration_s(given)
        return seconds if 0 <= seconds < MAX_KEPT_S else None


class TextFields(OllamaFields, frozen=True, kw_only=True):
    """Fields of the routes that generate text."""

    format: str | dict[str, Any] = ""  # json or a JSON Schema
    think: bool | Literal["low", "medium", "high", "max"] | None = None
    stream: bool = True
    logprobs: bool = False
    top_logprobs: TopLogprobs = 0

    @property
    def answer_format(self) -> AnswerFormat | None:
        """Raises UnsupportedParameter."""
        if isinstance(self.format, dict):
            return AnswerFormat("json", "format", self.format) if self.format else None
        if self.format not in ("", "json"):
            raise UnsupportedParameter(
                f"format can't be {self.format[:100]!r}: use json or a JSON Schema.", "format"
            )
        return AnswerFormat("json", "format", ANY_OBJECT) if self.format else None

    @property
    def template_kwargs(self) -> dict[str, Json]:
        if self.think is None:
            return {}
        # Templates know only low, medium and high.
        effort = "high" if self.think == "max" else self.think
        level: dict[str, Json] = {"reasoning_effort": effort} if isinstance(effort, str) else {}
        return {**thinking_kwargs(bool(self.think)), **level}

    @property
    def kwarg_paths(self) -> dict[str, str]:
        """Template variables set by the request → their paths in it. False also holds if the
        template does not know thinking."""
        return {name: "think" for name in self.template_kwargs if self.think}

    def unmet(self, model: "TextModel") -> list[str]:
        """Paths of what this model can't honour."""
        num_ctx = self.options.num_ctx or 0
        unmet = {
            "options.num_ctx": num_ctx > model.context_length,
            "top_logprobs": self.top_logprobs and not self.logprobs,
        }
        named = [path for path, is_unmet in unmet.items() if is_unmet]
        return [*named, *model.prompts.unread(self.kwarg_paths)]

    def text_params(self, model: "TextModel", default_seed: int | None) -> TextParams:
        options = self.options
        return TextParams(
            sampling=options.sampling_params(model, default_seed),
            top_logprobs=self.top_logprobs if self.logprobs else None,
            max_tokens=options.num_predict if options.num_predict > 0 else None,
            max_tokens_param="options.num_predict",
            stops=options.stops,
        )


def duration_s(text: str) -> float:
    """Raises InvalidRequest."""
    if not DURATION.fullmatch(text):
        raise InvalidRequest(
            f"keep_alive can't be {text!r}: use seconds, or a duration such as 5m or 1h30m; "
            "-1 keeps the model in memory, 0 unloads it.",
            "keep_alive",
        )
    seconds = sum(float(step["number"]) * UNITS[step["unit"]] for step in STEP.finditer(text))
    return -seconds if text.startswith("-") else seconds
