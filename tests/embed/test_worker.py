"""The worker over a fake encoder whose rows show its input and batch size."""

import asyncio
import threading
from collections.abc import Sequence

import numpy as np
import pytest
from waiting import until

from localinfra.embed.batcher import Batcher
from localinfra.embed.encoder import Rows, Tokens
from localinfra.embed.worker import EmbedWorker
from localinfra.errors import EngineFailed, ModelUnavailable, QueueFull
from localinfra.logs import id_of, request_id
from localinfra.watchdog import Phase


class Echo:
    """A row is the text's first id and the size of its batch. Blocks while `gate` is closed."""

    name, width, batch_tokens, num_lanes = "echo", 2, 100, 1

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.batches: list[int] = []
        self.num_begun = 0
        self.is_closed = False

    def encode(self, batch: Sequence[Tokens], *, is_alone: bool) -> Rows:
        self.num_begun += 1
        self.gate.wait(600)
        self.batches.append(len(batch))
        if any(tokens.ids[0] == 666 for tokens in batch):
            raise ValueError("666")
        return np.array([[tokens.ids[0], len(batch)] for tokens in batch], np.float32)

    def close(self) -> None:
        self.is_closed = True


def texts(*ids: int) -> list[Tokens]:
    return [Tokens([each] * 10) for each in ids]


async def under_way(worker: EmbedWorker, *ids: int) -> "asyncio.Task[Rows]":
    """Starts a request and waits until its batch is being computed."""
    encoder = worker._encoder
    assert isinstance(encoder, Echo)
    num_begun = encoder.num_begun
    task = asyncio.create_task(worker.rows(texts(*ids)))
    while encoder.num_begun == num_begun:
        await asyncio.sleep(0.001)
    return task


def test_who_leaves_hears_what_was_or_is_being_computed() -> None:
    async def main() -> None:
        encoder = Echo()
        worker = EmbedWorker(encoder, name="echo", max_waiting=4)
        told: list[int] = []

        async def left(num_begun: int) -> None:  # of three batches
            many = asyncio.create_task(worker.rows(texts(*range(1, 31)), left=told.append))
            await asyncio.sleep(0)
            await until(lambda: encoder.num_begun == num_begun)
            many.cancel()
            await asyncio.wait([many])

        encoder.gate.clear()
        first = await under_way(worker, 0)
        await left(num_begun=1)
        encoder.gate.set()
        await first
        encoder.gate.clear()
        await left(num_begun=2)
        encoder.gate.set()
        await worker.rows(texts(0))
        assert encoder.batches == [1, 10, 1] and told == [0, 100]
        worker.close()

    asyncio.run(main())


def test_rows_come_back_in_the_order_of_the_texts() -> None:
    async def main() -> None:
        worker = EmbedWorker(Echo(), name="echo", max_waiting=4)
        many = [Tokens([index] * (1 + index % 17)) for index in range(200)]
        rows = await worker.rows(many)
        assert rows[:, 0].tolist() == list(range(200))
        worker.close()

    asyncio.run(main())


def test_waiting_requests_are_computed_in_one_batch() -> None:
    async def main() -> None:
        encoder = Echo()
        worker = EmbedWorker(encoder, name="echo", max_waiting=20)
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


def test_each_lane_computes_a_batch_and_a_single_one_is_alone() -> None:
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
        worker = EmbedWorker(encoder, name="echo", max_waiting=4)
        rows = await worker.rows(texts(*range(30)))  # three batches
        assert rows[:, 0].tolist() == list(range(30))
        assert encoder.alone == [False] * 3
        await worker.rows(texts(1))
        assert encoder.alone[3:] == [True]
        worker.close()

    asyncio.run(main())


