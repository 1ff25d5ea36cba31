"""How a model sees and hears: files of pictures and sounds → what stands for them in a prompt, each
encoded once. What is said of pictures here holds for sounds too.

Decoding and encoding run in threads of their own, while the engine goes on with its steps. Knows
nothing of messages, and not how the engine reads the rows.
"""

import asyncio
import hashlib
import struct
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, Protocol, TypeVar

import msgspec

from localinfra.engine.pictures import Picture
from localinfra.errors import EngineFailed, InvalidRequest, ModelUnavailable
from localinfra.executor import BoundedExecutor, stop_if_abandoned
from localinfra.journal import Mark, StepKind
from localinfra.picture_parts import EncodingFailed, PartSize, PicturePart
from localinfra.pictures import Pixels, read_pixels
from localinfra.shares import Kept
from localinfra.sounds.samples import Samples, read_samples
from localinfra.text.courtesy import Company, Courtesy
from localinfra.watchdog import Pulse

# Encoded pictures that are kept, for the next turns of their conversations: ten of 1,024 tokens of
# 4,096 numbers take 160 MiB.
KEPT_BYTES = 256 << 20
PIXEL_BYTES = 128 << 20  # of the picture that is encoded, and of the one that is read meanwhile
SAMPLE_BYTES = 512 << 20  # of the longest sound, its spectrum, and copies of both
DECODING_THREADS = 2
LARGE_BYTES = 1 << 20  # of a file that takes a millisecond to hash
MAX_DIGESTS = 10_000  # of files whose pixels are known, 64 bytes each


T = TypeVar("T")
Content = Pixels | Samples


class PictureEncoder(Protocol):
    """`llama.projector.Projector`, and a fake in the tests. `read` in one thread at a time."""

    sees: bool
    is_causal: bool  # of pictures
    sample_rate: int  # of sounds that it hears; 0: it doesn't
    longest_sound_s: float

    def sizes(self, content: Content) -> list[PartSize]: ...

    def read(
        self, content: Content, check: Callable[[], None], has_company: Callable[[], bool]
    ) -> tuple[PicturePart, ...]: ...

    def close(self) -> None: ...


class SeenPicture(msgspec.Struct, frozen=True):
    """A picture or a sound as the model reads it."""

    digest: bytes  # of its pixels or samples
    parts: tuple[list[int] | Picture, ...]  # text tokens around rows: it may be several tiles

    @property
    def num_tokens(self) -> int:
        return sum(
            part.num_tokens if isinstance(part, Picture) else len(part) for part in self.parts
        )

    @property
    def num_bytes(self) -> int:
        return sum(part.rows.nbytes for part in self.parts if isinstance(part, Picture))


class PictureKey(NamedTuple):
    """A picture, and whose it is."""

    owner: str
    digest: bytes


class Encoding:
    """A picture that is being encoded, and how many wait for it."""

    def __init__(self, task: "asyncio.Task[SeenPicture]"):
        self.task = task
        self.num_waiting = 0


