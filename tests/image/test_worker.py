"""The worker over a painter whose pictures are their seeds: turns, cancelling, failing, closing."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from localinfra.errors import EngineFailed, ModelUnavailable, QueueFull
from localinfra.image.pipeline import Placement, PlacementWishes, decide, preview_steps
from localinfra.image.request import Event, Finished, ImageRequest, Step
from localinfra.image.worker import Worker

GIB = 2**30


class Painter:
    """Paints its seeds. A step of it needs one release of `may_step`, if there is a gate."""

    def __init__(self, gated: bool = False) -> None:
        self.may_step = threading.Semaphore(0) if gated else None
        self.painted: list[int] = []
        self.num_steps = 0

    def paint(self, request: ImageRequest, image: int, tell: Callable[[Event], None]) -> int:
        for number in range(request.num_steps):
            if self.may_step:
                assert self.may_step.acquire(timeout=10)
            self.num_steps += 1
            tell(Step(image, number + 1))
        if request.seeds[image] == 666:
            raise ValueError("666")
        self.painted.append(request.seeds[image])
        return request.seeds[image]

    def close(self) -> None:
        pass


def request(*seeds: int) -> ImageRequest:
    return ImageRequest("", 64, 64, 2, 0.0, seeds)


async def all_events(worker: Worker, *seeds: int) -> list[Any]:
    return [event async for event in worker.events(request(*seeds))]


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.001)


def test_each_image_has_its_steps_and_its_picture() -> None:
    async def main() -> None:
        worker = Worker(Painter(), name="flux", max_waiting=2)
        assert await all_events(worker, 7, 8) == [
            *(Step(0, 1), Step(0, 2), Finished(0, 7)),
            *(Step(1, 1), Step(1, 2), Finished(1, 8)),
        ]
        worker.close()

    asyncio.run(main())


def test_requests_take_turns_image_by_image() -> None:
    async def main() -> None:
        painter = Painter(gated=True)
        worker = Worker(painter, name="flux", max_waiting=3)
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
        worker = Worker(painter, name="flux", max_waiting=2)
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


def test_a_full_queue_refuses_and_a_failure_ends_one_request() -> None:
    async def main() -> None:
        painter = Painter(gated=True)
        worker = Worker(painter, name="flux", max_waiting=2)
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


def test_closing_stops_at_the_next_step_and_tells_everybody() -> None:
    async def main() -> None:
        painter = Painter(gated=True)
        worker = Worker(painter, name="flux", max_waiting=3)
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


FULL = {"transformer": 24 * GIB, "text_encoder_2": 10 * GIB}
SMALL = {"transformer": 7 * GIB, "text_encoder_2": 10 * GIB}


@pytest.mark.parametrize(
    ("parts", "free", "expected"),
    [
        (FULL, {"cuda": 80 * GIB, "cpu": 0}, Placement("cuda", "bfloat16", "none", False)),
        (FULL, {"cuda": 33 * GIB, "cpu": 0}, Placement("cuda", "bfloat16", "model", False)),
        (SMALL, {"cuda": 16 * GIB, "cpu": 0}, Placement("cuda", "bfloat16", "model", False)),
        (SMALL, {"cuda": 7 * GIB, "cpu": 0}, Placement("cuda", "bfloat16", "group", True)),
        (SMALL, {"mps": 48 * GIB, "cpu": 0}, Placement("mps", "bfloat16", "none", False)),
        (SMALL, {"cpu": 0}, Placement("cpu", "float32", "none", False)),
    ],
)
def test_placement_follows_the_free_memory(
    parts: dict[str, int], free: dict[str, int], expected: Placement
) -> None:
    assert decide(PlacementWishes(), parts, free) == expected


def test_models_toml_overrides_the_placement() -> None:
    wishes = PlacementWishes("cpu", "bfloat16", "group", True)
    assert decide(wishes, FULL, {"cuda": 80 * GIB, "cpu": 0}) == Placement(
        "cpu", "bfloat16", "group", True
    )