def test_a_failed_batch_fails_only_its_requests(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        worker = EmbedWorker(Echo(), name="echo", max_waiting=4)
        request_id.set("id-7")
        with pytest.raises(EngineFailed):
            await worker.rows(texts(666))
        assert (await worker.rows(texts(5)))[0, 0] == 5
        worker.close()

    asyncio.run(main())
    assert [id_of(record) for record in caplog.records] == ["id-7"]


class Panic(BaseException):
    """Like a panic of a Rust library."""


@pytest.mark.parametrize("error", [RuntimeError, MemoryError, Panic])
def test_the_next_request_works_after_any_exception(error: type[BaseException]) -> None:
    class Failing(Echo):
        def encode(self, batch: Sequence[Tokens], *, is_alone: bool) -> Rows:
            if not self.batches:
                self.batches.append(0)
                raise error
            return super().encode(batch, is_alone=is_alone)

    async def main() -> None:
        worker = EmbedWorker(Failing(), name="echo", max_waiting=4)
        with pytest.raises(EngineFailed):
            await worker.rows(texts(5))
        assert (await worker.rows(texts(5)))[0, 0] == 5 and worker.fault is None
        worker.close()

    asyncio.run(main())


def test_a_lost_device_is_a_fault_and_lack_of_memory_is_none() -> None:
    class OnGpu(Echo):
        words = "CUDA error: out of memory"

        def encode(self, batch: Sequence[Tokens], *, is_alone: bool) -> Rows:
            raise RuntimeError(self.words)

    async def main() -> None:
        encoder = OnGpu()
        worker = EmbedWorker(encoder, name="echo", max_waiting=4)
        with pytest.raises(EngineFailed):
            await worker.rows(texts(5))
        assert worker.fault is None
        encoder.words = "CUDA error: an illegal memory access was encountered"
        with pytest.raises(EngineFailed):
            await worker.rows(texts(5))
        await until(lambda: worker.fault is not None)
        assert worker.is_device_lost
        worker.close()

    asyncio.run(main())


def test_a_thread_that_dies_fails_all_requests_and_is_a_fault(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(batcher: Batcher) -> None:
        raise MemoryError("no room")

    async def main() -> None:
        encoder = Echo()
        encoder.gate.clear()
        worker = EmbedWorker(encoder, name="echo", max_waiting=4)
        first = await under_way(worker, 0)
        monkeypatch.setattr(Batcher, "next", fail)
        others = [asyncio.create_task(worker.rows(texts(at))) for at in (1, 2)]
        await until(lambda: worker.num_waiting == 3)
        encoder.gate.set()
        outcomes = await asyncio.gather(first, *others, return_exceptions=True)
        assert all(isinstance(each, EngineFailed) for each in outcomes[1:])
        assert worker.fault and "no room" in worker.fault
        with pytest.raises(ModelUnavailable, match="loaded anew"):
            await worker.rows(texts(3))
        worker.close()
        assert encoder.is_closed

    asyncio.run(main())


@pytest.mark.parametrize("method", ["add", "drop", "next"])
def test_no_request_hangs_after_an_error_in_the_batcher(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("scripted")

    async def main() -> None:
        worker = EmbedWorker(Echo(), name="echo", max_waiting=9)
        monkeypatch.setattr(Batcher, method, fail)
        asked = [asyncio.create_task(worker.rows(texts(at))) for at in range(4)]
        await asyncio.sleep(0)
        asked[0].cancel()  # also a command
        outcomes = await asyncio.gather(*asked, return_exceptions=True)
        assert all(isinstance(each, BaseException) for each in outcomes) or method == "drop"
        worker.close()

    asyncio.run(main())


def test_a_thread_that_ended_silently_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EmbedWorker, "_run", lambda self: None)
    worker = EmbedWorker(Echo(), name="echo", max_waiting=4)
    for thread in worker._threads:
        thread.join()
    assert worker.fault == "a thread that computes has ended"
    worker.close()
    assert worker.fault is None


def test_another_encoder_takes_over_between_two_batches() -> None:
    class Better(Echo):
        name, num_lanes, batch_tokens = "better", 3, 50

    async def main() -> None:
        old, new = Echo(), Better()
        worker = EmbedWorker(old, name="echo", max_waiting=50)
        old.gate.clear()
        old_batch = await under_way(worker, 1, 2)
        await until(lambda: old.num_begun == 1)
        worker.replace(new)
        after = await asyncio.gather(*(worker.rows(texts(at)) for at in range(20)))
        assert [int(rows[0, 0]) for rows in after] == list(range(20))
        assert sum(new.batches) == 20 and max(new.batches) <= 5  # batches of its own size
        assert not old.is_closed and not new.is_closed
        old.gate.set()
        assert (await old_batch)[:, 0].tolist() == [1, 2]
        await until(lambda: old.is_closed)
        assert old.batches == [2]
        worker.close()
        assert new.is_closed

    asyncio.run(main())


def test_an_idle_encoder_is_closed_at_once_as_is_one_that_comes_after_closing() -> None:
    async def main() -> None:
        first, second, third = Echo(), Echo(), Echo()
        worker = EmbedWorker(first, name="echo", max_waiting=4)
        worker.replace(second)
        assert first.is_closed
        worker.close()
        worker.replace(third)
        assert second.is_closed and third.is_closed

    asyncio.run(main())


def test_closing_has_a_deadline() -> None:
    async def main() -> None:
        encoder = Echo()
        encoder.gate.clear()
        worker = EmbedWorker(encoder, name="echo", max_waiting=4)
        first = await under_way(worker, 0)
        await asyncio.to_thread(worker.close, 0.05)
        with pytest.raises(ModelUnavailable):
            await first
        assert not encoder.is_closed  # its thread still computes
        encoder.gate.set()

    asyncio.run(main())


def test_a_client_that_leaves_frees_its_place_in_the_queue() -> None:
    async def main() -> None:
        encoder = Echo()
        worker = EmbedWorker(encoder, name="echo", max_waiting=3)
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


def test_a_hang_stops_the_pulse_and_abandoning_fails_all_requests() -> None:
    async def main() -> None:
        encoder = Echo()
        worker = EmbedWorker(encoder, name="echo", max_waiting=4)
        await worker.rows(texts(0))
        await until(lambda: worker.pulse.phase is Phase.IDLE)
        encoder.gate.clear()
        waiting = [await under_way(worker, 1), asyncio.create_task(worker.rows(texts(2)))]
        await until(lambda: worker.num_waiting == 2)
        assert worker.pulse.phase is Phase.COMPUTING
        worker.abandon("it hangs")
        for task in waiting:
            with pytest.raises(EngineFailed, match="it hangs"):
                await task
        assert worker.fault == "it hangs"
        with pytest.raises(ModelUnavailable):
            await worker.rows(texts(3))
        encoder.gate.set()
        worker.close()

    asyncio.run(main())


def test_closing_fails_waiting_requests() -> None:
    async def main() -> None:
        encoder = Echo()
        worker = EmbedWorker(encoder, name="echo", max_waiting=4)
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


def test_a_full_queue_still_has_the_share_of_others() -> None:
    async def main() -> None:
        encoder = Echo()
        worker = EmbedWorker(encoder, name="echo", max_waiting=4)
        encoder.gate.clear()
        waiting = [asyncio.create_task(worker.rows(texts(at), "a")) for at in range(4)]
        await until(lambda: worker.num_waiting == 4)
        with pytest.raises(QueueFull, match="all with this API key"):
            await worker.rows(texts(4), "a")
        waiting += [asyncio.create_task(worker.rows(texts(at), "b")) for at in range(2)]
        await until(lambda: worker.num_waiting == 6)
        with pytest.raises(QueueFull, match="2 of them with this API key"):
            await worker.rows(texts(2), "b")
        encoder.gate.set()
        await asyncio.gather(*waiting)
        assert worker.num_waiting == 0
        worker.close()

    asyncio.run(main())
