"""The worker's thread over an encoder whose rows tell what it was given, and how."""

import asyncio
import threading
from collections.abc import Sequence

import numpy as np
import pytest

from localinfra.embed.encoder import Rows, Tokens
from localinfra.embed.worker import Worker
from localinfra.errors import EngineFailed, ModelUnavailable, QueueFull


class Echo:
    """A row is the text's first id and the size of its batch. Waits for `gate`, if closed."""

    name, width, batch_tokens, num_lanes = "echo", 2, 100, 1

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.batches: list[int] = []
        self.is_closed = False

    def encode(self, batch: Sequence[Tokens], *, is_alone: bool) -> Rows:
        self.gate.wait(10)
        self.batches.append(len(batch))
        if any(tokens.ids[0] == 666 for tokens in batch):
            raise ValueError("666")
        return np.array([[tokens.ids[0], len(batch)] for tokens in batch], np.float32)

    def close(self) -> None:
        self.is_closed = True


def texts(*ids: int) -> list[Tokens]:
    return [Tokens([each] * 10) for each in ids]


async def until(condition) -> None:  # type: ignore[no-untyped-def]
    while not condition():
        await asyncio.sleep(0.001)


def test_rows_come_back_in_the_order_of_the_texts() -> None:
    async def main() -> None:
        worker = Worker(Echo(), name="echo", max_waiting=4)
        many = [Tokens([index] * (1 + index % 17)) for index in range(200)]
        rows = await worker.rows(many)
        assert rows[:, 0].tolist() == list(range(200))
        worker.close()

    asyncio.run(main())


def test_requests_that_wait_together_are_computed_together() -> None:
    async def main() -> None:
        encoder = Echo()
        worker = Worker(encoder, name="echo", max_waiting=20)
        encoder.gate.clear()
        first = asyncio.create_task(worker.rows(texts(0)))
        await asyncio.sleep(0.05)
        others = [asyncio.create_task(worker.rows(texts(at))) for at in range(1, 9)]
        await until(lambda: worker.num_waiting == 9)
        await asyncio.sleep(0.02)
        encoder.gate.set()
        await first
        found = [await other for other in others]
        assert [row[0].tolist() for row in found] == [[at, 8] for at in range(1, 9)]
        assert encoder.batches == [1, 8]
        worker.close()
        assert encoder.is_closed

    asyncio.run(main())


def test_each_lane_computes_a_batch_and_a_lone_one_is_told_so() -> None:
    class Lanes(Echo):
        num_lanes = 3

        def __init__(self) -> None:
            super().__init__()
            self.meeting = threading.Barrier(3)
            self.alone: list[bool] = []

        def encode(self, batch: Sequence[Tokens], *, is_alone: bool) -> Rows:
            self.alone.append(is_alone)
            if not is_alone:
                self.meeting.wait(10)  # until all three are here
            return super().encode(batch, is_alone=is_alone)

    async def main() -> None:
        encoder = Lanes()
        worker = Worker(encoder, name="echo", max_waiting=4)
        rows = await worker.rows(texts(*range(30)))  # three batches
        assert rows[:, 0].tolist() == list(range(30))
        assert encoder.alone == [False] * 3
        await worker.rows(texts(1))
        assert encoder.alone[3:] == [True]
        worker.close()

    asyncio.run(main())


def test_a_batch_that_fails_fails_its_requests_alone() -> None:
    async def main() -> None:
        worker = Worker(Echo(), name="echo", max_waiting=4)
        with pytest.raises(EngineFailed):
            await worker.rows(texts(666))
        assert (await worker.rows(texts(5)))[0, 0] == 5
        worker.close()

    asyncio.run(main())


def test_a_client_that_leaves_frees_its_place() -> None:
    async def main() -> None:
        encoder = Echo()
        worker = Worker(encoder, name="echo", max_waiting=3)
        encoder.gate.clear()
        first = asyncio.create_task(worker.rows(texts(0)))
        await asyncio.sleep(0.05)
        left = asyncio.create_task(worker.rows(texts(*range(1, 100))))
        stays = asyncio.create_task(worker.rows(texts(7)))
        await until(lambda: worker.num_waiting == 3)
        with pytest.raises(QueueFull):
            await worker.rows(texts(8))
        left.cancel()
        await until(lambda: worker.num_waiting == 2)
        encoder.gate.set()
        await first
        assert (await stays)[0].tolist() == [7, 1]
        assert sum(encoder.batches) == 2
        worker.close()

    asyncio.run(main())


def test_whoever_waits_when_it_closes_is_told() -> None:
    async def main() -> None:
        encoder = Echo()
        worker = Worker(encoder, name="echo", max_waiting=4)
        encoder.gate.clear()
        first = asyncio.create_task(worker.rows(texts(0)))
        await asyncio.sleep(0.05)
        second = asyncio.create_task(worker.rows(texts(1)))
        await until(lambda: worker.num_waiting == 2)
        closing = asyncio.create_task(asyncio.to_thread(worker.close))
        await asyncio.sleep(0.02)
        encoder.gate.set()
        await closing
        await first
        with pytest.raises(ModelUnavailable):
            await second
        with pytest.raises(ModelUnavailable):
            await worker.rows(texts(2))

    asyncio.run(main())