class Eyes:
    """Event loop only, except `close`. Errors name `param`."""

    def __init__(
        self,
        name: str,
        encoder: PictureEncoder,
        max_waiting: int,
        identity: str = "",
        kept_bytes: int = KEPT_BYTES,
        *,
        is_shared: bool = False,
        mark_of: Callable[[], Mark] = Mark,
        company: Callable[[], Company] = lambda: Company.NONE,
    ):
        """`max_waiting` pictures may wait to be decoded, and as many to be encoded. `identity`:
        what rows depend on besides pixels. `is_shared`: clients may use each other's. `mark_of`:
        where the model's worker notes what it does. `company`: what that does now."""
        self._name = name
        self._identity = identity.encode()
        self._encoder = encoder
        self._decoding = BoundedExecutor("reading pictures", DECODING_THREADS, max_waiting)
        self._encoding = BoundedExecutor(f"{name} to see pictures", 1, max_waiting)
        self._is_shared = is_shared
        self._mark_of = mark_of
        self._courtesy = Courtesy(company)
        self._kept_bytes = kept_bytes
        self._kept: Kept[bytes, SeenPicture] = Kept(kept_bytes)  # by owner and digest
        self._running: dict[PictureKey, Encoding] = {}
        self._digests: Kept[bytes, bytes] = Kept(MAX_DIGESTS)  # of files → of their pixels
        self._reading, self._counting = threading.Lock(), threading.Lock()  # use of the encoder
        self._is_closed = False
        self._given_up = ""  # why
        self._pulse = Pulse()  # written by the encoder's thread
        self._works: set[asyncio.Task[Any]] = set()  # that wait for that thread

    @property
    def pulse(self) -> Pulse:
        """The progress of the thread that encodes: it makes some with each tile of a picture, and
        each 30 seconds of a sound."""
        return self._pulse

    def abandon(self, reason: str) -> None:
        """Gives up a thread that hangs: fails all requests that wait for it."""
        self._given_up = reason
        self._is_closed = True
        for work in self._works:
            work.cancel()

    @property
    def sees(self) -> bool:
        return self._encoder.sees

    @property
    def hears(self) -> bool:
        return self._encoder.sample_rate > 0

    @property
    def is_busy(self) -> bool:
        return self._decoding.is_busy or self._encoding.is_busy

    @property
    def num_waiting(self) -> int:
        """Pictures that are not being read yet."""
        return self._decoding.num_waiting + self._encoding.num_waiting

    async def see(
        self,
        data: bytes,
        room: int,
        param: str,
        max_side: int | None = None,
        *,
        client: str = "",
    ) -> SeenPicture:
        """A picture's file → what the model reads, of at most `room` tokens. With a `max_side` in
        pixels, a larger picture is made smaller, and none is cut in tiles. Each `client` waits as
        if no other had sent it, since the time would tell of that.

        Raises InvalidRequest for a file that can't be read, or a picture that takes more; QueueFull
        and ModelUnavailable.
        """
        read = partial(decoded, data, param, max_side)
        return await self._sensed(data, f"picture {max_side or 0}", read, room, param, client)

    async def hear(self, data: bytes, room: int, param: str, *, client: str = "") -> SeenPicture:
        """A sound's file → what the model reads. Raises the same as `see`."""
        rate, longest_s = self._encoder.sample_rate, self._encoder.longest_sound_s
        read = partial(heard, data, param, rate, longest_s)
        return await self._sensed(data, "sound", read, room, param, client)

    async def _sensed(
        self,
        data: bytes,
        made: str,
        read: Callable[[], tuple[bytes, Content]],
        room: int,
        param: str,
        client: str,
    ) -> SeenPicture:
        """`made`: what `read` makes of the file, by its digest."""
        if len(data) > LARGE_BYTES:
            name = await self._decode(partial(named, data, made))
        else:
            name = named(data, made)
        owner = "" if self._is_shared else client
        seen = self._kept.get(owner, self._digests.get(owner, name) or b"")
        if seen is None:
            digest, content = await self._decode(read, size=len(data))
            self._digests.put(owner, name, digest, 1)
            seen = self._kept.get(owner, digest)
            if seen is None:
                seen = await self._shared(PictureKey(owner, digest), content, room, param)
        if seen.num_tokens > room:
            raise too_large(param, seen.num_tokens, room)
        return seen

    async def _decode(self, work: Callable[[], T], size: int = 0) -> T:
        try:
            return await self._decoding.run(work, size=size)
        except RuntimeError:
            if self._is_closed:
                raise self._gone() from None
            raise

    async def _shared(
        self, wanted: PictureKey, content: Content, room: int, param: str
    ) -> SeenPicture:
        """The picture, encoded once for all of its owner's requests at the same time."""
        if wanted not in self._running:
            await self._check_size(content, room, param)
        running = self._running.get(wanted)
        if running is None:
            running = Encoding(asyncio.create_task(self._encode(wanted, content)))
            self._running[wanted] = running
            running.task.add_done_callback(lambda _: self._running.pop(wanted, None))
        running.num_waiting += 1
        try:
            return await asyncio.shield(running.task)
        except EncodingFailed as error:
            raise self._unreadable(error, param) from None
        finally:
            running.num_waiting -= 1
            if not running.num_waiting and not running.task.done():
                self._running.pop(wanted, None)  # who comes now starts anew
                running.task.cancel()
            del running  # its error has this frame, which has the picture

    async def _check_size(self, content: Content, room: int, param: str) -> None:
        """Refuses what won't fit before it is encoded."""
        try:
            if isinstance(content, Samples):  # takes up to seconds
                sizes = await self._in_turn(self._encoder.sizes, content)
            else:
                with self._counting:
                    if self._is_closed:
                        raise self._gone()
                    sizes = self._encoder.sizes(content)
        except EncodingFailed as error:
            raise self._unreadable(error, param) from None
        if (num_tokens := sum(part.num_tokens for part in sizes)) > room:
            raise too_large(param, num_tokens, room)

    async def _encode(self, wanted: PictureKey, content: Content) -> SeenPicture:
        """Raises EncodingFailed, QueueFull and ModelUnavailable."""
        digest = wanted.digest
        is_sound = isinstance(content, Samples)
        seen = SeenPicture(
            digest,
            tuple(
                part.tokens if part.rows is None else self._picture(digest, at, part, is_sound)
                for at, part in enumerate(await self._in_turn(self._read, content))
            ),
        )
        if seen.num_bytes <= self._kept_bytes:
            self._kept.put(wanted.owner, digest, seen, seen.num_bytes)
        return seen

    def _read(self, content: Content) -> tuple[PicturePart, ...]:
        courtesy = self._courtesy
        try:
            return self._encoder.read(
                content, lambda: courtesy.give_way(self._check), lambda: courtesy.has_company
            )
        finally:
            courtesy.ended()

    def _picture(self, digest: bytes, at: int, part: PicturePart, is_sound: bool) -> Picture:
        assert part.rows is not None
        own = hashlib.sha256(digest + self._identity + struct.pack("<I", at)).digest()
        is_causal = is_sound or self._encoder.is_causal
        return Picture(own, part.rows, part.grid, is_causal, is_sound)

    async def _in_turn(self, work_of: Callable[[Content], T], content: Content) -> T:
        """The result of the encoder's work, in its thread."""
        size = len(content.data) if isinstance(content, Samples) else content.width * content.height
        in_thread = self._encoding.run(self._at_work, work_of, content, size=size)
        work: asyncio.Task[T] = asyncio.create_task(in_thread)
        self._works.add(work)
        work.add_done_callback(self._works.discard)
        try:
            return await work
        except asyncio.CancelledError:
            if self._given_up:
                raise EngineFailed(f"The projector was given up: {self._given_up}.") from None
            raise
        except RuntimeError:
            if self._is_closed:  # while it waited for its turn
                raise self._gone() from None
            raise
        finally:
            del work  # as `_shared`

    def _at_work(self, work: Callable[[Content], T], content: Content) -> T:
        try:
            with self._reading, self._mark_of().beside(StepKind.SEE):
                self._check()
                return work(content)
        finally:
            self._pulse = self._pulse.idle()
            if self._is_closed:  # `close` may not have waited for it
                self._free()

    def _check(self) -> None:
        self._pulse = self._pulse.computing()
        stop_if_abandoned()
        if self._is_closed:
            raise self._gone()

    def _gone(self) -> ModelUnavailable:
        return ModelUnavailable(f"{self._name} has just been unloaded; try again.", "model", 1)

    def _unreadable(self, error: EncodingFailed, param: str) -> InvalidRequest:
        return InvalidRequest(
            f"{self._name} can't read {param} ({error}): send a picture of another size, or a "
            "sound of another length.",
            param,
        )

    def close(self) -> None:
        """Any thread. Does not wait for a picture that is being encoded: its thread frees the
        encoder."""
        self._is_closed = True
        self._decoding.close()
        self._encoding.close()
        self._free()

    def _free(self) -> None:
        if self._reading.acquire(blocking=False):
            with self._counting:
                self._encoder.close()
            self._reading.release()


def named(data: bytes, made: str) -> bytes:
    """A digest of a file and of what is made of it."""
    return hashlib.sha256(made.encode() + b"\0" + data).digest()


def decoded(data: bytes, param: str, max_side: int | None) -> tuple[bytes, Pixels]:
    """A file's pixels after their digest."""
    pixels = read_pixels(data, param, max_side)
    return pixels.digest, pixels


def heard(data: bytes, param: str, rate: int, longest_s: float) -> tuple[bytes, Samples]:
    """A file's samples after their digest."""
    samples = read_samples(data, param, rate, longest_s)
    return samples.digest, samples


def too_large(param: str, num_tokens: int, room: int) -> InvalidRequest:
    return InvalidRequest(
        f"{param} takes {num_tokens} tokens, and the context has room for {room} more: send a "
        "smaller picture, a shorter sound or fewer of them, or raise context_length for this model "
        "in models.toml.",
        param,
    )
