"""Pictures become what a model reads, each encoded once, beside everything else."""

import asyncio
import threading
from collections.abc import Callable, Coroutine

import numpy as np
import pytest
from picture_files import file, plain, png_header
from PIL import Image
from sound_files import noise, wav

from localinfra.engine.pictures import Picture
from localinfra.errors import EngineFailed, InvalidRequest, ModelUnavailable, QueueFull
from localinfra.journal import CrashJournal, StepKind
from localinfra.picture_parts import EncodingFailed, PartSize, PicturePart
from localinfra.pictures import Pixels
from localinfra.sounds.samples import Samples
from localinfra.text.eyes import Eyes
from localinfra.watchdog import Phase

ROOM = 100  # tokens


class FakeEncoder:
    """A row for each 10 x 10 pixels, or each tenth of a second, between two tokens. `read` waits
    until it `may_read`."""

    sees, is_causal = True, False
    sample_rate, longest_sound_s = 16_000, 60.0

    def __init__(self) -> None:
        self.num_read = 0
        self.is_reading, self.may_read = threading.Event(), threading.Event()
        self.may_read.set()
        self.is_closed = False

    def sizes(self, content: Pixels | Samples) -> list[PartSize]:
        if isinstance(content, Samples):
            count = round(10 * content.seconds)
        elif content.width == 13:
            raise EncodingFailed("unlucky")
        else:
            count = max(1, content.width * content.height // 100)
        return [PartSize(1, False), PartSize(count, True), PartSize(1, False)]

    def read(
        self,
        content: Pixels | Samples,
        check: Callable[[], None],
        has_company: Callable[[], bool],
    ) -> tuple[PicturePart, ...]:
        assert not self.is_closed
        self.num_read += 1
        self.is_reading.set()
        self.may_read.wait()
        check()
        _, middle, _ = self.sizes(content)
        rows = np.full((middle.num_tokens, 4), content.data[0], np.float32)
        return PicturePart([1]), PicturePart(rows=rows), PicturePart([2])

    def close(self) -> None:
        assert not self.is_closed or self.may_read.is_set()
        self.is_closed = True


def run(test: Callable[[], Coroutine[None, None, None]]) -> Callable[[], None]:
    """A test that is a coroutine."""
    return lambda: asyncio.run(test())


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.001)


@run
async def test_a_picture_becomes_tokens_and_rows() -> None:
    eyes = Eyes("m", FakeEncoder(), 8)
    seen = await eyes.see(file(plain(30, 20)), ROOM, "messages")
    before, middle, after = seen.parts
    assert (before, after, seen.num_tokens) == ([1], [2], 8)
    assert isinstance(middle, Picture) and middle.rows.shape == (6, 4) and not middle.is_causal
    assert middle.rows[0, 0] == 200
    assert not eyes.is_busy


@run
async def test_the_same_picture_is_encoded_once_in_whatever_format() -> None:
    encoder = FakeEncoder()
    eyes = Eyes("m", encoder, 8)
    files = [file(plain(30, 20)), file(plain(30, 20), compress_level=0), file(plain(30, 20))]
    found = [await eyes.see(data, ROOM, "messages") for data in files]
    assert encoder.num_read == 1 and {one.digest for one in found} == {found[0].digest}
    await eyes.see(file(plain(20, 30)), ROOM, "messages")
    assert encoder.num_read == 2


@run
async def test_many_who_want_a_picture_at_the_same_time_share_its_encoding() -> None:
    encoder = FakeEncoder()
    encoder.may_read.clear()
    eyes = Eyes("m", encoder, 8)
    data = file(plain(30, 20))
    tasks = [asyncio.create_task(eyes.see(data, ROOM, "messages")) for _ in range(5)]
    await until(encoder.is_reading.is_set)
    assert eyes.is_busy
    await until(lambda: [one.num_waiting for one in eyes._running.values()] == [5])
    tasks[0].cancel()
    await until(tasks[0].done)
    encoder.may_read.set()
    found = await asyncio.gather(*tasks[1:])
    assert encoder.num_read == 1 and len({id(one) for one in found}) == 1


