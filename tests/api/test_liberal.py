"""Numbers and empty values as loosely typed languages write them, on every route with a body."""

import json
import time
from typing import Any

import msgspec
import pytest

from localinfra.api.anthropic.messages import MessageRequest
from localinfra.api.cohere import EmbedRequest
from localinfra.api.deepinfra.encoders import EmbeddingBody, RerankBody
from localinfra.api.deepinfra.images import NativeImageFields
from localinfra.api.deepinfra.text import TextBody
from localinfra.api.http.body import decode
from localinfra.api.openai.chat import ChatCompletionRequest
from localinfra.api.openai.completions import CompletionRequest
from localinfra.api.openai.embeddings import EmbeddingsRequest
from localinfra.api.openai.image_edits import EditFields
from localinfra.api.openai.images import ImageFields
from localinfra.api.openai.responses.request import ResponsesRequest
from localinfra.api.rerank import RerankRequest
from localinfra.api.tokens import TokenizeRequest
from localinfra.errors import InvalidRequest

HELLO = [{"role": "user", "content": "Hello"}]
CHAT: dict[str, Any] = {"model": "m", "messages": HELLO}
COMPLETION: dict[str, Any] = {"model": "m", "prompt": "Hello"}
RESPONSES: dict[str, Any] = {"model": "m", "input": "Hello"}
MESSAGES: dict[str, Any] = {"model": "m", "messages": HELLO, "max_tokens": 8}
NATIVE: dict[str, Any] = {"input": "Hello"}
EMBEDDINGS: dict[str, Any] = {"model": "m", "input": "Hello"}
RERANK: dict[str, Any] = {"model": "m", "query": "a", "documents": ["b"]}
IMAGES: dict[str, Any] = {"prompt": "a cat"}


def read(kind: type[Any], body: dict[str, Any] | str) -> Any:
    text = body if isinstance(body, str) else json.dumps(body)
    return decode(text.encode(), kind).value


@pytest.mark.parametrize(
    ("kind", "body", "field"),
    [
        (ChatCompletionRequest, CHAT, "max_tokens"),
        (ChatCompletionRequest, CHAT, "max_completion_tokens"),
        (ChatCompletionRequest, CHAT, "n"),
        (ChatCompletionRequest, CHAT, "top_k"),
        (ChatCompletionRequest, CHAT, "seed"),
        (ChatCompletionRequest, CHAT, "top_logprobs"),
        (CompletionRequest, COMPLETION, "max_tokens"),
        (CompletionRequest, COMPLETION, "logprobs"),
        (CompletionRequest, COMPLETION, "best_of"),
        (ResponsesRequest, RESPONSES, "max_output_tokens"),
        (ResponsesRequest, RESPONSES, "max_tool_calls"),
        (MessageRequest, MESSAGES, "max_tokens"),
        (MessageRequest, MESSAGES, "top_k"),
        (TextBody, NATIVE, "max_new_tokens"),
        (TextBody, NATIVE, "num_responses"),
        (EmbeddingsRequest, EMBEDDINGS, "dimensions"),
        (RerankRequest, RERANK, "top_n"),
        (ImageFields, IMAGES, "n"),
        (ImageFields, IMAGES, "num_inference_steps"),
    ],
)
def test_a_float_without_a_fraction_is_an_integer(
    kind: type[Any], body: dict[str, Any], field: str
) -> None:
    for written in ("4.0", "4.00", "4e0", "0.4e1", "40.0E-1"):
        text = json.dumps({**body, field: "X"}).replace('"X"', written)
        found = getattr(read(kind, text), field)
        assert (found, type(found)) == (4, int), written
    for wrong in ("4.5", '"4"', "true", '"4.0"', "1e999", "[4.0]"):
        text = json.dumps({**body, field: "X"}).replace('"X"', wrong)
        with pytest.raises(InvalidRequest) as caught:
            read(kind, text)
        assert caught.value.param == field


