"""An answer's pieces as content blocks, and as the events that add up to them."""

import json
from typing import Any

import msgspec
import pytest

from localinfra.api.anthropic.input import InputMessage, conversation
from localinfra.api.anthropic.output import BlockWriter, ThinkingBlock, content_blocks
from localinfra.api.generation.carried import read_carried
from localinfra.chat.formats.pieces import (
    CallArguments,
    CallEnd,
    CallStart,
    Content,
    Piece,
    Thought,
)
from localinfra.chat.partial import completed_object

CALL: list[Piece] = [CallStart("f"), CallArguments('{"a": '), CallArguments("1}"), CallEnd()]

ANSWERS: list[tuple[list[Piece], list[dict[str, Any]]]] = [
    ([], []),
    ([Content("Hel"), Content("lo")], [{"type": "text", "text": "Hello"}]),
    (
        [Thought("Hm"), Thought("m."), Content("Yes.")],
        [
            {"type": "thinking", "thinking": "Hmm.", "signature": ""},
            {"type": "text", "text": "Yes."},
        ],
    ),
    (
        [Content("I look."), *CALL, *CALL, Content("Done.")],
        [
            {"type": "text", "text": "I look."},
            {"type": "tool_use", "name": "f", "input": {"a": 1}},
            {"type": "tool_use", "name": "f", "input": {"a": 1}},
            {"type": "text", "text": "Done."},
        ],
    ),
    ([CallStart("now"), CallEnd()], [{"type": "tool_use", "name": "now", "input": {}}]),
]


def without_ids(blocks: Any) -> list[dict[str, Any]]:
    plain: list[dict[str, Any]] = msgspec.json.decode(msgspec.json.encode(blocks))
    for block in plain:
        assert block.pop("id", "toolu_").startswith("toolu_")
    return plain


def events_of(pieces: list[Piece], hides_thinking: bool = False) -> list[dict[str, Any]]:
    writer = BlockWriter(hides_thinking)
    events = [event for piece in pieces for event in writer.events(piece)] + writer.close()
    named = [event.named() for event in events]
    decoded = [msgspec.json.decode(data) for _, data in named]
    assert [event["type"] for event in decoded] == [name for name, _ in named]
    return decoded


def added_up(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The blocks as a client reads them: one open at a time, numbered in order."""
    blocks: list[dict[str, Any]] = []
    arguments = ""
    is_open = False
    for event in events:
        if event["type"] == "content_block_start":
            assert not is_open and event["index"] == len(blocks)
            blocks.append(event["content_block"])
            arguments, is_open = "", True
            continue
        assert is_open and event["index"] == len(blocks) - 1
        if event["type"] == "content_block_stop":
            is_open = False
            if arguments:
                blocks[-1]["input"] = msgspec.json.decode(arguments)
            continue
        delta = event["delta"]
        kind = delta.pop("type")
        if kind == "input_json_delta":
            arguments += delta["partial_json"]
        else:
            [(field, added)] = delta.items()
            assert kind == f"{field}_delta"
            blocks[-1][field] += added
    assert not is_open
    return blocks


@pytest.mark.parametrize(("pieces", "blocks"), ANSWERS)
def test_blocks_are_in_the_order_of_their_pieces(
    pieces: list[Piece], blocks: list[dict[str, Any]]
) -> None:
    assert without_ids(content_blocks(pieces, hides_thinking=False)) == blocks


@pytest.mark.parametrize("hides_thinking", [False, True])
@pytest.mark.parametrize("pieces", [pieces for pieces, _ in ANSWERS])
def test_the_events_add_up_to_the_blocks(pieces: list[Piece], hides_thinking: bool) -> None:
    whole = without_ids(content_blocks(pieces, hides_thinking))
    assert without_ids(added_up(events_of(pieces, hides_thinking))) == whole


def test_each_call_has_an_id_of_its_own() -> None:
    starts = [event for event in events_of([*CALL, *CALL]) if "content_block" in event]
    assert len({event["content_block"]["id"] for event in starts}) == 2


def test_a_thinking_block_ends_with_its_signature() -> None:
    types = [event.get("delta", event)["type"] for event in events_of([Thought("a"), Content("b")])]
    assert types == [
        *("content_block_start", "thinking_delta", "signature_delta", "content_block_stop"),
        *("content_block_start", "text_delta", "content_block_stop"),
    ]


def test_omitted_thinking_leaves_an_empty_block_whose_signature_carries_it_back() -> None:
    pieces: list[Piece] = [Thought("sec"), Content("b"), Thought("secret"), Content("c")]
    thinking, _, again, _ = content_blocks(pieces, hides_thinking=True)
    assert isinstance(again, ThinkingBlock)
    assert (again.thinking, read_carried(again.signature)) == ("", "secret")
    events = events_of(pieces, hides_thinking=True)
    deltas = [event["delta"] for event in events if "delta" in event]
    signatures = [delta["signature"] for delta in deltas if "signature" in delta]
    assert [*map(read_carried, signatures)] == ["sec", "secret"]
    assert not any("thinking" in delta for delta in deltas) and "secret" not in str(events)
    sent = {"role": "assistant", "content": msgspec.to_builtins([thinking, again])}
    [message] = conversation("", [msgspec.convert(sent, InputMessage)])
    assert message.reasoning_content == "sec\nsecret"


@pytest.mark.parametrize(
    ("arguments", "input_"),
    [
        ([], {}),
        (['{"a": '], {}),
        (['{"a": [1, {"b": "c"', ', "d'], {"a": [1, {"b": "c"}]}),
    ],
)
def test_a_call_that_was_cut_off_keeps_its_complete_parts(
    arguments: list[str], input_: dict[str, object]
) -> None:
    """In a stream too: clients that read it get the same block."""
    cut: list[Piece] = [Content("I look."), CallStart("f"), *map(CallArguments, arguments)]
    assert without_ids(content_blocks(cut, False)) == [
        {"type": "text", "text": "I look."},
        {"type": "tool_use", "name": "f", "input": input_},
    ]
    events = events_of(cut)
    deltas = [e["delta"]["partial_json"] for e in events if "partial_json" in e.get("delta", {})]
    assert json.loads(completed_object("".join(deltas))) == input_
    assert events[-1] == {"type": "content_block_stop", "index": 1}
