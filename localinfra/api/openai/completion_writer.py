"""The object that chat and text completions share on the wire, whole or in chunks, with usage."""

import contextlib
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Protocol

import msgspec
from msgspec import UNSET, UnsetType

from localinfra.api.generation.params import GenerationFields
from localinfra.api.generation.usage import Usage, UsageMeter
from localinfra.api.http.pieces import encode_each, fill_arrays, join_items
from localinfra.chance import random_hex
from localinfra.engine.deltas import Deltas
from localinfra.engine.output import OutputDelta

encode = msgspec.json.Encoder().encode


class ChunkChoice(Protocol):
    """The choice in a chunk."""

    @property
    def finish_reason(self) -> str | None: ...


class CompletionObject(msgspec.Struct, frozen=True, kw_only=True):
    """A whole completion, or one chunk of it. Subclasses know what kind."""

    id: str
    object: str = ""
    created: int  # Unix time
    model: str  # that answered: the name behind an alias
    choices: Sequence[ChunkChoice] = ()
    usage: Usage | UnsetType = UNSET  # of a stream: in the last chunk


class CompletionWriter:
    """Writes one completion, whole or in chunks."""

    def __init__(
        self,
        kind: type[CompletionObject],
        id_prefix: str,
        model: str,
        body: GenerationFields,
        meter: UsageMeter,
    ):
        id = f"{id_prefix}-{random_hex(32)}"
        self._empty = kind(id=id, created=int(time.time()), model=model)
        self._includes_usage = body.includes_usage
        self._meter = meter

    async def whole(self, choices: Sequence[msgspec.Struct]) -> list[bytes]:
        """The whole object, in pieces."""
        return fill_arrays(self._with_usage(), {"choices": join_items(await encode_each(choices))})

    async def chunks(
        self,
        deltas: Deltas,
        choices_of: Callable[[OutputDelta], Awaitable[Sequence[ChunkChoice]]],
        opening: Sequence[ChunkChoice] = (),
    ) -> AsyncGenerator[list[bytes], None]:
        """A chunk per choice in `opening` and per choice that a delta yields; yields those of one
        step together. Usage is in the last chunk, or in a chunk of its own."""
        # Encodes the fixed part once, not per chunk.
        before, *after = fill_arrays(self._empty, {"choices": ()})
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
        """Whether this is the last chunk, which must include the usage."""
        return self._meter.is_complete and not self._includes_usage

    def _with_usage(self, choices: Sequence[ChunkChoice] = ()) -> CompletionObject:
        return msgspec.structs.replace(self._empty, choices=choices, usage=self._meter.usage())
