"""Messages as clients send them → plain values for templates."""

from typing import Any

import msgspec
import pytest

from localinfra.chat.messages import Message, left_out, normalize
from localinfra.errors import InvalidRequest, UnsupportedParameter


def plain(*messages: object) -> list[Any]:
    """Decoded from JSON, as by the endpoint."""
    return [*normalize(msgspec.json.decode(msgspec.json.encode(messages), type=list[Message]))]


def test_a_string_is_passed_as_it_is() -> None:
    assert plain({"role": "user", "content": " Hi\n"}) == [{"role": "user", "content": " Hi\n"}]


@pytest.mark.parametrize("role", ["system", "developer", "user", "assistant", "tool"])
def test_every_role_may_send_text_parts_which_are_joined_by_a_newline(role: str) -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    assert plain({"role": role, "content": parts})[0]["content"] == "one\ntwo"


def test_empty_text_is_content() -> None:
    assert plain({"role": "user", "content": ""})[0]["content"] == ""


def test_unknown_fields_are_ignored() -> None:
    message = {"role": "user", "content": "Hi", "cache_control": {"type": "ephemeral"}}
    assert plain(message) == [{"role": "user", "content": "Hi"}]


def test_known_fields_are_kept_and_null_ones_left_out() -> None:
    message = {"role": "tool", "content": "4", "tool_call_id": "call_1", "name": "add"}
    assert plain({**message, "refusal": None, "tool_calls": None}) == [message]


def test_reasoning_reaches_the_template() -> None:
    message = {"role": "assistant", "content": "4", "reasoning_content": "2 and 2"}
    assert plain(message) == [message]


def test_a_refusal_is_the_content_of_the_assistant() -> None:
    refused = {"role": "assistant", "content": None, "refusal": "No."}
    in_parts = {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]}
    expected = {"role": "assistant", "content": "No."}
    assert plain(refused, in_parts) == [expected, expected]


def call(arguments: str) -> dict[str, object]:
    function = {"name": "add", "arguments": arguments}
    call = {"id": "call_1", "type": "function", "function": function}
    return {"role": "assistant", "content": None, "tool_calls": [call]}


DEEP = '{"a": ' * 400 + "1" + "}" * 400


@pytest.mark.parametrize(
    ("arguments", "read"),
    [
        ('{"a": [1, null]}', {"a": [1, None]}),
        ("", {}),
        ('{"a": ', '{"a": '),
        ("[1]", "[1]"),
        ("3", "3"),
        ("[" * 100_000, "[" * 100_000),
        (DEEP, DEEP),
    ],
)
def test_arguments_of_tool_calls_become_an_object_if_they_are_one(
    arguments: str, read: object
) -> None:
    message = plain(call(arguments))[0]
    assert message["content"] is None
    assert message["tool_calls"] == [
        {"id": "call_1", "type": "function", "function": {"name": "add", "arguments": read}}
    ]


@pytest.mark.parametrize("arguments", [{}, {"a": [1, None, {"b": "é"}]}])
def test_arguments_may_be_sent_as_the_object_itself(arguments: dict[str, Any]) -> None:
    sent: Any = call("")
    sent["tool_calls"][0]["function"]["arguments"] = arguments
    [message] = msgspec.json.decode(msgspec.json.encode([sent]), type=list[Message])
    assert message.tool_calls
    assert msgspec.json.decode(message.tool_calls[0].function.arguments) == arguments
    assert plain(sent)[0]["tool_calls"][0]["function"]["arguments"] == arguments


def test_arguments_may_be_kept_as_text() -> None:
    messages = msgspec.convert([call('{"a": 1}')], list[Message])
    kept: Any
    (kept,) = normalize(messages, parse_arguments=False)
    assert kept["tool_calls"][0]["function"]["arguments"] == '{"a": 1}'


@pytest.mark.parametrize("type", ["image_url", "input_audio", "file", "video_url", "refusal"])
def test_a_part_that_is_not_text_is_refused_by_its_path(type: str) -> None:
    parts = [{"type": "text", "text": "Look:"}, {"type": type, type: {}}]
    if type == "refusal":  # only an assistant refuses
        parts[1] = {"type": type, type: "No."}
    with pytest.raises(UnsupportedParameter, match="text only") as error:
        plain({"role": "user", "content": "Hi"}, {"role": "user", "content": parts})
    assert error.value.param == "messages[1].content[1]"


