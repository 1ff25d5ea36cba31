"""An answer's pieces → output items and their events."""

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from localinfra.api.generation.carried import read_carried
from localinfra.api.openai.responses.input import read_input
from localinfra.api.openai.responses.items import AnyItem, ReasoningItem
from localinfra.api.openai.responses.output import (
    ItemAdded,
    ItemDone,
    OutputWriter,
    ResponsesEvent,
    TokenKinds,
)
from localinfra.chat.formats.pieces import (
    CallArguments,
    CallEnd,
    CallStart,
    Content,
    Piece,
    Thought,
)
from localinfra.engine.output import OutputDelta, ScoredToken
from localinfra.engine.request import TokenLogprob

CALL: list[Piece] = [CallStart("add"), CallArguments('{"a"'), CallArguments(": 1}"), CallEnd()]
ANSWER: list[Piece] = [Thought("Hm"), Thought("."), Content("Let"), Content(" me."), *CALL, *CALL]


def plain(value: Any) -> Any:
    """The value as a client reads it."""
    return msgspec.json.decode(msgspec.json.encode(value))


def write(pieces: Sequence[Piece], is_cut: bool = False) -> tuple[list[ResponsesEvent], list[Any]]:
    writer = OutputWriter()
    events = [event for piece in pieces for event in writer.write([piece])]
    events += writer.finish(is_cut=is_cut)
    return events, plain(writer.items)


def names(events: list[ResponsesEvent]) -> list[str]:
    return [event.kind.removeprefix("response.") for event in events]


def test_a_message_has_events_from_start_to_end() -> None:
    events, [message] = write([Content("Hel"), Content("lo")])
    assert names(events) == [
        "output_item.added", "content_part.added", "output_text.delta", "output_text.delta",
        "output_text.done", "content_part.done", "output_item.done",
    ]  # fmt: skip
    part = {"type": "output_text", "text": "Hello", "annotations": [], "logprobs": []}
    assert message == {
        "type": "message", "id": message["id"], "status": "completed", "role": "assistant",
        "content": [part],
    }  # fmt: skip
    told = plain(events)
    assert told[0]["item"] == {**message, "status": "in_progress", "content": []}
    assert told[1]["part"] == {**part, "text": ""}
    assert told[4]["text"] == "Hello" and told[5]["part"] == part and told[6]["item"] == message
    assert {event["item_id"] for event in told[1:6]} == {message["id"]}


def test_reasoning_is_an_item_of_its_own() -> None:
    events, [reasoning, message] = write([Thought("Hm."), Content("Hi")])
    assert names(events)[:5] == [
        "output_item.added", "content_part.added", "reasoning_text.delta", "reasoning_text.done",
        "content_part.done",
    ]  # fmt: skip
    assert reasoning == {
        "type": "reasoning", "id": reasoning["id"], "status": "completed", "summary": [],
        "content": [{"type": "reasoning_text", "text": "Hm."}], "encrypted_content": None,
    }  # fmt: skip
    assert message["content"][0]["text"] == "Hi"


def test_a_call_is_an_item_with_its_arguments() -> None:
    events, [call] = write(CALL)
    assert names(events) == [
        "output_item.added", "function_call_arguments.delta", "function_call_arguments.delta",
        "function_call_arguments.done", "output_item.done",
    ]  # fmt: skip
    assert (call["type"], call["name"], call["arguments"]) == ("function_call", "add", '{"a": 1}')
    assert call["id"].startswith("fc_") and call["call_id"].startswith("call_")
    first = plain(events[0])["item"]
    assert first == {**call, "status": "in_progress", "arguments": ""}