@run
async def test_a_client_waits_as_if_nobody_else_had_sent_the_picture() -> None:
    """Else the time would tell that another key's holder has shown it."""
    encoder = FakeEncoder()
    eyes = Eyes("m", encoder, 8)
    data = file(plain(30, 20))
    counts, found = [], []
    for client in ("a", "a", "b", "b", "a"):
        found.append(await eyes.see(data, ROOM, "messages", client=client))
        counts.append(encoder.num_read)
    assert counts == [1, 1, 2, 2, 2]
    assert {one.parts[1].digest for one in found if isinstance(one.parts[1], Picture)} == {
        found[0].parts[1].digest  # type: ignore[union-attr]
    }
    encoder.may_read.clear()
    other = file(plain(20, 30))
    tasks = [asyncio.create_task(eyes.see(other, ROOM, "messages", client=one)) for one in "ab"]
    await until(lambda: eyes.num_waiting == 1)  # behind the other's
    encoder.may_read.set()
    await asyncio.gather(*tasks)
    assert encoder.num_read == 4


@run
async def test_clients_may_be_allowed_to_use_each_others() -> None:
    encoder = FakeEncoder()
    eyes = Eyes("m", encoder, 8, is_shared=True)
    for client in "ab":
        await eyes.see(file(plain(30, 20)), ROOM, "messages", client=client)
    assert encoder.num_read == 1


@run
async def test_everyone_is_told_of_his_own_part_if_a_picture_can_not_be_read() -> None:
    class Failing(FakeEncoder):
        def read(
            self,
            content: Pixels | Samples,
            check: Callable[[], None],
            has_company: Callable[[], bool],
        ) -> tuple[PicturePart, ...]:
            super().read(content, check, has_company)
            raise EncodingFailed("unlucky")

    encoder = Failing()
    encoder.may_read.clear()
    eyes = Eyes("m", encoder, 8)
    data = file(plain(30, 20))
    tasks = [asyncio.create_task(eyes.see(data, ROOM, f"messages[{at}]")) for at in range(2)]
    await until(encoder.is_reading.is_set)
    encoder.may_read.set()
    errors = await asyncio.gather(*tasks, return_exceptions=True)
    assert [getattr(error, "param", error) for error in errors] == ["messages[0]", "messages[1]"]


@run
async def test_a_death_while_a_picture_is_read_is_laid_to_its_model() -> None:
    journal, encoder = CrashJournal(), FakeEncoder()
    mark = journal.open("m", "a" * 32)
    encoder.may_read.clear()
    eyes = Eyes("m", encoder, 8, mark_of=lambda: mark)
    task = asyncio.create_task(eyes.see(file(plain(30, 20)), ROOM, "messages"))
    await until(encoder.is_reading.is_set)
    assert [(one.name, one.step) for one in journal.at_work()] == [("m", StepKind.SEE)]
    encoder.may_read.set()
    await task
    assert not journal.at_work()


@run
async def test_a_picture_that_nobody_waits_for_any_more_is_dropped() -> None:
    encoder = FakeEncoder()
    encoder.may_read.clear()
    eyes = Eyes("m", encoder, 8)
    data, other = file(plain(30, 20)), file(plain(20, 30))
    first = asyncio.create_task(eyes.see(data, ROOM, "messages"))
    await until(encoder.is_reading.is_set)
    second = asyncio.create_task(eyes.see(other, ROOM, "messages"))
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    encoder.may_read.set()
    await second  # which is read after it
    assert encoder.num_read == 2
    await eyes.see(data, ROOM, "messages")
    assert encoder.num_read == 3  # its rows were not kept


@run
async def test_who_comes_after_a_cancellation_gets_the_picture() -> None:
    encoder = FakeEncoder()
    encoder.may_read.clear()
    eyes = Eyes("m", encoder, 8)
    data = file(plain(30, 20))
    first = asyncio.create_task(eyes.see(data, ROOM, "messages"))
    await until(encoder.is_reading.is_set)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    second = asyncio.create_task(eyes.see(data, ROOM, "messages"))
    encoder.may_read.set()
    assert (await second).num_tokens == 8


