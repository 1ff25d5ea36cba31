"""The worker over a fake painter that returns seeds: turns, cancelling, failing, closing."""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Sequence
from contextlib import aclosing
from typing import Any

import msgspec
import pytest
from waiting import until

from localinfra.errors import EngineFailed, ModelUnavailable, QueueFull
from localinfra.image.pipeline import preview_steps
from localinfra.image.request import Event, Finished, ImageRequest, ImageStep
from localinfra.image.worker import ImageWorker, LeftOver, Painting
from localinfra.logs import id_of, request_id
from localinfra.watchdog import Phase


class Painter:
    """Its pictures are the seeds. If gated, each step waits for a release of `may_step`."""

    def __init__(self, gated: bool = False, at_once: int = 1) -> None:
        self.at_once = at_once
        self.may_step = threading.Semaphore(0) if gated else None
        self.painted: list[int] = []
        self.num_steps = 0
        self.num_waiting = 0  # steps that may be made, or were

    def images_at_once(self, request: ImageRequest) -> int:
        return self.at_once

    def patience(self, request: ImageRequest, num_images: int) -> int:
        return num_images

    def paint(
        self, request: ImageRequest, images: Sequence[int], emit: Callable[[Event], None]
    ) -> list[int]:
        seeds = [request.seeds[image] for image in images]
        for number in range(request.num_steps):
            self.num_waiting += 1
            if self.may_step:
                assert self.may_step.acquire(timeout=600)
            self.num_steps += 1
            for image in images:
                emit(ImageStep(image, number + 1))
        if 666 in seeds:
            raise ValueError("666")
        self.painted += seeds
        return seeds

    def close(self) -> None:
        pass


def request(*seeds: int) -> ImageRequest:
    return ImageRequest("", 64, 64, 2, 0.0, seeds)


async def all_events(worker: ImageWorker, *seeds: int, left: Any = None) -> list[Any]:
    async with aclosing(worker.events(request(*seeds), left)) as events:
        return [event async for event in events]


def test_each_image_has_its_steps_and_its_picture() -> None:
    async def main() -> None:
        worker = ImageWorker(Painter(), name="flux", max_waiting=2)
        assert await all_events(worker, 7, 8) == [
            *(ImageStep(0, 1), ImageStep(0, 2), Finished(0, 7)),
            *(ImageStep(1, 1), ImageStep(1, 2), Finished(1, 8)),
        ]
        worker.close()

    asyncio.run(main())


def test_each_step_changes_the_pulse_and_abandoning_fails_waiting_requests() -> None:
    async def main() -> None:
        painter = Painter(gated=True, at_once=2)
        worker = ImageWorker(painter, name="flux", max_waiting=3)
        await until(lambda: worker.pulse.phase is Phase.IDLE)
        waiting = [asyncio.create_task(all_events(worker, 7, 8, 9)) for _ in range(2)]
        await until(lambda: worker.pulse.phase is Phase.COMPUTING)
        first = worker.pulse
        assert first.size == 2  # images at once
        assert painter.may_step
        painter.may_step.release()
        await until(lambda: worker.pulse.num >= first.num + 2)  # a step of each image
        at = worker.pulse
        assert (at.phase, at.size) == (Phase.COMPUTING, 2)
        worker.abandon("it hangs")
        for task in waiting:
            with pytest.raises(EngineFailed, match="it hangs"):
                await task
        assert worker.fault == "it hangs"
        with pytest.raises(ModelUnavailable):
            worker.events(request(1))
        painter.may_step.release(10)  # lets its thread end

    asyncio.run(main())


def test_images_are_made_together_if_the_painter_says_so() -> None:
    async def main() -> None:
        painter = Painter(at_once=2)
        worker = ImageWorker(painter, name="flux", max_waiting=2)
        events = await all_events(worker, 7, 8, 9)
        assert [event for event in events if isinstance(event, Finished)] == [
            *(Finished(0, 7), Finished(1, 8), Finished(2, 9))
        ]
        assert events[:2] == [ImageStep(0, 1), ImageStep(1, 1)] and painter.num_steps == 4
        worker.close()

    asyncio.run(main())


def test_requests_take_turns_image_by_image() -> None:
    async def main() -> None:
        painter = Painter(gated=True)
        worker = ImageWorker(painter, name="flux", max_waiting=3)
        many = asyncio.create_task(all_events(worker, 1, 2, 3))
        await asyncio.sleep(0.02)
        one = asyncio.create_task(all_events(worker, 9))
        await until(lambda: worker.num_waiting == 2)
        assert painter.may_step
        painter.may_step.release(100)
        await asyncio.gather(many, one)
        assert painter.painted == [1, 9, 2, 3]
        worker.close()

    asyncio.run(main())


