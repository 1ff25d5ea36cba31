"""Anthropic's conversations → chat's types: each kind of block, tool and option."""

from typing import Any

import msgspec
import pytest

from localinfra.api.anthropic.input import PromptFields
from localinfra.chat.messages import Message
from localinfra.errors import InvalidRequest, UnsupportedParameter

HELLO: Any = [{"role": "user", "content": "Hello"}]
WEATHER: Any = {
    "name": "get_weather",
    "description": "The weather of a city.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
}
TIME: Any = {"name": "now", "input_schema": {"type": "object"}, "type": "custom"}


def request(**fields: Any) -> PromptFields:
    return msgspec.convert({"model": "m", "messages": HELLO, **fields}, PromptFields)


def told(*messages: Any, **fields: Any) -> list[dict[str, Any]]:
    """The chat messages, without absent fields."""
    found: list[Message] = request(messages=list(messages), **fields).conversation()
    return [
        {key: value for key, value in msgspec.to_builtins(message).items() if value is not None}
        for message in found
    ]


def user(*content: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(content)}


def assistant(*content: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": list(content)}


def text(words: str, **more: Any) -> dict[str, Any]:
    return {"type": "text", "text": words, **more}


def use(id: str, **input: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": id, "name": "get_weather", "input": input}


def result(id: str, content: Any = None, **more: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": id, "content": content, **more}


def test_strings_and_text_blocks_are_equivalent() -> None:
    plain = told({"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"})
    assert plain == [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}]
    assert told(user(text("Hello")), assistant(text("Hi"))) == plain


def test_a_system_prompt_comes_first_whatever_its_form() -> None:
    cached = text("Be kind.", cache_control={"type": "ephemeral"})
    for system in ("Be brief.\nBe kind.", [text("Be brief."), cached]):
        assert told(*HELLO, system=system) == [
            {"role": "system", "content": "Be brief.\nBe kind."},
            {"role": "user", "content": "Hello"},
        ]
    nothings: list[Any] = ["", []]
    for nothing in nothings:
        assert told(*HELLO, system=nothing) == [{"role": "user", "content": "Hello"}]


BILLING = "x-anthropic-billing-header: cc_version=2.1.197.b5b; cc_entrypoint=cli; cch=1a2b3;"


@pytest.mark.parametrize(
    ("system", "words", "left_out"),
    [
        ([text(BILLING), text("Be brief.")], "Be brief.", ["system[0]"]),
        ([text(f"{BILLING}\nBe brief.")], "Be brief.", ["system[0]"]),
        (f"{BILLING}\n\nBe brief.", "Be brief.", ["system"]),
        ([text("Be brief."), text(BILLING)], f"Be brief.\n{BILLING}", []),
    ],
)
def test_claude_codes_billing_line_is_ignored_and_reported(
    system: Any, words: str, left_out: list[str]
) -> None:
    assert told(*HELLO, system=system)[0] == {"role": "system", "content": words}
    assert request(system=system).left_out == left_out


def test_a_billing_line_alone_is_no_system_prompt() -> None:
    for system in (BILLING, [text(BILLING)]):
        assert [message["role"] for message in told(*HELLO, system=system)] == ["user"]


def test_consecutive_messages_of_a_role_are_one_turn() -> None:
    assert told(user(text("a"), text("b")), user(text("c")), assistant(), assistant(text("d"))) == [
        {"role": "user", "content": "a\nb\nc"},
        {"role": "assistant", "content": "d"},
    ]


def test_a_system_message_may_be_anywhere_in_the_conversation() -> None:
    assert told(*HELLO, {"role": "system", "content": "Be brief."}, *HELLO)[1] == {
        "role": "system",
        "content": "Be brief.",
    }


def test_calls_and_thinking_belong_to_the_assistants_message() -> None:
    thinking = {"type": "thinking", "thinking": "Paris, then.", "signature": "x"}
    redacted = {"type": "redacted_thinking", "data": "xyz"}
    turn = assistant(thinking, redacted, text("I look."), use("toolu_1", city="Paris", days=[1.5]))
    assert told(*HELLO, turn)[1] == {
        "role": "assistant",
        "content": "I look.",
        "reasoning_content": "Paris, then.",
        "tool_calls": [
            {
                "type": "function",
                "id": "toolu_1",
                "function": {"name": "get_weather", "arguments": '{"city":"Paris","days":[1.5]}'},
            }
        ],
    }


def test_a_tool_input_may_be_sent_as_text() -> None:
    for text, read in (("{}", {}), ("", {}), ('{"city": "Rome"}', {"city": "Rome"})):
        turn = assistant({**use("toolu_1"), "input": text})
        arguments = told(turn)[0]["tool_calls"][0]["function"]["arguments"]
        assert msgspec.json.decode(arguments) == read


def test_a_message_of_calls_has_no_content_and_one_without_blocks_is_empty() -> None:
    assert "content" not in told(*HELLO, assistant(use("a")))[1]
    assert told(*HELLO, assistant())[1] == {"role": "assistant", "content": ""}


def test_tool_results_are_messages_of_their_own_before_the_users() -> None:
    turn = user(
        result("a", "21 degrees"),
        result("b", [text("one"), text("two")]),
        result("c"),
        result("d", "no such city", is_error=True),
        text("And tomorrow?"),
    )
    assert told(*HELLO, assistant(use("a")), turn)[2:] == [
        {"role": "tool", "content": "21 degrees", "tool_call_id": "a"},
        {"role": "tool", "content": "one\ntwo", "tool_call_id": "b"},
        {"role": "tool", "content": "", "tool_call_id": "c"},
        {"role": "tool", "content": "Error: no such city", "tool_call_id": "d"},
        {"role": "user", "content": "And tomorrow?"},
    ]


IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": ""}}
NOTE = "[image left out: this model reads text only]"


@pytest.mark.parametrize("between", [[], [assistant(text("I see."))]])
def test_a_note_stands_for_an_image_of_an_earlier_message(between: list[Any]) -> None:
    """A client sends it again with each turn, also if it was refused."""
    turns = [user(IMAGE, text("What is it?")), *between, user(text("Go on."))]
    assert told(*turns)[0]["content"].startswith(f"{NOTE}\nWhat is it?")
    assert request(messages=turns).left_out == ["messages[0].content[0]"]


@pytest.mark.parametrize("kind", ["image", "document", "container_upload", "new"])
def test_non_text_blocks_of_a_user_are_refused(kind: str) -> None:
    with pytest.raises(UnsupportedParameter) as caught:
        told(user(text("x"), {"type": kind, "source": {"type": "base64", "data": "x"}}))
    assert kind in caught.value.message and caught.value.param == "messages[0].content[1]"


HOSTED: list[dict[str, Any]] = [
    {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {"query": "x"}},
    {"type": "web_search_tool_result", "tool_use_id": "s", "content": [
        {"type": "web_search_result", "url": "https://example.org", "encrypted_content": "x"}]},
    {"type": "web_search_tool_result", "tool_use_id": "s", "content": {"type": "error"}},
    {"type": "code_execution_tool_result", "tool_use_id": "s", "content": {"stdout": "1"}},
    {"type": "mcp_tool_use", "id": "m", "name": "f", "server_name": "s", "input": {}},
    {"type": "mcp_tool_result", "tool_use_id": "m", "content": [text("1")]},
    {"type": "of_next_year"},
]  # fmt: skip


@pytest.mark.parametrize("block", HOSTED, ids=lambda block: block["type"])
def test_blocks_of_hosted_tools_are_ignored_and_reported(block: Any) -> None:
    turn = assistant(text("I look."), block, text("Rain."))
    assert told(*HELLO, turn)[1] == {"role": "assistant", "content": "I look.\nRain."}
    asked = request(messages=[*HELLO, turn, *HELLO])
    assert asked.left_out == ["messages[1].content[1]"]


@pytest.mark.parametrize("type", ["input_text", "output_text"])
def test_text_is_also_read_by_openais_names(type: str) -> None:
    block = {"type": type, "text": "a"}
    turns = [user(block), assistant(block, use("a")), user(result("a", [block]))]
    asked = told(*turns, system=[block])
    assert [message["content"] for message in asked] == ["a", "a", "a", "a"]
    assert request(messages=turns).left_out == []


def test_a_note_stands_for_non_text_parts_of_a_result() -> None:
    turns = [*HELLO, assistant(use("a"), use("b")), user(result("a", [IMAGE, text("one")]),
                                                         result("b", [IMAGE]))]  # fmt: skip
    assert [message["content"] for message in told(*turns)[2:]] == [f"{NOTE}\none", NOTE]
    assert request(messages=turns).left_out == [
        "messages[2].content[0].content[0]", "messages[2].content[1].content[0]",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("block", "words"),
    [
        ({"type": "document", "source": {"type": "text", "data": "Facts."}}, "Facts."),
        ({"type": "document", "title": "On rivers",
          "source": {"type": "text", "media_type": "text/plain", "data": "Facts."}},
         "On rivers\nFacts."),
        ({"type": "document", "source": {"type": "content", "content": [text("a"), text("b")]}},
         "a\nb"),
        ({"type": "search_result", "source": "https://example.org", "title": "Rivers",
          "content": [text("Facts.")]}, "Rivers\nhttps://example.org\nFacts."),
    ],
)  # fmt: skip
def test_documents_and_search_results_of_text_are_read(block: Any, words: str) -> None:
    assert told(user(block, text("Well?")))[0]["content"] == f"{words}\nWell?"
    assert told(*HELLO, assistant(use("a")), user(result("a", [block])))[2]["content"] == words
    assert request(messages=[user(block)]).left_out == []


def test_a_summary_of_an_earlier_conversation_is_read() -> None:
    turn = assistant({"type": "compaction", "content": "They spoke of rivers."}, text("So."))
    assert told(*HELLO, turn)[1]["content"] == "They spoke of rivers.\nSo."


@pytest.mark.parametrize(
    ("turn", "param"),
    [
        (user(), "messages[0].content"),
        ({"role": "user", "content": ""}, "messages[0].content"),
        (user({"type": "text"}), "messages[0].content[0].text"),
        (user(use("a")), "messages[0].content[0]"),
        (user({"type": "thinking", "thinking": "x"}), "messages[0].content[0]"),
        (user({"type": "tool_result"}), "messages[0].content[0].tool_use_id"),
        (assistant(result("a")), "messages[0].content[0]"),
        (assistant({"type": "thinking"}), "messages[0].content[0].thinking"),
        (assistant({"type": "tool_use"}), "messages[0].content[0].input"),
        (assistant({"type": "tool_use", "input": {}}), "messages[0].content[0].name"),
        (assistant({"type": "tool_use", "input": {}, "name": "f"}), "messages[0].content[0].id"),
    ],
)
def test_an_incomplete_or_misplaced_block_is_reported(turn: Any, param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        told(turn)
    assert caught.value.param == param


def test_a_system_prompt_is_text_only() -> None:
    with pytest.raises(UnsupportedParameter) as caught:
        told(*HELLO, system=[{"type": "image"}])
    assert caught.value.param == "system[0]"


def test_tools_are_declared_in_the_form_of_templates() -> None:
    [weather, now] = request(tools=[WEATHER, TIME]).answer().use.tools
    assert weather.definition == {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "The weather of a city.",
            "parameters": WEATHER["input_schema"],
        },
    }
    assert (weather.name, weather.parameters) == ("get_weather", WEATHER["input_schema"])
    assert (weather.param, now.param) == ("tools[0].input_schema", "tools[1].input_schema")


@pytest.mark.parametrize(
    ("choice", "names", "is_required", "is_named", "is_parallel"),
    [
        (None, ["get_weather", "now"], False, False, True),
        ({"type": "auto"}, ["get_weather", "now"], False, False, True),
        ({"type": "any"}, ["get_weather", "now"], True, False, True),
        (
            {"type": "any", "disable_parallel_tool_use": True},
            ["get_weather", "now"], True, False, False,
        ),
        ({"type": "tool", "name": "now"}, ["now"], True, True, False),
        ({"type": "none"}, [], False, False, True),
    ],
)  # fmt: skip
def test_a_tool_choice_says_which_calls_may_or_must_come(
    choice: Any, names: list[str], is_required: bool, is_named: bool, is_parallel: bool
) -> None:
    use = request(tools=[WEATHER, TIME], tool_choice=choice).answer().use
    assert [tool.name for tool in use.tools] == names
    assert (use.is_required, use.is_named, use.is_parallel) == (is_required, is_named, is_parallel)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{"name": "f"}]}, "tools[0].input_schema"),
        ({"tools": [WEATHER, {"input_schema": {}}]}, "tools[1].name"),
        ({"tools": [{"name": "a b", "input_schema": {}}]}, "tools[0].name"),
        ({"tools": [WEATHER, WEATHER]}, "tools"),
        ({"tool_choice": {"type": "any"}}, "tool_choice"),
        ({"tools": [WEATHER], "tool_choice": {"type": "tool"}}, "tool_choice.name"),
        ({"tools": [WEATHER], "tool_choice": {"type": "tool", "name": "now"}}, "tool_choice"),
    ],
)
def test_invalid_tools_are_reported(fields: Any, param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        request(**fields).answer()
    assert caught.value.param == param


@pytest.mark.parametrize(
    "kind",
    ["web_search_20250305", "bash_20250124", "text_editor_20250728", "computer_20250124",
     "code_execution_20250825", "mcp_toolset"],
)  # fmt: skip
def test_anthropics_own_tools_are_ignored_unless_one_must_be_called(kind: str) -> None:
    hosted = {"type": kind, "name": "web_search", "max_uses": 5}
    asked = request(tools=[TIME, hosted, WEATHER])
    assert [tool.name for tool in asked.answer().use.tools] == ["now", "get_weather"]
    assert asked.left_out == ["tools[1]"]
    assert not request(tools=[hosted]).answer().use.tools
    for tools, choice in (
        ([hosted], {"type": "any"}),
        ([TIME, hosted], {"type": "tool", "name": "web_search"}),
    ):
        with pytest.raises(UnsupportedParameter) as caught:
            request(tools=tools, tool_choice=choice).answer()
        assert caught.value.param == "tool_choice"
    assert request(tools=[TIME, hosted], tool_choice={"type": "any"}).answer().use.is_required


@pytest.mark.parametrize("hosted", [{"google_search": {}}, {"type": None, "foo": 1}, {"type": ""}])
def test_a_tool_that_is_not_a_function_is_ignored(hosted: Any) -> None:
    asked = request(tools=[TIME, hosted])
    assert [tool.name for tool in asked.answer().use.tools] == ["now"]
    assert asked.left_out == ["tools[1]"]


def test_thinking_and_effort_reach_the_template() -> None:
    kwargs = [
        request(thinking=thinking).template_kwargs
        for thinking in (
            None,
            {"type": "enabled", "budget_tokens": 2048},
            {"type": "adaptive"},
            {"type": "disabled"},
        )
    ]
    assert kwargs == [
        {},
        {"enable_thinking": True, "thinking": True, "thinking_budget": 2048},
        {"enable_thinking": True, "thinking": True},
        {"enable_thinking": False, "thinking": False},
    ]
    for effort, told in {"low": "low", "high": "high", "xhigh": "high", "max": "high"}.items():
        found = request(output_config={"effort": effort}).template_kwargs
        assert found == {"reasoning_effort": told}


def test_a_format_is_a_schema_under_its_new_or_its_old_name() -> None:
    wanted = {"type": "json_schema", "schema": {"type": "object"}}
    for fields, param in (
        ({"output_config": {"format": wanted}}, "output_config.format.schema"),
        ({"output_format": wanted}, "output_format.schema"),
    ):
        form = request(**fields).answer().format
        assert form and (form.kind, form.schema, form.param) == ("json", {"type": "object"}, param)
    assert request(output_config={"effort": "low", "format": None}).answer().format is None


def test_a_format_and_a_required_call_exclude_each_other() -> None:
    fields: Any = {"output_config": {"format": {"type": "json_schema", "schema": {}}}}
    for choice in (None, {"type": "auto"}, {"type": "none"}):
        assert request(tools=[WEATHER], tool_choice=choice, **fields).answer().format
    with pytest.raises(InvalidRequest) as caught:
        request(tools=[WEATHER], tool_choice={"type": "any"}, **fields).answer()
    assert caught.value.param == "tool_choice"