@pytest.mark.parametrize("end", range(1, len(ANSWER) + 1))
@pytest.mark.parametrize("is_cut", [False, True])
def test_wherever_it_ends_the_events_add_up_to_the_items(end: int, is_cut: bool) -> None:
    events, items = write(ANSWER[:end], is_cut)
    told: dict[int, str] = {}
    done: dict[int, Any] = {}
    for event in plain(events):
        at = event["output_index"]
        if event["type"] == "response.output_item.added":
            assert at == len(told) == len(done)  # one after the other
            told[at] = ""
        elif event["type"].endswith(".delta"):
            told[at] += event["delta"]
        elif event["type"] == "response.output_item.done":
            done[at] = event["item"]
    assert [done[at] for at in sorted(done)] == items
    texts = [item["arguments"] if "arguments" in item else item["content"][0]["text"]
             for item in items]  # fmt: skip
    assert [told[at] for at in sorted(told)] == texts
    assert len({item["id"] for item in items}) == len(items)


def test_the_item_cut_off_is_incomplete_and_the_others_complete() -> None:
    _, items = write(ANSWER[:6], is_cut=True)
    assert [item["status"] for item in items] == ["completed", "completed", "incomplete"]
    assert items[2]["arguments"] == '{"a"'
    _, items = write(ANSWER[:1], is_cut=True)
    assert [(item["type"], item["status"]) for item in items] == [("reasoning", "incomplete")]


@pytest.mark.parametrize("pieces", [[], [Thought("Hm.")]])
def test_a_finished_answer_has_a_message_even_without_content(pieces: list[Piece]) -> None:
    _, items = write(pieces)
    assert items[-1]["type"] == "message" and items[-1]["content"][0]["text"] == ""
    assert write([], is_cut=True) == ([], [])


def test_logprobs_are_of_the_content() -> None:
    first, second = (msgspec.Raw(b'{"token":"%b"}' % token) for token in (b"a", b"b"))
    writer = OutputWriter()
    events = writer.write([Thought("Hm."), Content("a")], [first])
    events += writer.write([Content("b")], [second])
    events += writer.finish(is_cut=False)
    told = plain(events)
    deltas = [event["logprobs"] for event in told if event["type"].endswith("text.delta")
              and "logprobs" in event]  # fmt: skip
    assert [[entry["token"] for entry in each] for each in deltas] == [["a"], ["b"]]
    [done] = [event for event in told if event["type"].endswith("output_text.done")]
    assert [entry["token"] for entry in done["logprobs"]] == ["a", "b"]
    [part] = plain(writer.items[1])["content"]
    assert part["logprobs"] == done["logprobs"]


def step(num_generated: int) -> OutputDelta:
    scored = ScoredToken(TokenLogprob(num_generated, -1.0), 0)
    return OutputDelta(0, scored=(scored,), num_generated=num_generated)


def test_tokens_belong_to_the_next_piece() -> None:
    kinds = TokenKinds()
    assert kinds.content_of(step(1), []) == []  # the marker that begins the reasoning
    assert kinds.content_of(step(2), [Thought("Hm")]) == []
    assert kinds.content_of(step(3), [Thought(".")]) == []
    assert kinds.content_of(step(4), []) == []  # the marker that ends it, with text held back
    said = kinds.content_of(step(5), [Content("Hi")])
    assert kinds.num_reasoning == 3
    assert [token.logprob.token for token in said] == [4, 5]
    assert kinds.content_of(step(6), [CallStart("add")]) == []


def test_reasoning_is_also_sent_in_encrypted_content_if_asked_for() -> None:
    """Codex and others send nothing else back."""
    writer = OutputWriter(carries=True)
    events = [*writer.write([Thought("Hm"), Thought(" é.")]), *writer.finish(is_cut=False)]
    first, *_, last = [event for event in events if isinstance(event, ItemAdded | ItemDone)][:2]
    assert plain(first)["item"]["encrypted_content"] is None
    reasoning = plain(last)["item"]
    assert reasoning["content"][0]["text"] == "Hm é."
    [item] = read_input([{**reasoning, "content": None}], find).items
    assert isinstance(item, ReasoningItem) and item.text == "Hm é."


def find(id: str, path: str) -> AnyItem:
    pytest.fail(id)


@pytest.mark.parametrize("value", ["", "gAAA", "localinfra:", "localinfra:!", "localinfra:/w=="])
def test_foreign_values_in_encrypted_content_are_ignored(value: str) -> None:
    assert read_carried(value) == ""
