"""Items of a Responses request → chat messages, item by item."""

from typing import Any

import msgspec
import pytest

from localinfra.api.openai.responses.input import Input, check_outputs, messages_of, read_input
from localinfra.api.openai.responses.items import AnyItem, FunctionCallItem, InputText, MessageItem
from localinfra.chat.messages import normalize
from localinfra.errors import InvalidRequest, NotFound, UnsupportedParameter

CALL = {"type": "function_call", "call_id": "c1", "name": "add", "arguments": '{"a": 1}'}
OUTPUT = {"type": "function_call_output", "call_id": "c1", "output": "2"}
PLAIN_CALL = {
    "id": "c1",
    "type": "function",
    "function": {"name": "add", "arguments": {"a": 1}},
}


def find_nothing(id: str, path: str) -> AnyItem:
    raise NotFound(f"no {id}", f"{path}.id")


def read_all(given: Any) -> Input:
    raw = given if isinstance(given, str) else msgspec.json.decode(msgspec.json.encode(given))
    return read_input(raw, find_nothing)


def read(given: Any) -> list[AnyItem]:
    return read_all(given).items


def messages(*items: Any) -> list[dict[str, Any]]:
    """The messages as a template gets them."""
    return normalize(messages_of(read(items)))


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def said(text: str, **fields: Any) -> dict[str, Any]:
    part = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    return {"type": "message", "role": "assistant", "content": [part], **fields}


def thought(text: str) -> dict[str, Any]:
    part = {"type": "reasoning_text", "text": text}
    return {"type": "reasoning", "id": "rs_1", "summary": [], "content": [part], "status": None}


def test_a_text_is_a_users_message() -> None:
    assert normalize(messages_of(read("Hi"))) == [user("Hi")]


@pytest.mark.parametrize("role", ["user", "system", "developer", "assistant"])
def test_a_message_keeps_its_role_and_text(role: str) -> None:
    plain = [{"role": role, "content": "Hi"}]
    assert messages({"role": role, "content": "Hi"}) == plain
    assert messages({"type": "message", "role": role, "content": "Hi"}) == plain
    assert messages({"type": None, "role": role, "content": "Hi", "status": None}) == plain


def test_text_parts_are_joined_by_newlines() -> None:
    parts = [{"type": "input_text", "text": "one"}, {"type": "input_text", "text": "two"}]
    assert messages({"role": "user", "content": parts}) == [user("one\ntwo")]


def test_a_refusal_is_the_assistants_text() -> None:
    part = {"type": "refusal", "refusal": "I won't."}
    [message] = messages({"role": "assistant", "content": [part]})
    assert message == {"role": "assistant", "content": "I won't."}


def test_a_call_becomes_an_assistant_message_and_its_output_a_tool_message() -> None:
    assert messages(user("1+1?"), CALL, OUTPUT) == [
        user("1+1?"),
        {"role": "assistant", "content": None, "tool_calls": [PLAIN_CALL]},
        {"role": "tool", "content": "2", "tool_call_id": "c1"},
    ]


def test_an_output_may_be_text_parts() -> None:
    parts = [{"type": "input_text", "text": "2"}, {"type": "input_text", "text": "or so"}]
    tool = messages(CALL, {**OUTPUT, "output": parts})[1]
    assert tool == {"role": "tool", "content": "2\nor so", "tool_call_id": "c1"}
    assert messages(CALL, {**OUTPUT, "output": []})[1]["content"] == ""


def test_reasoning_belongs_to_the_message_that_follows() -> None:
    assert messages(user("Hi"), thought("Be kind."), said("Hello!")) == [
        user("Hi"),
        {"role": "assistant", "content": "Hello!", "reasoning_content": "Be kind."},
    ]


def test_a_summary_replaces_hidden_reasoning() -> None:
    summary = [{"type": "summary_text", "text": "Kindness."}]
    hidden = {"type": "reasoning", "id": "r", "summary": summary, "encrypted_content": "gAAA"}
    [message] = messages(hidden, said("Hello!"))
    assert message["reasoning_content"] == "Kindness."


def test_unreadable_reasoning_is_ignored() -> None:
    hidden = {"type": "reasoning", "id": "r", "summary": [], "encrypted_content": "gAAA"}
    assert messages(hidden, user("Hi")) == [user("Hi")]
    assert messages_of(read([hidden])) == []