def test_a_client_that_leaves_stops_its_image_at_the_next_step() -> None:
    async def main() -> None:
        painter = Painter(gated=True)
        worker = ImageWorker(painter, name="flux", max_waiting=2)
        assert painter.may_step
        leaving = asyncio.create_task(all_events(worker, 1, 2, 3))
        painter.may_step.release()
        await until(lambda: painter.num_steps == 1)
        leaving.cancel()
        await until(lambda: worker.num_waiting == 0)
        painter.may_step.release(100)
        assert [event.picture for event in (await all_events(worker, 5))[-1:]] == [5]
        assert painter.painted == [5]
        assert painter.num_steps <= 4
        worker.close()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("at_once", "num_steps", "expected"),
    [
        (1, 0, LeftOver(0, 0.5)),  # its first step is under way
        (1, 1, LeftOver(0, 1.0)),
        (1, 2, LeftOver(1, 0.5)),
        (2, 1, LeftOver(0, 2.0)),
        (2, 2, LeftOver(2, 0.5)),
    ],
)
def test_who_leaves_hears_what_was_painted(at_once: int, num_steps: int, expected: Any) -> None:
    """Three images of two steps each."""

    async def main() -> None:
        painter = Painter(gated=True, at_once=at_once)
        worker = ImageWorker(painter, name="flux", max_waiting=2)
        painter.may_step = threading.Semaphore(num_steps)
        told: list[LeftOver] = []
        painting = worker.events(request(1, 2, 3), told.append)
        await until(lambda: painter.num_waiting == num_steps + 1)
        await asyncio.sleep(0.01)  # events that are on their way
        await painting.aclose()
        await painting.aclose()
        assert told == [expected]
        painter.may_step.release(100)
        worker.close()

    asyncio.run(main())


def test_who_reads_all_images_or_is_failed_is_told_nothing() -> None:
    async def main() -> None:
        worker = ImageWorker(Painter(), name="flux", max_waiting=2)
        told: list[LeftOver] = []
        for seeds in ((1, 2), (1, 666)):
            with contextlib.suppress(EngineFailed):
                await all_events(worker, *seeds, left=told.append)
        assert not told
        worker.close()

    asyncio.run(main())