def test_in_an_earlier_message_a_note_stands_for_it() -> None:
    image = {"type": "image_url", "image_url": {"url": "data:,"}}
    asked = {"role": "user", "content": [{"type": "text", "text": "What is this?"}, image]}
    messages = [asked, {"role": "assistant", "content": "A cat."}, {"role": "user", "content": "?"}]
    noted = "What is this?\n[image left out: this model reads text only]"
    assert [message["content"] for message in plain(*messages)] == [noted, "A cat.", "?"]
    assert left_out(msgspec.convert(messages, list[Message])) == ["messages[0].content[1]"]


@pytest.mark.parametrize("role", ["assistant", "system", "developer"])
@pytest.mark.parametrize("type", ["image_url", "input_audio", "file", "of_next_year"])
def test_in_other_roles_it_is_left_out(role: str, type: str) -> None:
    part = {"type": type, type: {}}
    several = {"role": role, "content": [part, {"type": "text", "text": "a"}, part]}
    alone = {"role": role, "content": [part]}
    messages = msgspec.convert([several, alone], list[Message])
    assert left_out(messages) == [
        "messages[0].content[0]",
        "messages[0].content[2]",
        "messages[1].content[0]",
    ]
    assert [message["content"] for message in normalize(messages)] == ["a", ""]


@pytest.mark.parametrize("role", ["system", "developer", "user", "assistant", "tool"])
@pytest.mark.parametrize("type", ["input_text", "output_text"])
def test_a_text_is_read_by_the_responses_apis_names_too(role: str, type: str) -> None:
    part = {"type": type, "text": "a"}
    assert plain({"role": role, "content": [part]}) == [{"role": role, "content": "a"}]


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"role": "user"}, "messages[0].content"),
        ({"role": "tool", "tool_call_id": "call_1"}, "messages[0].content"),
        ({"role": "assistant"}, "messages[0].content"),
        ({"role": "assistant", "tool_calls": []}, "messages[0].content"),
        ({"role": "user", "content": []}, "messages[0].content"),
        ({"role": "user", "content": [{"type": "text"}]}, "messages[0].content[0].text"),
        ({"role": "tool", "content": [{"type": "input_text"}]}, "messages[0].content[0].text"),
        ({**call("{}"), "role": "user", "content": ""}, "messages[0].tool_calls"),
        ({"role": "assistant", "tool_calls": [{"id": "a"}]}, "messages[0].tool_calls[0].function"),
    ],
)
def test_a_missing_or_misplaced_field_is_named(message: dict[str, object], param: str) -> None:
    with pytest.raises(InvalidRequest) as error:
        plain(message)
    assert error.value.param == param


def test_a_conversation_has_at_least_one_message() -> None:
    with pytest.raises(InvalidRequest, match="at least one") as error:
        plain()
    assert error.value.param == "messages"


def test_an_unknown_role_is_not_decoded() -> None:
    with pytest.raises(msgspec.ValidationError):
        plain({"role": "robot", "content": "Hi"})


@pytest.mark.parametrize("role", ["user", "system", "developer", "tool", "assistant"])
def test_a_null_for_content_is_an_empty_text(role: str) -> None:
    assert plain({"role": role, "content": None}) == [{"role": role, "content": ""}]


def test_calls_of_custom_tools_become_calls_of_functions() -> None:
    custom = {"id": "c1", "type": "custom", "custom": {"name": "patch", "input": "- a\n+ b"}}
    (message,) = plain({"role": "assistant", "content": None, "tool_calls": [custom]})
    assert message["tool_calls"] == [
        {
            "id": "c1",
            "type": "function",
            "function": {"name": "patch", "arguments": {"input": "- a\n+ b"}},
        }
    ]


def test_calls_of_unknown_kinds_are_left_out() -> None:
    unknown = {"id": "c2", "type": "of_next_year", "of_next_year": {"name": 5}}
    known: Any = call("{}")
    told = {**known, "tool_calls": [unknown, *known["tool_calls"]]}
    messages = msgspec.convert([{"role": "user", "content": "Hi"}, told], list[Message])
    assert left_out(messages) == ["messages[1].tool_calls[0]"]
    sent: list[Any] = [*normalize(messages)]
    assert [len(message.get("tool_calls", ())) for message in sent] == [0, 1]
    alone = {"role": "assistant", "content": None, "tool_calls": [unknown]}
    assert plain(alone) == [{"role": "assistant", "content": ""}]
