"""What a search of conversations looks through, and which data are refused."""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from echo import EchoServer

from localinfra.conversations.store import words_of


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[EchoServer]:
    monkeypatch.setenv("LOCALINFRA_DATA", str(tmp_path / "data"))
    server = EchoServer(tmp_path, "[server]\nkeep_chats = true\n")
    yield server
    server.close()


def test_a_search_looks_through_texts_of_any_length_and_letters() -> None:
    texts = ["", "ß\n" * 100_000, "İ" + "\U0001f999a" * 150_000, "ΐ" * 300_000, "short"]
    turns = [*({"content": text} for text in texts), {"content": {"content": "no"}}, {}]
    data = msgspec.json.encode({"turns": turns, "content": "no"})
    assert words_of("Title", data).decode() == "\n".join(["Title", *texts]).casefold()


@pytest.mark.parametrize(
    "text", [b"\xff", b"a" * 300_000 + b"\xe2\x82", b"\xe2\x82" + b"a" * 300_000]
)
def test_data_that_are_not_in_utf_8_are_refused(server: EchoServer, text: bytes) -> None:
    body = b'{"title":"Birds","data":{"turns":[{"content":"%b"}]}}' % text
    headers = {"content-type": "application/json"}
    reply = server.client.put("/v1/chats/one", content=body, headers=headers)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "data")
