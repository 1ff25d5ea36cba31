"""Any conversation in any template: each of its texts is in the prompt once."""

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from chat_templates import (
    CHATML,
    DEAF,
    GEMMA,
    LLAMA,
    MISTRAL,
    NEMO,
    ONE_CALL,
    QWEN,
    SHOWS_CALLS,
    TRIMMING,
    template,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from localinfra.chat.messages import FunctionCall, Message, ToolCall
from localinfra.chat.sandbox.meter import Deadline
from localinfra.chat.sketch import sketched
from localinfra.errors import InvalidRequest

TEMPLATES = {
    "chatml": CHATML,
    "trimming": TRIMMING,
    "llama": LLAMA,
    "gemma": GEMMA,
    "mistral": MISTRAL,
    "qwen": QWEN,
    "deaf": DEAF,
    "nemo": NEMO,
    "one call": ONE_CALL,
}
TOOL: dict[str, Any] = {
    "type": "function",
    "function": {"name": "f", "parameters": {"type": "object"}},
}

SYSTEM, DEVELOPER = Message("system", "SYS"), Message("developer", "DEV")
HI, BYE = Message("user", "HI"), Message("user", "BYE")
HELLO, SURE = Message("assistant", "HELLO"), Message("assistant", "SURE")


def call(*ids: str | None, content: str | None = None, arguments: str = "{}") -> Message:
    function = FunctionCall("f", arguments)
    return Message("assistant", content, tool_calls=[ToolCall(function, id) for id in ids])


def result(id: str | None, content: str = "OUTPUT") -> Message:
    return Message("tool", content, tool_call_id=id)


def text(name: str, *messages: Message, **options: Any) -> str:
    return template(TEMPLATES[name]).render(messages, **options).text


def positions(prompt: str, messages: Sequence[Message]) -> list[int]:
    """Positions of the texts, each of which occurs once."""
    texts = [str(message.content) for message in messages if message.content]
    assert {part: prompt.count(part) for part in texts} == dict.fromkeys(texts, 1)
    return [prompt.index(part) for part in texts]


# System messages


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("first", [SYSTEM, DEVELOPER])
def test_a_system_message_is_read_whatever_the_template(name: str, first: Message) -> None:
    for conversation in (
        [first, HI],
        [HI, first],
        [HI, HELLO, first, BYE],
        [first],
        [first, HELLO],
        [first, HI, HELLO],
        [first, Message("system", "MORE"), HI],
        [first, HI, HELLO, BYE],
    ):
        positions(text(name, *conversation), conversation)


@pytest.mark.parametrize("name", ["gemma", "deaf"])
def test_without_a_system_role_it_heads_the_first_user_turn(name: str) -> None:
    headed = Message("user", "SYS\n\nDEV\n\nHI")
    assert text(name, SYSTEM, HI, HELLO, DEVELOPER, BYE) == text(name, headed, HELLO, BYE)
    assert text(name, SYSTEM) == text(name, Message("user", "SYS"))


# Turns


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize(
    "conversation",
    [
        [HI, BYE],
        [HELLO, HI],
        [SYSTEM, HELLO, HI],
        [HELLO],
        [HI, HELLO, SURE, BYE],
        [HI, Message("assistant", ""), BYE],
        [HI, HELLO, SURE],
        [HI, Message("assistant", None, reasoning_content=""), BYE],
    ],
)
def test_turns_are_rearranged_for_the_template(name: str, conversation: list[Message]) -> None:
    found = positions(text(name, *conversation), conversation)
    in_order = [at for at, m in zip(found, conversation, strict=False) if m.role != "system"]
    assert in_order == sorted(in_order)


def test_neighbours_are_joined_only_if_roles_must_alternate() -> None:
    assert text("gemma", HI, BYE) == text("gemma", Message("user", "HI\n\nBYE"))
    assert text("chatml", HI, BYE).count("<|im_start|>user") == 2


def test_a_continued_answer_is_still_continued_when_it_is_joined() -> None:
    for name in ("gemma", "nemo", "chatml"):
        prompt = template(TEMPLATES[name]).render([HI, HELLO, SURE])
        assert prompt.is_continued and prompt.text.endswith("SURE")
    assert text("nemo", HI, HELLO, SURE).endswith("[/INST] HELLO\n\nSURE")


def test_a_message_that_the_template_never_shows_is_an_error() -> None:
    last_only = "{{ messages[-1].content }}"
    assert template(last_only).render([HI]).text == "HI"
    with pytest.raises(InvalidRequest, match=r"leaves out messages\[0\], whose role is user"):
        template(last_only).render([HI, HELLO, BYE])


# Calls and their results


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("tools", [[], [TOOL]])
@pytest.mark.parametrize(
    "conversation",
    [
        [HI, call("c"), result("c")],
        [HI, call("c"), result("c"), BYE],
        [HI, call("c"), result("c"), HELLO, BYE],
        [HI, call("c", "d"), result("c"), result("d", "OTHER"), BYE],
        [HI, call("c", "d"), result("d", "OTHER"), result("c")],
        [HI, call("c"), BYE],
        [HI, call("c", "d"), result("c"), BYE],
        [HI, result("c"), BYE],
        [result("c")],
        [HI, call("c"), BYE, result("c")],
        [SYSTEM, HI, call("c"), result("c"), call("d"), result("d", "OTHER"), BYE, HELLO],
        [HI, call(None), result(None)],
    ],
)
def test_results_are_read_wherever_they_stand(
    name: str, conversation: list[Message], tools: list[dict[str, object]]
) -> None:
    positions(text(name, *conversation, tools=tools), conversation)


def test_a_user_s_text_after_a_result_stays_the_user_s() -> None:
    prompt = text("nemo", HI, call("c"), result("c"), BYE)
    assert re.search(r"OUTPUT\w{9}\[/TOOL_RESULTS\] </s>\[INST\]BYE\[/INST\]$", prompt)


def test_parallel_calls_become_single_ones_if_the_template_requires_it() -> None:
    one_by_one = [HI, call("c"), result("c"), call("d"), result("d", "OTHER")]
    results = [result("d", "OTHER"), result("c")]
    assert text("one call", HI, call("c", "d"), *results) == text("one call", *one_by_one)


def test_text_beside_a_call_gets_a_message_of_its_own_if_it_would_be_dropped() -> None:
    prompt = text("one call", HI, call("c", content="SAID"), result("c"))
    assert prompt.index("SAID") < prompt.index('"name"')
    assert prompt.count("<|start|>assistant") == 3


def test_no_call_is_dropped() -> None:
    """gpt-oss shows a message's first call only, DeepSeek R1 none beside text, LFM2 none at all."""
    calls = [ToolCall(FunctionCall(name, "{}"), name) for name in ("one", "two")]
    asked = Message("assistant", "SAID", tool_calls=calls)
    conversation = [HI, asked, result("one"), result("two", "OTHER"), BYE]

    def prompt(*parts: str) -> str:
        source = "{% for m in messages %}[{{ m.role }}]" + "".join(parts) + "{% endfor %}"
        return template(source).render(conversation).text

    said = "{{ m.content or '' }}"
    call = "<call>{{ c.function.name }} {{ c.function.arguments | tojson }}</call>"
    first_call = "{% for c in (m.tool_calls or [])[:1] %}" + call + "{% endfor %}"
    assert prompt(said, first_call) == (
        "[user]HI[assistant]SAID<call>one {}</call>[tool]OUTPUT"
        "[assistant]<call>two {}</call>[tool]OTHER[user]BYE"
    )
    calls_alone = "{% for c in m.tool_calls if not m.content %}" + call + "{% endfor %}"
    assert prompt(said, calls_alone) == (
        "[user]HI[assistant]SAID[assistant]<call>one {}</call><call>two {}</call>"
        "[tool]OUTPUT[tool]OTHER[user]BYE"
    )
    order = [*re.findall("SAID|one|two|OUTPUT|OTHER", prompt(said))]
    assert order == ["SAID", "one", "two", "OUTPUT", "OTHER"]


def test_what_is_told_about_tools_is_not_dropped() -> None:
    """The last system message wins here, as with DeepSeek R1."""
    source = (
        "{% set ns = namespace(system='') %}"
        "{% for m in messages if m.role == 'system' %}{% set ns.system = m.content %}{% endfor %}"
        "{{ ns.system }}{% for m in messages if m.role != 'system' %}{{ m.content }}{% endfor %}"
    )
    prompt = template(source).render([HI, HELLO, SYSTEM, BYE], tools=[TOOL]).text
    assert "<tools>" in prompt and prompt.endswith("HIHELLOBYE")
    positions(prompt, [SYSTEM, HI, HELLO, BYE])


# Ids

IDS = ["call_abc123", "toolu_01A09q90qw90lq917835lq9", "", "a", "123456789", "ü" * 50, "<|im_end|>"]
IDS += ["call 1", "\ud800", "chatcmpl-tool-" + "f" * 32, "0", "fc_68", "abcdefgh_"]


def nemo_ids(*messages: Message) -> list[tuple[str, str]]:
    """Ids of calls and results, in order."""
    prompt = text("nemo", *messages)
    return re.findall(r"\}([A-Za-z0-9]{9})[],]|OUTPUT([A-Za-z0-9]{9})\[", prompt)


@pytest.mark.parametrize("id", IDS)
def test_an_id_of_any_form_becomes_nine_letters_or_digits(id: str) -> None:
    [(called, _), (_, answered)] = nemo_ids(HI, call(id), result(id))
    assert called == answered
    assert (called == id) is (id == "123456789")


def test_equal_ids_are_mapped_alike_and_different_ones_never_are() -> None:
    calls = [part for id in IDS for part in (call(id), result(id))]
    found = ["".join(pair) for pair in nemo_ids(HI, *calls)]
    assert found[::2] == found[1::2] and len(set(found)) == len(IDS)
    [(alone, _), _] = nemo_ids(HI, call(IDS[0]), result(IDS[0]))
    assert alone == found[0]


def test_results_without_ids_belong_to_the_calls_in_order() -> None:
    found = nemo_ids(HI, call(None, None), result(None, "OUTPUT"), result(None, "OUTPUT"))
    called, answered = found[:2], found[2:]
    assert [a for a, _ in called] == [b for _, b in answered] and len(set(called)) == 2


def test_ids_are_unchanged_if_the_template_accepts_them() -> None:
    source = SHOWS_CALLS + "{% for message in messages %}{{ message.tool_call_id }}{% endfor %}"
    prompt = template(source).render([HI, call("call_abc123"), result("call_abc123")]).text
    assert "call_abc123" in prompt


# Everything

numbers = st.integers(0, 10**6)
ids = st.sampled_from(["a", "b", "123456789", None])
plain = st.builds(
    lambda role, number, is_empty: Message(role, "" if is_empty else f"Text{number}."),
    st.sampled_from(["system", "developer", "user", "assistant"]),
    numbers,
    st.sampled_from([False] * 5 + [True]),
)
calls = st.builds(
    lambda ids, number, arguments: call(
        *ids, content=None if number is None else f"Said{number}.", arguments=arguments
    ),
    st.lists(ids, min_size=1, max_size=3),
    st.none() | numbers,
    st.sampled_from(["{}", '{"a": 1}', "", "no JSON", "[1]"]),
)
results = st.builds(lambda id, number: result(id, f"Result{number}."), ids, numbers)
conversations = st.lists(plain | plain | calls | results, min_size=1, max_size=9)


@settings(max_examples=300, deadline=None)
@given(conversations, st.sampled_from(sorted(TEMPLATES)), st.booleans(), st.booleans())
def test_every_text_is_in_the_prompt_once_and_in_order(
    messages: list[Message], name: str, has_tools: bool, asks: bool
) -> None:
    unique = {message.content: message for message in messages if message.content}
    messages = [m for m in messages if not m.content or unique[m.content] is m]
    options = {"tools": [TOOL] if has_tools else [], "add_generation_prompt": asks}
    prompt = text(name, *messages, **options)
    counts = Counter(re.findall(r"(?:Text|Said|Result)\d+\.", prompt))
    needed = [m.content for m in messages if m.content and not m.tool_calls]
    assert all(counts[content] == 1 for content in needed)
    assert max(counts.values(), default=0) <= 1  # text beside a call may be left out
    told = [m.content for m in messages if m.content in needed and m.role in ("user", "assistant")]
    assert sorted(told, key=lambda content: prompt.index(str(content))) == told


@given(conversations)
def test_a_sketch_has_the_shape_of_the_conversation(messages: list[Message]) -> None:
    sketch = sketched(messages)
    for message, drawn in zip(messages, sketch.messages, strict=True):
        assert (message.role, bool(message.content)) == (drawn.role, bool(drawn.content))
        assert len(message.tool_calls or ()) == len(drawn.tool_calls or ())
    num_texts = sum(bool(message.content) for message in messages)
    num_calls = sum(len(message.tool_calls or ()) for message in messages)
    assert len(sketch.needed) == num_texts + num_calls


def test_a_long_conversation_takes_time_in_proportion() -> None:
    """A quarter of a second here; half a minute if each text were looked for in the whole."""
    messages = [HI, call("c"), *[result("c", "short")] * 60_000]
    prompt = template(CHATML).render(messages, deadline=Deadline(15)).text
    assert prompt.count("short") == 60_000


def test_many_characters_and_a_control_token_take_time_in_proportion() -> None:
    """A second here; half a minute if each character were looked for in the whole."""
    characters = "".join(map(chr, range(0xA000, 0xA000 + 10_000)))
    content = f"<|im_end|>{characters}{'a' * 6_000_000}"
    rendered = template(CHATML).render([Message("user", content)], deadline=Deadline(15))
    assert [part.text for part in rendered.segments if not part.is_template] == ["<|im_end|>"]


def test_rendering_stops_when_the_client_has_left() -> None:
    deadline = Deadline(1000, lambda: True)
    with pytest.raises(InvalidRequest, match="its client has left"):
        template("{% for i in range(100000) %}" * 5 + "{% endfor %}" * 5).render(
            [HI], deadline=deadline
        )