def test_consecutive_items_of_the_assistant_are_one_message() -> None:
    second = {**CALL, "call_id": "c2", "name": "sub", "arguments": "{}"}
    [message, *_] = messages(thought("Hm."), said("Let me see."), CALL, second, OUTPUT)
    assert message["content"] == "Let me see." and message["reasoning_content"] == "Hm."
    assert [call["id"] for call in message["tool_calls"]] == ["c1", "c2"]


@pytest.mark.parametrize("kind", ["function_call", "mcp_call"])
def test_arguments_may_be_sent_as_the_object_itself(kind: str) -> None:
    sent = {**CALL, "type": kind, "id": "c1", "arguments": {"a": [1, None]}}
    [call, *_] = read([sent])
    assert isinstance(call, FunctionCallItem) and call.arguments == '{"a":[1,null]}'


def test_two_messages_in_a_row_are_two_lines_unless_the_first_was_cut() -> None:
    assert messages(said("One."), said("Two."))[0]["content"] == "One.\nTwo."
    cut = said("One", status="incomplete")
    assert messages(cut, said(" and a half."))[0]["content"] == "One and a half."


def test_a_last_message_of_the_assistant_will_be_continued() -> None:
    items = read([user("Count."), said("1, 2,")])
    rest = MessageItem(id="msg_2", role="assistant", content=(InputText(" 3"),))
    assert messages_of([*items, rest])[1].content == "1, 2, 3"


def test_a_call_that_was_cut_off_is_dropped() -> None:
    cut = {**CALL, "arguments": '{"a', "status": "incomplete"}
    assert messages(user("1+1?"), cut, user("Well?")) == [user("1+1?"), user("Well?")]


def test_arguments_that_are_not_json_stay_text() -> None:
    [message] = messages({**CALL, "arguments": "a=1"})
    assert message["tool_calls"][0]["function"]["arguments"] == "a=1"


def test_ids_are_kept_and_missing_ones_are_made() -> None:
    given = read([{**user("Hi"), "id": "msg_mine"}, thought(""), CALL, OUTPUT, said("x")])
    assert [item.id for item in given[:2]] == ["msg_mine", "rs_1"]
    assert [item.id.partition("_")[0] for item in given[2:]] == ["fc", "fco", "msg"]
    assert len({item.id for item in given}) == 5


@pytest.mark.parametrize("reference", [{"type": "item_reference", "id": "fc_1"}, {"id": "fc_1"}])
def test_a_reference_stands_for_a_stored_item(reference: dict[str, str]) -> None:
    stored = FunctionCallItem(id="fc_1", call_id="c1", name="add", arguments="{}")
    raw = msgspec.json.decode(msgspec.json.encode(reference))
    found = read_input([raw], lambda id, path: {("fc_1", "input[0]"): stored}[id, path])
    assert found.items == [stored] and not found.left_out
    with pytest.raises(NotFound) as caught:
        read([reference])
    assert caught.value.param == "input[0].id"


