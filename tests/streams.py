"""Events without end, and a client at their far end, as tests of streams have them."""

import asyncio
from collections.abc import AsyncGenerator

from starlette.types import Message

Events = AsyncGenerator[bytes | list[bytes], None]


async def yielding(*payloads: bytes | list[bytes] | Exception | float) -> Events:
    for payload in payloads:
        if isinstance(payload, Exception):
            raise payload
        if isinstance(payload, float):
            await asyncio.sleep(payload)
        else:
            yield payload


class Client:
    """A scripted far end: leaves when told to, or fails writes as some servers do."""

    def __init__(self) -> None:
        self.left = asyncio.Event()
        self.sent: list[Message] = []
        self.fail_with: OSError | None = None

    async def receive(self) -> Message:
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        if self.fail_with and message["type"] == "http.response.body":
            raise self.fail_with
        self.sent.append(message)


class Source:
    """Endless events, and whether they were started and closed."""

    def __init__(self, pause_s: float = 0.0) -> None:
        self.pause_s = pause_s
        self.started = self.closed = False

    async def events(self) -> Events:
        self.started = True
        try:
            while True:
                await asyncio.sleep(self.pause_s)
                yield b"1"
        finally:
            await asyncio.sleep(0)  # cleanup may await
            self.closed = True
