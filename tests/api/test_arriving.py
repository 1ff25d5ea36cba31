"""A burst of requests starts a few at a time in each turn of the event loop."""

import asyncio

from asgi import scope_of
from starlette.types import Message, Receive, Scope, Send

from localinfra.api.http.arriving import MAX_STARTS, Arriving, Starts


def test_each_turn_starts_at_most_so_many_in_order() -> None:
    async def test() -> list[tuple[int, int]]:
        starts, turn, begun = Starts(3), 0, list[tuple[int, int]]()

        async def one(number: int) -> None:
            await starts.take()
            begun.append((turn, number))

        tasks = [asyncio.create_task(one(number)) for number in range(20)]
        while len(begun) < 20:
            await asyncio.sleep(0)
            turn += 1
        await asyncio.gather(*tasks)
        return begun

    begun = asyncio.run(test())
    assert [number for _, number in begun] == list(range(20))
    turns = [turn for turn, _ in begun]
    assert max(turns.count(turn) for turn in turns) == 3 and len(set(turns)) == 7


def test_a_request_cancelled_while_waiting_takes_no_start() -> None:
    async def test() -> None:
        starts = Starts(1)
        tasks = [asyncio.create_task(starts.take()) for _ in range(5)]
        await asyncio.sleep(0)
        for task in tasks[1:4]:
            task.cancel()
        for _ in range(4):
            await asyncio.sleep(0)
        assert tasks[4].done() and not tasks[4].cancelled()
        await asyncio.wait_for(starts.take(), 60)

    asyncio.run(test())


def test_health_does_not_wait_for_a_burst() -> None:
    async def test() -> None:
        begun: list[str] = []

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            begun.append(scope["path"])

        async def receive() -> Message:
            raise AssertionError

        async def send(_: Message) -> None:
            raise AssertionError

        arriving = Arriving(app)
        burst = [arriving(scope_of(path="/v1/models"), receive, send) for _ in range(400)]
        health = arriving(scope_of(path="/health"), receive, send)
        await asyncio.gather(*burst, health)
        assert begun.index("/health") <= MAX_STARTS and len(begun) == 401

    asyncio.run(test())