def test_a_full_queue_refuses_and_a_failure_ends_only_its_request(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main() -> None:
        request_id.set("id-7")
        painter = Painter(gated=True)
        worker = ImageWorker(painter, name="flux", max_waiting=2)
        assert painter.may_step
        bad = asyncio.create_task(all_events(worker, 666))
        good = asyncio.create_task(all_events(worker, 4))
        await until(lambda: worker.num_waiting == 2)
        with pytest.raises(QueueFull):
            await all_events(worker, 5)
        painter.may_step.release(100)
        with pytest.raises(EngineFailed):
            await bad
        assert (await good)[-1] == Finished(0, 4)
        worker.close()

    asyncio.run(main())
    assert [id_of(record) for record in caplog.records] == ["id-7"]


def test_a_lost_device_is_a_fault() -> None:
    class OnGpu(Painter):
        def images_at_once(self, request: ImageRequest) -> int:
            raise RuntimeError("CUDA error: device-side assert triggered")

    async def main() -> None:
        worker = ImageWorker(OnGpu(), name="flux", max_waiting=2)
        with pytest.raises(EngineFailed):
            await all_events(worker, 4)
        await until(lambda: worker.fault is not None)
        assert worker.is_device_lost
        worker.close()

    asyncio.run(main())


def test_a_request_is_queued_before_its_events_are_read_and_leaves_when_closed() -> None:
    async def main() -> None:
        painter = Painter(gated=True)
        worker = ImageWorker(painter, name="flux", max_waiting=1)
        assert painter.may_step
        first = worker.events(request(1, 2, 3))
        with pytest.raises(QueueFull):
            worker.events(request(4))
        await first.aclose()
        await first.aclose()  # a second time does nothing
        assert worker.num_waiting == 0
        painter.may_step.release(100)
        assert (await all_events(worker, 5))[-1] == Finished(0, 5)
        assert painter.painted == [5]
        worker.close()

    asyncio.run(main())


def test_closing_stops_at_the_next_step_and_fails_all_requests() -> None:
    async def main() -> None:
        painter = Painter(gated=True)
        worker = ImageWorker(painter, name="flux", max_waiting=3)
        assert painter.may_step
        tasks = [asyncio.create_task(all_events(worker, seed)) for seed in (1, 2)]
        await until(lambda: worker.num_waiting == 2)
        closing = asyncio.create_task(asyncio.to_thread(worker.close))
        await asyncio.sleep(0.02)
        painter.may_step.release(100)
        await closing
        for task in tasks:
            with pytest.raises(ModelUnavailable):
                await task
        with pytest.raises(ModelUnavailable):
            await all_events(worker, 3)
        assert painter.painted == []

    asyncio.run(main())


@pytest.mark.parametrize(
    ("num_steps", "num_previews", "expected"),
    [(4, 0, []), (4, 1, [1]), (4, 3, [0, 1, 2]), (4, 9, [0, 1, 2]), (1, 3, []), (10, 3, [1, 4, 7])],
)
def test_previews_are_spread_over_the_steps(
    num_steps: int, num_previews: int, expected: list[int]
) -> None:
    assert preview_steps(num_steps, num_previews) == expected


def test_a_dying_thread_fails_requests_and_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        painter = Painter(gated=True)
        worker = ImageWorker(painter, name="flux", max_waiting=4)
        first = asyncio.create_task(all_events(worker, 1, 2))
        await until(lambda: bool(worker._turns))

        def fail(self: ImageWorker) -> None:
            raise MemoryError("no room")

        monkeypatch.setattr(ImageWorker, "_take_arrivals", fail)
        second = asyncio.create_task(all_events(worker, 3))
        await until(lambda: worker.num_waiting == 2)
        assert painter.may_step
        painter.may_step.release(9)
        outcomes = await asyncio.gather(first, second, return_exceptions=True)
        assert all(isinstance(each, EngineFailed) for each in outcomes)
        assert worker.fault and "no room" in worker.fault
        with pytest.raises(ModelUnavailable):
            await all_events(worker, 4)
        worker.close()

    asyncio.run(main())


def test_closing_has_a_deadline() -> None:
    async def main() -> None:
        painter = Painter(gated=True)
        worker = ImageWorker(painter, name="flux", max_waiting=4)
        first = asyncio.create_task(all_events(worker, 1))
        await until(lambda: bool(worker._turns))
        await asyncio.to_thread(worker.close, 0.05)
        with pytest.raises(ModelUnavailable):
            await first
        assert painter.may_step
        painter.may_step.release(9)

    asyncio.run(main())


def test_a_command_runs_between_two_images_and_its_error_reaches_the_caller() -> None:
    async def test() -> None:
        painter = Painter(gated=True)
        worker = ImageWorker(painter, name="p", max_waiting=9)
        painted_before: list[int] = []
        painting = asyncio.create_task(all_events(worker, 1, 2))
        await until(lambda: worker.pulse.phase is Phase.COMPUTING)
        command = asyncio.create_task(
            asyncio.to_thread(worker.call, lambda: painted_before.extend(painter.painted))
        )
        assert painter.may_step
        painter.may_step.release(4)
        await asyncio.gather(painting, command)
        assert painted_before in ([1], [1, 2])
        with pytest.raises(ZeroDivisionError):
            await asyncio.to_thread(worker.call, lambda: print(1 / 0))
        await asyncio.to_thread(worker.close)
        with pytest.raises(ModelUnavailable):
            await asyncio.to_thread(worker.call, lambda: None)

    asyncio.run(test())


# Clients


def submit(worker: ImageWorker, client: str, *seeds: int) -> Painting:
    return worker.events(msgspec.structs.replace(request(*seeds), client=client))


async def finish(painting: Painting) -> None:
    async with aclosing(painting) as events:
        async for _ in events:
            pass


def test_a_full_queue_still_has_the_share_of_others() -> None:
    async def main() -> None:
        painter = Painter(gated=True)
        worker = ImageWorker(painter, name="flux", max_waiting=4)
        taken = [submit(worker, "a", at) for at in range(4)]
        with pytest.raises(QueueFull, match=r"4 requests .*, all with this API key"):
            submit(worker, "a", 4)
        taken += [submit(worker, "b", at) for at in range(2)]
        with pytest.raises(QueueFull, match=r"6 requests .*, 2 of them with this API key"):
            submit(worker, "b", 2)
        for painting in taken:
            await painting.aclose()
        submit(worker, "a", 1)
        assert painter.may_step
        painter.may_step.release(100)
        worker.close()

    asyncio.run(main())


def test_clients_take_turns_and_each_ones_requests_come_in_order() -> None:
    async def main() -> None:
        painter = Painter(gated=True)
        worker = ImageWorker(painter, name="flux", max_waiting=50)
        wanted = [submit(worker, "a", at) for at in range(6)]
        await until(lambda: worker.pulse.num > 0)  # the first one is under way
        wanted += [submit(worker, "b", 10 + at) for at in range(2)]
        wanted += [submit(worker, "c", 20, 21)]
        assert painter.may_step
        painter.may_step.release(1000)
        await asyncio.gather(*map(finish, wanted))
        painted = painter.painted
        for own in ([0, 1, 2, 3, 4, 5], [10, 11], [20, 21]):
            assert [seed for seed in painted if seed in own] == own
        assert painted.index(11) <= 6 and painted.index(21) <= 7
        worker.close()

    asyncio.run(main())