@run
async def test_only_so_many_bytes_of_pictures_are_kept() -> None:
    encoder = FakeEncoder()
    eyes = Eyes("m", encoder, 8, kept_bytes=2 * 6 * 4 * 4)  # two pictures
    files = [file(plain(30, 20, (shade, 0, 0))) for shade in (1, 2, 3)]
    for data in (*files, files[2], files[1]):
        await eyes.see(data, ROOM, "messages")
    assert encoder.num_read == 3
    await eyes.see(files[0], ROOM, "messages")
    assert encoder.num_read == 4
    large = Eyes("m", encoder, 8, kept_bytes=10)
    for _ in range(2):
        await large.see(files[0], ROOM, "messages")
    assert encoder.num_read == 6


@run
async def test_a_picture_that_does_not_fit_is_refused_before_it_is_encoded() -> None:
    encoder = FakeEncoder()
    eyes = Eyes("m", encoder, 8)
    with pytest.raises(InvalidRequest, match="takes 10002 tokens, and the context has room for 5"):
        await eyes.see(file(plain(1000, 1000)), 5, "messages[0].content[1]")
    assert encoder.num_read == 0
    await eyes.see(file(plain(30, 20)), 8, "messages")
    with pytest.raises(InvalidRequest, match="takes 8 tokens, and the context has room for 7"):
        await eyes.see(file(plain(30, 20)), 7, "messages")


@run
async def test_bad_pictures_are_refused() -> None:
    eyes = Eyes("m", FakeEncoder(), 8)
    for data, message in (
        (b"", "can't be read as an image"),
        (png_header(5000, 5000), "at most 16777216"),
        (file(plain(13, 20)), "m can't read messages .unlucky.: send a picture of another size"),
    ):
        with pytest.raises(InvalidRequest, match=message):
            await eyes.see(data, ROOM, "messages")


@run
async def test_the_queue_is_bounded() -> None:
    encoder = FakeEncoder()
    encoder.may_read.clear()
    eyes = Eyes("m", encoder, 2)
    first = asyncio.create_task(eyes.see(file(plain(30, 20)), ROOM, "messages"))
    await until(encoder.is_reading.is_set)
    others = []
    for shade in range(2):
        data = file(plain(30, 20, (shade, 9, 9)))
        others.append(asyncio.create_task(eyes.see(data, ROOM, "messages")))
        await until(lambda at=shade: eyes.num_waiting == at + 1)  # type: ignore[misc]
    with pytest.raises(QueueFull, match="m to see pictures"):
        await eyes.see(file(plain(30, 20, (8, 8, 8))), ROOM, "messages")
    encoder.may_read.set()
    await asyncio.gather(first, *others)


@run
async def test_closing_waits_for_no_picture_and_frees_the_encoder_after_it() -> None:
    encoder = FakeEncoder()
    encoder.may_read.clear()
    eyes = Eyes("m", encoder, 8)
    task = asyncio.create_task(eyes.see(file(plain(30, 20)), ROOM, "messages"))
    await until(encoder.is_reading.is_set)
    waiting = asyncio.create_task(eyes.see(file(plain(20, 30)), ROOM, "messages"))
    await until(lambda: eyes.num_waiting == 1)
    await asyncio.to_thread(eyes.close)
    assert not encoder.is_closed
    encoder.may_read.set()
    for one in (task, waiting):
        with pytest.raises(ModelUnavailable, match="just been unloaded"):
            await one
    await until(lambda: encoder.is_closed)
    other = FakeEncoder()
    Eyes("m", other, 8).close()
    assert other.is_closed


@run
async def test_pixels_with_alpha_are_seen_over_white() -> None:
    eyes = Eyes("m", FakeEncoder(), 8)
    seen = await eyes.see(file(Image.new("RGBA", (30, 20), (9, 9, 9, 0))), ROOM, "messages")
    picture = seen.parts[1]
    assert isinstance(picture, Picture) and picture.rows[0, 0] == 255


@run
async def test_a_smaller_picture_takes_fewer_tokens() -> None:
    eyes = Eyes("m", FakeEncoder(), 8)
    data = file(plain(60, 40))
    assert (await eyes.see(data, ROOM, "messages")).num_tokens == 26
    assert (await eyes.see(data, ROOM, "messages", max_side=30)).num_tokens == 8
    assert (await eyes.see(data, ROOM, "messages", max_side=100)).num_tokens == 26


