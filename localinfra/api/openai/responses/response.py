"""The response object and the events that carry it."""

from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec

from localinfra.api.generation.tools import ToolChoice
from localinfra.api.http.held import holding
from localinfra.api.openai.responses.items import AnyItem, OutputItem
from localinfra.api.openai.responses.output import ResponsesEvent
from localinfra.api.openai.responses.request import Metadata, ReasoningOptions, TextOptions
from localinfra.api.openai.responses.tools import FunctionTool, Namespace

# The first two: it is not yet loaded or read, and it is being answered. The others stay.
ResponseStatus = Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]
NOT_ENDED = {"queued", "in_progress"}


class InputTokensDetails(msgspec.Struct, frozen=True):
    cached_tokens: int  # of the prompt, found in the prefix cache
    cache_write_tokens: int = 0  # always 0: writing the cache is not charged


class OutputTokensDetails(msgspec.Struct, frozen=True):
    reasoning_tokens: int


class ResponseUsage(msgspec.Struct, frozen=True):
    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int
    estimated_cost: float  # USD


class ResponseError(msgspec.Struct, frozen=True):
    code: str  # from OpenAI's list
    message: str


class IncompleteDetails(msgspec.Struct, frozen=True):
    reason: str


class Response(msgspec.Struct, frozen=True, kw_only=True):
    """https://platform.openai.com/docs/api-reference/responses/object"""

    id: str
    object: Literal["response"] = "response"
    created_at: int  # Unix time
    status: ResponseStatus = "in_progress"
    completed_at: int | None = None
    error: ResponseError | None = None
    incomplete_details: IncompleteDetails | None = None
    model: str
    output: Sequence[OutputItem] = ()
    usage: ResponseUsage | None = None

    # Repeated from the request.

    background: bool = False
    instructions: str | None
    max_output_tokens: int | None
    max_tool_calls: int | None
    metadata: Metadata
    parallel_tool_calls: bool
    previous_response_id: str | None
    prompt_cache_key: str | None
    reasoning: ReasoningOptions
    safety_identifier: str | None
    service_tier: str = "default"
    store: bool
    temperature: float
    text: Annotated[msgspec.Raw, holding(TextOptions)]
    tool_choice: str | ToolChoice
    # those the model may call
    tools: Annotated[msgspec.Raw, holding(FunctionTool, Namespace, is_list=True)]
    top_logprobs: int
    top_p: float
    truncation: str = "disabled"
    user: str | None


class ResponseEvent(ResponsesEvent, frozen=True, kw_only=True):
    response: Annotated[msgspec.Raw, holding(Response)]


class Created(ResponseEvent, frozen=True, kw_only=True, tag="response.created"):
    pass


class Queued(ResponseEvent, frozen=True, kw_only=True, tag="response.queued"):
    pass


class InProgress(ResponseEvent, frozen=True, kw_only=True, tag="response.in_progress"):
    pass


class Completed(ResponseEvent, frozen=True, kw_only=True, tag="response.completed"):
    pass


class Incomplete(ResponseEvent, frozen=True, kw_only=True, tag="response.incomplete"):
    pass


class ResponseFailed(ResponseEvent, frozen=True, kw_only=True, tag="response.failed"):
    pass


class InputTokens(msgspec.Struct, frozen=True, tag="response.input_tokens", tag_field="object"):
    input_tokens: int


class ResponseDeleted(msgspec.Struct, frozen=True):
    id: str
    object: Literal["response"] = "response"
    deleted: bool = True


class CompactedResponse(msgspec.Struct, frozen=True, tag="response.compaction", tag_field="object"):
    id: str
    created_at: int  # Unix time
    output: Sequence[AnyItem]
    usage: ResponseUsage
