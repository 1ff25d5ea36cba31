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

    def __init__(
        self, id_prefix: str, kind: str, model: str, body: GenerationFields, meter: UsageMeter
    ):
        self._empty = CompletionObject(
            id=f"{id_prefix}-{random_hex(32)}",
            object=kind,
            created=int(time.time()),
            model=model,
        )
        self._includes_usage = body.includes_usage
        self._meter = meter

    async def whole(self, choices: Sequence[msgspec.Struct]) -> list[bytes]:
        """The object, in pieces."""
        return filled(self._with_usage(), {"choices": listed(await encoded(choices))})

    async def chunks(
        self,
        deltas: Deltas,
        choices_of: Callable[[OutputDelta], Awaitable[Sequence[ChunkChoice]]],
        opening: Sequence[ChunkChoice] = (),
    ) -> AsyncGenerator[list[bytes], None]:
        """A chunk for each choice of `opening`, and for each that a delta becomes; those of one
        step together. The usage is in the last of them, or in a chunk of its own."""
        before, *after = filled(self._empty, {"choices": ()})  # written once, not for each chunk
        ending = b"".join(after)
        async with contextlib.aclosing(deltas):
            if opening:
                yield [before + encode(choice) + ending for choice in opening]
            async for step in deltas:
                chunks: list[bytes] = []
                for delta in step:
                    self._meter.add(delta)
                    for choice in await choices_of(delta):
                        if choice.finish_reason is not None and self._is_last:
                            chunks.append(encode(self._with_usage([choice])))
                        else:
                            chunks.append(before + encode(choice) + ending)
                if chunks:
                    yield chunks
        if self._includes_usage:
            yield [encode(self._with_usage())]

    @property
    def _is_last(self) -> bool:
        """Whether this chunk has to tell the usage: none will follow."""
        return self._meter.is_complete and not self._includes_usage

    def _with_usage(self, choices: Sequence[ChunkChoice] = ()) -> CompletionObject:
        return msgspec.structs.replace(self._empty, choices=choices, usage=self._meter.usage())
