"""Long texts in odd places of a body are decoded and written in pieces: one call would hold the
interpreter for 50 ms."""

import base64
from typing import Any

import msgspec
import pytest

from localinfra.api.generation.carried import carried, read_carried
from localinfra.api.http.encoded import PIECE
from localinfra.api.openai.responses.items import FunctionCallItem
from localinfra.api.openai.responses.retrieving import encode_items
from localinfra.api.openai.responses.store import KeptResponse
from localinfra.chat import encoding, messages
from localinfra.chat.encoding import SLICE_CHARS
from localinfra.chat.messages import Message

TEXT = "é\n" * 1_000_000


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The lengths of strings that were written at once."""
    lengths: list[int] = []
    real = encoding.encode

    def encode(value: Any) -> bytes:
        lengths.append(max(map(len, _texts(value)), default=0))
        return real(value)

    monkeypatch.setattr(encoding, "encode", encode)
    return lengths


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for one in inner for text in _texts(one)]


def test_carried_reasoning(monkeypatch: pytest.MonkeyPatch) -> None:
    value, lengths, real = carried(TEXT), list[int](), base64.b64decode

    def decode(data: str, *, validate: bool) -> bytes:
        lengths.append(len(data))
        return real(data, validate=validate)

    monkeypatch.setattr(base64, "b64decode", decode)
    assert read_carried(value) == TEXT
    assert len(lengths) > 2 and max(lengths) <= PIECE + 3


def test_the_input_of_a_custom_call(written: list[int]) -> None:
    call = {"id": "a", "type": "custom", "custom": {"name": "f", "input": TEXT}}
    sent = {"role": "assistant", "content": None, "tool_calls": [call]}
    found = msgspec.convert(sent, Message)
    [plain] = messages._functions(found.tool_calls or [], "messages[0].tool_calls")
    assert msgspec.json.decode(plain.function.arguments) == {"input": TEXT}
    assert len(written) > 2 and max(written) <= SLICE_CHARS


def test_the_items_of_a_kept_response(written: list[int]) -> None:
    item = FunctionCallItem(id="fc_a", call_id="a", name="f", arguments=TEXT)
    kept = KeptResponse(
        id="resp_a", caller="", body=b"{}", input=[item], output=[], conversation_bytes=len(TEXT)
    )
    assert encode_items(kept, [item]) == [msgspec.json.encode(item)]
    assert len(written) > 2 and max(written) <= SLICE_CHARS
