"""What a Responses request may say, and what of it reaches the model.

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
from localinfra.api.generation.tools import SentTools, ToolChoice, answer_of
from localinfra.api.openai.responses.tools import Offered, offered, tool_use
from localinfra.chat.answer import ANY_OBJECT, Answer, AnswerFormat
from localinfra.chat.messages import MAX_MESSAGES, TypeName
from localinfra.chat.template import check_kwargs
from localinfra.errors import InvalidRequest, UnsupportedParameter

LOGPROBS = "message.output_text.logprobs"
INCLUDABLE = {
    LOGPROBS,
    "reasoning.encrypted_content",  # it comes in the clear, which serves the same purpose
}
# What tools of OpenAI's service and images would add to an answer.
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
    strict: bool | UnsetType | None = UNSET  # always

    def answer_format(self) -> AnswerFormat | None:
        """None where any text will do. Raises InvalidRequest and UnsupportedParameter."""
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
                "text.format.schema is missing: put the JSON Schema there.", "text.format.schema"
            )
        return AnswerFormat("json", "text.format.schema", self.schema_)


class TextOptions(msgspec.Struct, frozen=True):
    format: TextFormat = TextFormat()
    verbosity: Literal["low", "medium", "high"] = "medium"  # left out, as is the next


class ReasoningOptions(msgspec.Struct, frozen=True):
    effort: ShortName | None = None
    summary: Literal["auto", "concise", "detailed"] | None = None  # none is made


MetadataKey = Annotated[str, Meta(max_length=64)]
MetadataValue = Annotated[str, Meta(max_length=512)]
Metadata = Annotated[dict[MetadataKey, MetadataValue], Meta(max_length=16)]
Items = Annotated[list[msgspec.Raw], Meta(max_length=MAX_MESSAGES)]


class ResponsesRequest(SamplingFields, frozen=True, kw_only=True):
    model: str
    input: str | Items = msgspec.field(default_factory=list)
    instructions: str | None = None  # not carried on to the next response
    previous_response_id: str | None = None
    max_output_tokens: MaxTokens | None = None
    store: bool = True
    tools: SentTools = msgspec.field(default_factory=list)
    tool_choice: ShortName | ToolChoice = "auto"
    parallel_tool_calls: bool = True
    text: TextOptions = TextOptions()
    reasoning: ReasoningOptions = ReasoningOptions()
    chat_template_kwargs: TemplateKwargs = msgspec.field(default_factory=dict)
    include: Annotated[list[ShortName], Meta(max_length=64)] = msgspec.field(default_factory=list)
    top_logprobs: TopLogprobs | None = None
    metadata: Metadata = msgspec.field(default_factory=dict)

    # Without effect, and some of them told again in the response.
    max_tool_calls: int | None = None  # of tools that the server runs, of which there are none
    service_tier: str | None = None
    safety_identifier: ShortName | None = None
    prompt_cache_key: ShortName | None = None
    prompt_cache_retention: str | None = None
    prompt_cache_options: dict[str, Any] | None = None
    stream_options: dict[str, Any] | None = None

    # Left out: nothing is cut or summed up, and what does not fit is refused.
    truncation: Literal["auto", "disabled"] = "disabled"
    context_management: Annotated[list[msgspec.Raw], Meta(max_length=64)] | None = None

    # Refused.
    background: bool = False
    conversation: str | dict[str, Any] | None = None
    prompt: dict[str, Any] | None = None
    moderation: dict[str, Any] | None = None

    def check(self) -> None:
        super().check()
        check_kwargs(self.chat_template_kwargs)
        for at, name in enumerate(self.include):
            if name not in INCLUDABLE | NEVER_INCLUDED:
                raise UnsupportedParameter(
                    f"{name[:100]!r} can't be included; there is {' and '.join(INCLUDABLE)}.",
                    f"include[{at}]",
                )
        refused = {
            "background": (self.background, "Wait for the answer, or stream it."),
            "conversation": (self.conversation, "Use previous_response_id."),
            "prompt": (self.prompt, "Send its text as instructions and input."),
            "moderation": (self.moderation, "Leave it out."),
            "response_format": (self.response_format, "It is text.format in this API."),
        }
        for param, (is_wanted, remedy) in refused.items():
            if is_wanted:
                raise UnsupportedParameter(f"{param} is not supported here. {remedy}", param)

    def answer(self) -> Answer:
        """What the answer's form must be. Raises InvalidRequest and UnsupportedParameter."""
        use = tool_use(self.offered, self.tool_choice, self.parallel_tool_calls)
        return answer_of(self.text.format.answer_format(), use, "text.format")

    @property
    def offered(self) -> Offered:
        """Raises InvalidRequest."""
        return offered(self.tools)

    @property
    def left_out(self) -> list[str]:
        """What of it has no effect, though another service would honour it."""
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