@run
async def test_digests_differ_between_projectors() -> None:
    data = file(plain(30, 20))
    seen = [await Eyes("m", FakeEncoder(), 8, name).see(data, ROOM, "m") for name in "aba"]
    first, other, again = (one.parts[1] for one in seen)
    assert isinstance(first, Picture) and isinstance(other, Picture) and isinstance(again, Picture)
    assert first.tokens != other.tokens and first.tokens == again.tokens


@run
async def test_a_sound_becomes_rows_of_its_own_kind_once() -> None:
    encoder = FakeEncoder()
    eyes = Eyes("m", encoder, 8)
    files = [wav(noise(0.7)), wav(noise(0.7)), wav(np.stack([noise(0.7)] * 2, 1))]
    found = [await eyes.hear(data, ROOM, "messages") for data in files]
    assert encoder.num_read == 1
    (sound,) = (part for part in found[0].parts if isinstance(part, Picture))
    assert sound.is_sound and sound.is_causal and sound.num_tokens == 7  # whatever pictures are
    assert not eyes.is_busy
    other = await eyes.hear(wav(noise(0.7, seed=1)), ROOM, "messages")
    assert other.digest != found[0].digest and encoder.num_read == 2


@run
async def test_a_sound_without_room_is_refused_before_it_is_encoded() -> None:
    encoder = FakeEncoder()
    eyes = Eyes("m", encoder, 8)
    with pytest.raises(InvalidRequest, match=r"takes 22 tokens, and the context has room for 9"):
        await eyes.hear(wav(noise(2)), 9, "messages")
    with pytest.raises(InvalidRequest, match=r"is 61\.0 seconds long; at most 60 are read"):
        await eyes.hear(wav(noise(61)), 9, "messages")
    heard = [eyes.hear(wav(noise(2)), room, "messages") for room in (ROOM, 9, ROOM)]
    one, refused, other = await asyncio.gather(*heard, return_exceptions=True)
    assert isinstance(refused, InvalidRequest) and one == other and encoder.num_read == 1


@run
async def test_pictures_are_measured_while_a_sound_is_encoded() -> None:
    encoder = FakeEncoder()
    encoder.may_read.clear()
    eyes = Eyes("m", encoder, 8)
    sound = asyncio.create_task(eyes.hear(wav(noise()), ROOM, "messages"))
    await until(encoder.is_reading.is_set)
    with pytest.raises(InvalidRequest, match="takes 102 tokens"):
        await eyes.see(file(plain(100, 100)), ROOM, "messages")
    sound.cancel()
    encoder.may_read.set()
    await until(lambda: not eyes.is_busy)


@run
async def test_each_tile_is_progress_and_a_projector_without_any_is_given_up() -> None:
    encoder = FakeEncoder()
    encoder.may_read.clear()
    eyes = Eyes("m", encoder, 8)
    assert eyes.pulse.phase is Phase.IDLE
    first = asyncio.create_task(eyes.see(file(plain(30, 20)), ROOM, "messages"))
    await until(encoder.is_reading.is_set)
    begun = eyes.pulse
    assert begun.phase is Phase.COMPUTING
    waiting = [asyncio.create_task(eyes.hear(wav(noise()), ROOM, "messages"))]
    waiting.append(asyncio.create_task(eyes.see(file(plain(20, 20)), ROOM, "messages")))
    await until(lambda: eyes.num_waiting == 2)
    eyes.abandon("it made no step for 600 s")
    for task in (first, *waiting):
        with pytest.raises(EngineFailed, match="projector was given up: it made no step"):
            await task
    eyes.close()
    assert not encoder.is_closed  # its thread may still use it
    with pytest.raises(ModelUnavailable, match="just been unloaded"):
        await eyes.see(file(plain(10, 20)), ROOM, "messages")
    encoder.may_read.set()  # it goes on at last
    await until(lambda: encoder.is_closed)
    assert eyes.pulse.phase is Phase.IDLE and eyes.pulse.num > begun.num