def test_whole_floats_may_be_many_and_nested() -> None:
    body = read(ChatCompletionRequest, {**CHAT, "max_tokens": 4.0, "n": 1.0, "seed": -1.0})
    assert (body.max_tokens, body.n, body.seed) == (4, 1, -1)
    thinking = {"type": "enabled", "budget_tokens": 2048.0}
    asked = read(MessageRequest, {**MESSAGES, "max_tokens": 4096.0, "thinking": thinking})
    assert asked.thinking.budget_tokens == 2048
    assert read(CompletionRequest, {**COMPLETION, "prompt": [[1.0, 2.0], [3]]}).prompts[0] == [1, 2]


def test_other_values_stay_unchanged() -> None:
    """Even if they look like whole floats: in strings, and in values that are passed on."""
    said = [{"role": "user", "content": '4.0 and "5.0" \\ 6.0'}]
    kwargs = {"scale": 4.0, "text": "4.0"}
    body = read(
        ChatCompletionRequest,
        {"model": "m", "messages": said, "n": 1.0, "chat_template_kwargs": kwargs},
    )
    assert body.messages[0].content == said[0]["content"]
    assert repr(body.chat_template_kwargs) == repr(kwargs)


def test_a_range_holds_for_whole_floats_too() -> None:
    for n in (0.0, 129.0, 1e300, -2.0):
        with pytest.raises(InvalidRequest, match="int") as caught:
            read(ChatCompletionRequest, {**CHAT, "n": n})
        assert caught.value.param == "n"


EMPTIES: tuple[Any, ...] = ("", [], {}, False)


@pytest.mark.parametrize(
    ("kind", "body", "fields"),
    [
        (
            ChatCompletionRequest,
            CHAT,
            "stop tools tool_choice functions function_call logit_bias response_format "
            "stream_options user reasoning_effort chat_template_kwargs modalities seed "
            "temperature max_tokens top_logprobs",
        ),
        (
            CompletionRequest,
            COMPLETION,
            "suffix stop logprobs logit_bias stream_options user best_of",
        ),
        (
            ResponsesRequest,
            RESPONSES,
            "instructions tools tool_choice text reasoning include metadata stream_options "
            "conversation prompt context_management moderation service_tier truncation "
            "prompt_cache_key safety_identifier max_output_tokens stop",
        ),
        (
            MessageRequest,
            MESSAGES,
            "system tools tool_choice thinking stop_sequences metadata output_config "
            "output_format service_tier temperature",
        ),
        (TextBody, NATIVE, "stop response_format seed max_new_tokens"),
    ],
)
def test_an_empty_string_list_or_object_counts_as_absent(
    kind: type[Any], body: dict[str, Any], fields: str
) -> None:
    for field in fields.split():
        for empty in EMPTIES:
            value = read(kind, {**body, field: empty})
            if hasattr(value, "check"):
                value.check()
            if hasattr(value, "answer"):
                assert value.answer() == read(kind, body).answer()


KINDS: list[tuple[type[msgspec.Struct], dict[str, Any]]] = [
    (ChatCompletionRequest, CHAT),
    (CompletionRequest, COMPLETION),
    (ResponsesRequest, RESPONSES),
    (MessageRequest, MESSAGES),
    (TextBody, NATIVE),
    (EmbeddingsRequest, EMBEDDINGS),
    (EmbeddingBody, {"inputs": "a"}),
    (EmbedRequest, {"model": "m", "texts": ["a"]}),
    (RerankRequest, RERANK),
    (RerankBody, {}),
    (ImageFields, IMAGES),
    (EditFields, {**IMAGES, "image": "data:"}),
    (NativeImageFields, IMAGES),
    (TokenizeRequest, {"messages": HELLO}),
]
TEXTS = {"input", "prompt", "stop"}  # an empty one of these is text, or no stop string


@pytest.mark.parametrize(("kind", "body"), KINDS, ids=lambda value: getattr(value, "__name__", ""))
def test_an_empty_string_in_any_field_counts_as_absent(
    kind: type[msgspec.Struct], body: dict[str, Any]
) -> None:
    optional = [field for field in msgspec.structs.fields(kind) if not field.required]
    names = {field.encode_name for field in optional} - TEXTS - body.keys()
    expected = read(kind, body)
    for name in names:
        assert read(kind, {**body, name: ""}) == expected, name
    assert read(kind, {**body, **dict.fromkeys(names, "")}) == expected


