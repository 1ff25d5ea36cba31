"""Long answers leave the event loop between their pieces."""

import asyncio
import itertools

from starlette.types import Message

from localinfra.api.http.pieces import SENT_AT_ONCE_BYTES, PiecesResponse


def test_a_long_part_is_sent_in_pieces_with_turns_of_others_between() -> None:
    long = bytes(range(256)) * (SENT_AT_ONCE_BYTES // 64)  # four pieces
    sent: list[Message | None] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        raise AssertionError("nothing is read")

    async def other() -> None:
        while True:
            sent.append(None)
            await asyncio.sleep(0)

    async def scenario() -> None:
        task = asyncio.create_task(other())
        await PiecesResponse([b"[", long, b"]"])({"type": "http"}, receive, send)
        task.cancel()

    asyncio.run(scenario())
    bodies = [message["body"] for message in sent if message and "body" in message]
    assert b"".join(bodies) == b"[" + long + b"]"
    assert max(map(len, bodies)) == SENT_AT_ONCE_BYTES
    places = [
        at for at, message in enumerate(sent) if message and len(message.get("body", b"")) > 1
    ]
    assert all(None in sent[a:b] for a, b in itertools.pairwise(places))