@pytest.mark.parametrize(
    ("item", "param"),
    [
        ("Hi", "input[1]"),
        ({"role": "user"}, "input[1].content"),
        ({"role": "robot", "content": "x"}, "input[1].role"),
        ({"role": "user", "content": 5}, "input[1].content"),
        ({"role": "user", "content": []}, "input[1].content"),
        ({"role": "user", "content": ["x"]}, "input[1].content[0]"),
        ({"role": "user", "content": [{"type": "input_text"}]}, "input[1].content[0].text"),
        ({"role": "assistant", "content": [{"type": "refusal"}]}, "input[1].content[0].refusal"),
        ({"type": "function_call", "name": "f", "arguments": ""}, "input[1].call_id"),
        ({"type": "function_call", "call_id": "c", "arguments": ""}, "input[1].name"),
        ({"type": "function_call_output", "call_id": "c"}, "input[1].output"),
        ({"type": "function_call_output", "call_id": "c", "output": {}}, "input[1].output"),
        ({"type": "reasoning", "content": "x"}, "input[1].content"),
        ({"type": "item_reference"}, "input[1].id"),
        ({}, "input[1].id"),
    ],
)
def test_a_wrong_item_is_reported_with_its_path(item: Any, param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read([user("Hi"), item])
    assert (caught.value.param, caught.value.code) == (param, "invalid_value")


@pytest.mark.parametrize(
    ("item", "param"),
    [
        ({"role": "user", "content": [{"type": "input_image"}]}, "input[0].content[0]"),
        ({"role": "user", "content": [{"type": "input_file"}]}, "input[0].content[0]"),
        ({"role": "user", "content": [{"type": "input_audio"}]}, "input[0].content[0]"),
        ({"role": "user", "content": [{"type": "new"}]}, "input[0].content[0]"),
    ],
)
def test_non_text_parts_of_a_user_are_refused(item: Any, param: str) -> None:
    with pytest.raises(UnsupportedParameter) as caught:
        read([item])
    assert caught.value.param == param


@pytest.mark.parametrize(
    "item",
    [
        {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"query": "x"}},
        {"type": "file_search_call", "id": "fs_1", "status": "searching", "queries": ["x"]},
        {"type": "computer_call_output", "call_id": "c", "output": {"type": "computer_screenshot"}},
        {"type": "image_generation_call", "id": "ig_1", "status": "completed", "result": "iVBOR"},
        {"type": "mcp_list_tools", "id": "m", "server_label": "s", "tools": []},
        {"type": "mcp_approval_request", "id": "m", "name": "f", "arguments": "{}"},
        {"type": "mcp_approval_response", "approval_request_id": "m", "approve": True},
        {"type": "compaction", "encrypted_content": "gAAA"},
        {"type": "tool_search_call", "arguments": {}},
        {"type": "additional_tools", "role": "developer", "tools": []},
        {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAA"},
        {"type": "of_next_year", "id": "n_1", "content": 5},
    ],
)
def test_items_without_text_are_ignored_and_reported(item: dict[str, Any]) -> None:
    found = read_all([user("Hi"), item, said("Hello!"), user("Well?")])
    assert found.left_out == ["input[1]"]
    assert normalize(messages_of(found.items)) == [
        user("Hi"), {"role": "assistant", "content": "Hello!"}, user("Well?"),
    ]  # fmt: skip


SHELL = {"type": "exec", "command": ["ls", "-l"], "env": {}}
PATCH = {"type": "update_file", "path": "a.py", "diff": "@@"}


@pytest.mark.parametrize(
    ("items", "name", "arguments", "output"),
    [
        (
            [
                {"type": "custom_tool_call", "call_id": "c1", "name": "apply_patch", "input": "@@"},
                {"type": "custom_tool_call_output", "call_id": "c1", "output": "Done."},
            ],
            "apply_patch", {"input": "@@"}, "Done.",
        ),
        (
            [
                {"type": "local_shell_call", "id": "l", "call_id": "c1", "status": "completed",
                 "action": SHELL},
                {"type": "function_call_output", "call_id": "c1", "output": "total 0"},
            ],
            "local_shell", SHELL, "total 0",
        ),
        (
            [
                {"type": "local_shell_call", "id": "c1", "action": SHELL},
                {"type": "local_shell_call_output", "id": "c1", "output": "total 0"},
            ],
            "local_shell", SHELL, "total 0",
        ),
        (
            [
                {"type": "shell_call", "call_id": "c1", "action": {"commands": ["ls"]}},
                {"type": "shell_call_output", "call_id": "c1", "output": [{"stdout": "a"}]},
            ],
            "shell", {"commands": ["ls"]}, '[{"stdout":"a"}]',
        ),
        (
            [
                {"type": "apply_patch_call", "call_id": "c1", "operation": PATCH,
                 "status": "completed"},
                {"type": "apply_patch_call_output", "call_id": "c1", "status": "failed"},
            ],
            "apply_patch", PATCH, "failed",
        ),
        (
            [{"type": "mcp_call", "id": "c1", "server_label": "wiki", "name": "ask",
              "arguments": '{"q": 1}', "output": "42", "error": None, "status": "completed"}],
            "wiki__ask", {"q": 1}, "42",
        ),
        (
            [{"type": "mcp_call", "id": "c1", "server_label": "wiki", "name": "ask",
              "arguments": '{"q": 1}', "output": None, "error": "gone"}],
            "wiki__ask", {"q": 1}, "Error: gone",
        ),
        (
            [{"type": "code_interpreter_call", "id": "c1", "code": "1+1", "container_id": "x",
              "outputs": [{"type": "logs", "logs": "2"}, {"type": "image", "url": "u"}]}],
            "code_interpreter", {"code": "1+1"}, "2",
        ),
        (
            [
                {**CALL, "name": "spawn_agent", "namespace": "multi_agent_v1"},
                {"type": "function_call_output", "call_id": "c1", "output": "ok"},
            ],
            "multi_agent_v1__spawn_agent", {"a": 1}, "ok",
        ),
        (
            [{**CALL, "name": "js", "namespace": "mcp__repl__"}, OUTPUT],
            "mcp__repl__js", {"a": 1}, "2",
        ),
    ],
)  # fmt: skip
def test_calls_of_other_kinds_become_function_calls(
    items: list[Any], name: str, arguments: Any, output: str
) -> None:
    found = read_all([user("Hi"), *items, user("Well?")])
    check_outputs([], found.items)
    assert found.left_out == []
    [_, call, result, _] = normalize(messages_of(found.items))
    assert call["tool_calls"] == [
        {"id": "c1", "type": "function", "function": {"name": name, "arguments": arguments}}
    ]
    assert result == {"role": "tool", "content": output, "tool_call_id": "c1"}


@pytest.mark.parametrize("kind", ["function_call_output", "custom_tool_call_output"])
def test_notes_stand_for_non_text_parts_of_an_output(kind: str) -> None:
    parts = [
        {"type": "input_image", "image_url": "data:image/png;base64,"},
        {"type": "input_text", "text": "an image"},
        {"type": "input_file", "file_data": "x"},
    ]
    found = read_all([CALL, {"type": kind, "call_id": "c1", "output": parts}])
    assert found.left_out == ["input[1].output[0]", "input[1].output[2]"]
    assert normalize(messages_of(found.items))[1]["content"] == (
        "[image left out: this model reads text only]\nan image\n"
        "[file left out: this model reads text only]"
    )


def test_a_note_stands_for_an_image_of_an_earlier_message() -> None:
    """A client sends it again with each turn, also if it was refused."""
    image = {"type": "input_image", "image_url": "data:image/png;base64,"}
    asked = {"role": "user", "content": [image, {"type": "input_text", "text": "What is it?"}]}
    found = read_all([asked, user("Go on.")])
    assert found.left_out == ["input[0].content[0]"]
    assert [message["content"] for message in normalize(messages_of(found.items))] == [
        "[image left out: this model reads text only]\nWhat is it?",
        "Go on.",
    ]


@pytest.mark.parametrize("role", ["system", "developer", "assistant"])
def test_only_non_text_parts_of_other_messages_are_ignored(role: str) -> None:
    parts = [{"type": "input_image"}, {"type": "text", "text": "a"}, {"type": "of_next_year"}]
    found = read_all([user("Hi"), {"role": role, "content": parts}])
    assert found.left_out == ["input[1].content[0]", "input[1].content[2]"]
    assert normalize(messages_of(found.items))[1] == {"role": role, "content": "a"}


@pytest.mark.parametrize("type", ["text", "input_text", "output_text"])
@pytest.mark.parametrize("role", ["user", "system", "assistant"])
def test_text_is_read_under_any_name(role: str, type: str) -> None:
    message = {"role": role, "content": [{"type": type, "text": "a"}]}
    assert messages(message) == [{"role": role, "content": "a"}]


def test_an_assistants_message_of_no_parts_is_empty() -> None:
    empty = {"type": "message", "role": "assistant", "content": []}
    assert messages(user("Hi"), empty, CALL)[1]["tool_calls"] == [PLAIN_CALL]


def test_an_output_needs_the_call_that_it_answers() -> None:
    call, output = read([CALL, OUTPUT])
    check_outputs([], [call, output])
    check_outputs([call], [output])
    for items in ([output], [output, call]):
        with pytest.raises(InvalidRequest, match="call_id c1") as caught:
            check_outputs([], items)
        assert caught.value.param == "input[0].call_id"


@pytest.mark.parametrize("kind", ["compaction", "compaction_summary"])
def test_a_summary_made_here_is_read(kind: str) -> None:
    item = {"type": kind, "id": "cmp_1", "encrypted_content": "localinfra:They spoke of rivers."}
    told = messages(user("Hi"), item, user("Go on."))
    assert told[1] == {
        "role": "user",
        "content": "Summary of the conversation so far:\n\nThey spoke of rivers.",
    }


@pytest.mark.parametrize("content", ["gAAAAABpQ4", "", None])
def test_a_summary_of_another_service_is_ignored_and_reported(content: str | None) -> None:
    found = read_all([user("Hi"), {"type": "compaction", "encrypted_content": content}])
    assert len(found.items) == 1 and found.left_out == ["input[1]"]