@pytest.mark.parametrize(
    ("kind", "body", "fields"),
    [
        (ResponsesRequest, RESPONSES, {"text": {"verbosity": "", "format": {"type": "text"}}}),
        (ResponsesRequest, RESPONSES, {"reasoning": {"summary": "", "effort": None}}),
        (MessageRequest, MESSAGES, {"output_config": {"effort": ""}}),
    ],
)
def test_an_empty_string_for_a_choice_counts_as_absent_at_any_depth(
    kind: type[msgspec.Struct], body: dict[str, Any], fields: dict[str, Any]
) -> None:
    assert read(kind, {**body, **fields}) == read(kind, body)
    thinking = {"type": "enabled", "display": "", "budget_tokens": 9.0}
    asked = read(MessageRequest, {**MESSAGES, "thinking": thinking}).thinking
    assert (asked.display, asked.budget_tokens) == (None, 9)
    with pytest.raises(InvalidRequest, match=r"thinking\.type"):
        read(MessageRequest, {**MESSAGES, "thinking": {"type": ""}})


@pytest.mark.parametrize(
    "fields",
    [
        {"response_format": {"type": ""}},
        {"tool_choice": {"type": ""}},
        {"tool_choice": {"type": "allowed_tools", "allowed_tools": {
            "mode": "", "tools": [{"type": "function", "function": {"name": "f"}}]}}},
    ],
)  # fmt: skip
def test_an_empty_type_or_mode_is_the_default(fields: dict[str, Any]) -> None:
    tools = [{"type": "function", "function": {"name": "f"}}]
    answer = read(ChatCompletionRequest, {**CHAT, "tools": tools, **fields}).answer()
    assert answer.format is None and not answer.use.is_required and len(answer.use.tools) == 1


def test_required_fields_must_not_be_empty() -> None:
    empties: list[Any] = ["", {}]
    for empty in empties:
        with pytest.raises(InvalidRequest) as caught:
            read(ChatCompletionRequest, {"model": "m", "messages": empty})
        assert caught.value.param == "messages"
    with pytest.raises(InvalidRequest) as caught:
        read(ChatCompletionRequest, {"model": "m", "messages": []})
    assert caught.value.param == "messages"


def test_a_large_wrong_body_is_read_a_few_times_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    """A field is mended once for all its wrong values, and no further than to a limit."""
    reads: list[int] = []
    convert = msgspec.convert

    def counted(value: Any, *given: Any, **more: Any) -> Any:
        reads.append(1)
        return convert(value, *given, **more)

    monkeypatch.setattr(msgspec, "convert", counted)
    with pytest.raises(InvalidRequest) as caught:
        read(CompletionRequest, {**COMPLETION, "prompt": [1.0] * 50 + [1.5] * 50, "n": 1.0})
    assert caught.value.param == "prompt[50]" and len(reads) <= 12
    reads.clear()
    with pytest.raises(InvalidRequest) as caught:
        read(CompletionRequest, {**COMPLETION, "prompt": [1.0] * 500_000})
    assert caught.value.param == "prompt[0]" and len(reads) <= 12


def test_a_large_body_is_read_twice_however_many_fields_are_wrong() -> None:
    ids = b"[%b]" % b",".join([b"1"] * 200_000)
    names = [field.encode_name for field in msgspec.structs.fields(CompletionRequest)]
    wrong = [name for name in names if name not in ("model", "prompt")]

    def read_s(fields: list[bytes]) -> float:
        body = b'{"model":"m","prompt":%b%b}' % (ids, b"".join(fields))
        started_s = time.process_time()
        decode(body, CompletionRequest)
        return time.process_time() - started_s

    once_s = min(read_s([]) for _ in range(5))
    wrong_s = min(read_s([b',"%b":""' % name.encode() for name in wrong]) for _ in range(5))
    assert wrong_s < 8 * once_s + 0.01


def test_long_numbers_are_scanned_once() -> None:
    """The pattern never backtracks over digits: each of these took seconds when it did."""
    for digits in (b"9" * 60_000, b"1.5" + b"0" * 60_000, b"1e" + b"9" * 60_000):
        with pytest.raises(InvalidRequest) as caught:
            decode(b'{"model":"m","prompt":[1.0,%b]}' % digits, CompletionRequest)
        assert caught.value.param in ("prompt[0]", "prompt[1]")
