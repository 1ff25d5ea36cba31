"""Base64 is decoded in pieces: what they are must make no difference."""

import base64

import pytest

from localinfra.api.http import encoded
from localinfra.api.http.encoded import decode_base64, encode_base64

DATA = bytes(range(40))


@pytest.fixture(params=[1, 2, 3, 4, 5, 8, 13, 100], autouse=True)
def piece(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoded, "PIECE", request.param)


@pytest.mark.parametrize("size", range(12))
def test_all_lengths(size: int) -> None:
    text = base64.b64encode(DATA[:size]).decode()
    assert decode_base64(text) == DATA[:size]
    assert decode_base64("data:x," + text, 7) == DATA[:size]
    assert decode_base64(" ".join(text) + "\n") == DATA[:size]


@pytest.mark.parametrize(
    "text", ["A", "AA", "AAA", "AA==A", "AA==AAAA", "AAA=\nAAA=", "A=A=", "Aé==", "AA!="]
)
def test_what_is_no_base64_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        decode_base64(text)


@pytest.mark.parametrize("size", range(12))
def test_written_in_pieces_it_is_the_same(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoded, "WRITTEN_PIECE", 3)
    assert encode_base64(DATA[:size]) == base64.b64encode(DATA[:size])
