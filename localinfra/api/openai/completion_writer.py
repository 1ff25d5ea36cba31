"""What chat and text completions have in common on the wire: one kind of object, told whole or in
chunks, and where it tells the usage."""

import contextlib
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Protocol

import msgspec
from msgspec import UNSET, UnsetType

from localinfra.api.generation.params import GenerationFields
from localinfra.api.generation.usage import Usage, UsageMeter
from localinfra.api.http.pieces import encoded, filled, listed
from localinfra.chance import random_hex
from localinfra.engine.deltas import Deltas
from localinfra.engine.output import OutputDelta

encode = msgspec.json.Encoder().encode


class ChunkChoice(Protocol):
    """The one choice that a chunk is about."""

    @property
    def finish_reason(self) -> str | None: ...


class CompletionObject(msgspec.Struct, frozen=True, kw_only=True):
    """A whole answer, or one chunk of it."""

    id: str
    object: str
    created: int  # Unix time
    model: str
    choices: Sequence[ChunkChoice] = ()
    usage: Usage | UnsetType = UNSET


class CompletionWriter:
    """Writes the objects of one answer."""

    def __init__(self, id_prefix: str, model: str, body: GenerationFields, meter: UsageMeter):
        self._id = f"{id_prefix}-{random_hex(32)}"
        self._created = int(time.time())
        self._model = model
        self._includes_usage = body.includes_usage
        self._meter = meter

    async def whole(self, kind: str, choices: Sequence[msgspec.Struct]) -> list[bytes]:
        """The object, in pieces."""
        completion = self._object(kind, usage=self._meter.usage())
        return filled(completion, {"choices": listed(await encoded(choices))})

    async def chunks(
        self,
        kind: str,
        deltas: Deltas,
        choices_of: Callable[[OutputDelta], Awaitable[Sequence[ChunkChoice]]],
        opening: Sequence[ChunkChoice] = (),
    ) -> AsyncGenerator[list[bytes], None]:
        """A chunk for each choice of `opening`, and for each that a delta becomes; those of one
        step together. The usage is in the last of them, or in a chunk of its own."""
        async with contextlib.aclosing(deltas):
            if opening:
                yield [self._chunk(kind, choice) for choice in opening]
            async for step in deltas:
                chunks: list[bytes] = []
                for delta in step:
                    self._meter.add(delta)
                    chunks += [self._chunk(kind, choice) for choice in await choices_of(delta)]
                if chunks:
                    yield chunks
        if self._includes_usage:
            yield [encode(self._object(kind, usage=self._meter.usage()))]

    def _chunk(self, kind: str, choice: ChunkChoice) -> bytes:
        is_last = choice.finish_reason is not None and self._meter.is_complete
        usage = self._meter.usage() if is_last and not self._includes_usage else UNSET
        return encode(self._object(kind, [choice], usage))

    def _object(
        self, kind: str, choices: Sequence[ChunkChoice] = (), usage: Usage | UnsetType = UNSET
    ) -> CompletionObject:
        return CompletionObject(
            id=self._id,
            object=kind,
            created=self._created,
            model=self._model,
            choices=choices,
            usage=usage,
        )
