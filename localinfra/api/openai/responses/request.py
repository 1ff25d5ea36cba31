"""The fields of a Responses request, and what the model gets of them.

https://platform.openai.com/docs/api-reference/responses/create
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from localinfra.api.generation.params import (
    MaxTokens,
    SamplingFields,
    ShortName,
    TemplateKwargs,
    TopLogprobs,
    kwarg_paths,
)
from localinfra.api.generation.tools import ToolChoice, answer_of
from localinfra.api.openai.responses.input import SentAny
from localinfra.api.openai.responses.tools import Offered, SentGroups, read_tools, tool_use
from localinfra.chat.answer import ANY_OBJECT, Answer, AnswerFormat
from localinfra.chat.messages import MAX_MESSAGES, TypeName
from localinfra.chat.template import check_kwargs
from localinfra.errors import InvalidRequest, UnsupportedParameter

LOGPROBS = "message.output_text.logprobs"
CARRIED = "reasoning.encrypted_content"
INCLUDABLE = {LOGPROBS, CARRIED}
# What images and OpenAI's own tools would add to a response.
NEVER_INCLUDED = {
    "code_interpreter_call.outputs",
    "computer_call_output.output.image_url",
    "file_search_call.results",
    "message.input_image.image_url",
    "web_search_call.action.sources",
    "web_search_call.results",
}


class TextFormat(msgspec.Struct, frozen=True, rename={"schema_": "schema"}):
    type: TypeName = "text"
    name: ShortName | UnsetType | None = UNSET
    description: str | UnsetType | None = UNSET
    schema_: dict[str, Any] | UnsetType | None = UNSET
    strict: bool | UnsetType | None = UNSET  # no effect: always strict

    def answer_format(self) -> AnswerFormat | None:
        """None if any text will do. Raises InvalidRequest or UnsupportedParameter."""
        if self.type in ("", "text"):
            return None
        if self.type == "json_object":
            return AnswerFormat("json", "text.format", ANY_OBJECT)
        if self.type != "json_schema":
            raise UnsupportedParameter(
                f"text.format can't be {self.type[:100]!r}: use text, json_object or json_schema.",
                "text.format.type",
            )
        if not isinstance(self.schema_, dict):
            raise InvalidRequest(
                "text.format.schema is missing: set it to the JSON Schema.", "text.format.schema"
            )
        return AnswerFormat("json", "text.format.schema", self.schema_)


class TextOptions(msgspec.Struct, frozen=True):
    format: TextFormat = TextFormat()
    verbosity: Literal["low", "medium", "high"] = "medium"  # no effect, reported as ignored


class ReasoningOptions(msgspec.Struct, frozen=True):
    effort: ShortName | None = None
    summary: Literal["auto", "concise", "detailed"] | None = None  # no effect, reported as ignored


MetadataKey = Annotated[str, Meta(max_length=64)]
MetadataValue = Annotated[str, Meta(max_length=512)]
Metadata = Annotated[dict[MetadataKey, MetadataValue], Meta(max_length=16)]
AnyObject = Annotated[Any, Meta(extra_json_schema={"type": "object"})]
Items = Annotated[list[SentAny], Meta(max_length=MAX_MESSAGES)]


class ResponsesRequest(SamplingFields, frozen=True, kw_only=True):
    model: str
    # a text, or items
    input: str | Items = msgspec.field(default_factory=list)
    instructions: str | None = None  # not carried over to the next response
    previous_response_id: str | None = None  # go on with this stored response
    max_output_tokens: MaxTokens | None = None  # the most tokens to generate
    store: bool = True  # so that a next request may go on with the response
    background: bool = False  # answer at once, and go on without the client; needs store
    tools: SentGroups = msgspec.field(default_factory=list)
    tool_choice: ShortName | ToolChoice = "auto"
    parallel_tool_calls: bool = True
    text: TextOptions = TextOptions()
    reasoning: ReasoningOptions = ReasoningOptions()
    chat_template_kwargs: TemplateKwargs = msgspec.field(default_factory=dict)
    include: Annotated[list[ShortName], Meta(max_length=64)] = msgspec.field(default_factory=list)
    top_logprobs: TopLogprobs | None = None
    metadata: Metadata = msgspec.field(default_factory=dict)

    # No effect; some are repeated in the response.

    max_tool_calls: int | None = None  # counts server-side tools, of which there are none
    service_tier: str | None = None
    safety_identifier: ShortName | None = None
    prompt_cache_key: ShortName | None = None
    prompt_cache_retention: str | None = None
    prompt_cache_options: dict[str, Any] | None = None
    stream_options: dict[str, Any] | None = None

    # reported as ignored: a conversation that does not fit is refused, never cut
    truncation: Literal["auto", "disabled"] = "disabled"
    context_management: Annotated[list[AnyObject], Meta(max_length=64)] | None = None

    # Refused.

    conversation: str | dict[str, Any] | None = None
    prompt: dict[str, Any] | None = None
    moderation: dict[str, Any] | None = None

    def check(self) -> None:
        super().check()
        check_kwargs(self.chat_template_kwargs)
        for at, name in enumerate(self.include):
            if name not in INCLUDABLE | NEVER_INCLUDED:
                raise UnsupportedParameter(
                    f"{name[:100]!r} can't be included: use {' or '.join(INCLUDABLE)}.",
                    f"include[{at}]",
                )
        refused = {
            "conversation": (self.conversation, "Use previous_response_id."),
            "prompt": (self.prompt, "Send its text as instructions and input."),
            "moderation": (self.moderation, "Leave it out."),
            "response_format": (self.response_format, "Use text.format."),
        }
        for param, (is_wanted, remedy) in refused.items():
            if is_wanted:
                raise UnsupportedParameter(f"{param} is not supported. {remedy}", param)

        if self.background and not self.store:
            raise InvalidRequest(
                "Background responses need store=true: they could not be read otherwise.",
                "background",
            )

    def answer(self) -> Answer:
        """The form required of the answer. Raises InvalidRequest or UnsupportedParameter."""
        use = tool_use(self.offered, self.tool_choice, self.parallel_tool_calls)
        return answer_of(self.text.format.answer_format(), use, "text.format")

    @property
    def offered(self) -> Offered:
        """The tools offered to the model. Raises InvalidRequest."""
        return read_tools(self.tools)

    @property
    def left_out(self) -> list[str]:
        """Paths of fields that have no effect here but would have one at OpenAI."""
        names = [f"include[{at}]" for at, name in enumerate(self.include) if name in NEVER_INCLUDED]
        wanted = {
            "truncation": self.truncation == "auto",
            "context_management": self.context_management,
            "text.verbosity": self.text.verbosity != "medium",
            "reasoning.summary": self.reasoning.summary,
        }
        return names + [name for name, is_wanted in wanted.items() if is_wanted]

    @property
    def num_logprobs(self) -> int | None:
        wanted = LOGPROBS in self.include or self.top_logprobs
        return (self.top_logprobs or 0) if wanted else None

    @property
    def template_kwargs(self) -> dict[str, object]:
        effort = self.reasoning.effort
        return {**({"reasoning_effort": effort} if effort else {}), **self.chat_template_kwargs}

    @property
    def kwarg_paths(self) -> dict[str, str]:
        effort = {"reasoning_effort": "reasoning.effort"} if self.reasoning.effort else {}
        return {**effort, **kwarg_paths(self.chat_template_kwargs)}
