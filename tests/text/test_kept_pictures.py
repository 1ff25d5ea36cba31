"""Encoded pictures are kept within limits: each client may use the room that others leave."""

import asyncio

import pytest
from echo import ROW_WIDTH, EchoEncoder
from picture_files import file, plain

from localinfra.pictures import Pixels
from localinfra.text.eyes import Eyes, decoded

ROOM = 100  # tokens
PICTURE_BYTES = 6 * ROW_WIDTH * 4
PICTURES = [file(plain(30, 20, (shade, 0, 0))) for shade in range(10)]
OWN = file(plain(30, 20))


@pytest.fixture
def decodings(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The files whose pixels were read."""
    files: list[bytes] = []

    def noted(data: bytes, param: str, max_side: int | None) -> tuple[bytes, Pixels]:
        files.append(data)
        return decoded(data, param, max_side)

    monkeypatch.setattr("localinfra.text.eyes.decoded", noted)
    return files


def show(eyes: Eyes, client: str, *pictures: bytes) -> None:
    async def all_of_them() -> None:
        for data in pictures:
            await eyes.see(data, ROOM, "messages", client=client)

    asyncio.run(all_of_them())


def test_who_shows_many_pictures_pushes_out_none_of_others() -> None:
    """Nor can it see by the time of its own how many others have shown."""
    encoder = EchoEncoder(sees=True, hears=False)
    eyes = Eyes("m", encoder, 8, kept_bytes=4 * PICTURE_BYTES)
    show(eyes, "modest", OWN)
    show(eyes, "greedy", *PICTURES)
    assert encoder.num_read == 11
    show(eyes, "modest", OWN)
    show(eyes, "greedy", *PICTURES[-3:])
    assert encoder.num_read == 11


def test_one_client_alone_has_all_the_room() -> None:
    encoder = EchoEncoder(sees=True, hears=False)
    eyes = Eyes("m", encoder, 8, kept_bytes=len(PICTURES) * PICTURE_BYTES)
    for _ in range(2):
        show(eyes, "alone", *PICTURES)
    assert encoder.num_read == len(PICTURES)


def test_who_shows_many_files_does_not_have_those_of_others_read_again(
    decodings: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("localinfra.text.eyes.MAX_DIGESTS", 4)
    eyes = Eyes("m", EchoEncoder(sees=True, hears=False), 8)
    show(eyes, "modest", OWN)
    show(eyes, "greedy", *PICTURES)
    assert len(decodings) == 11
    show(eyes, "modest", OWN)
    show(eyes, "greedy", *PICTURES[-3:])
    assert len(decodings) == 11
