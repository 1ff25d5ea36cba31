"""Work on the event loop in steps: whose turn it is, and what is left of work that is given up."""

import asyncio
import gc
import weakref
from collections.abc import Coroutine
from typing import Any

import pytest

from localinfra import executor
from localinfra.executor import SHORT_TURNS, in_turns
from localinfra.steps import Steps

LONG = 4 * SHORT_TURNS  # steps


@pytest.fixture(autouse=True)
def steps_are_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executor, "TURN_S", -1.0)


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 60))


class Works:
    """Notes which work makes a step in which turn of the loop."""

    def __init__(self) -> None:
        self.steps: list[tuple[str, int]] = []
        self.ended: list[str] = []
        self._turn = 0

    def work(self, name: str, num_steps: int) -> Steps[str]:
        try:
            for _ in range(num_steps):
                self.steps.append((name, self._turn))
                yield
            return name
        finally:
            self.ended.append(name)

    async def count_turns(self) -> None:
        while True:
            self._turn += 1
            await asyncio.sleep(0)

    def start(self, name: str, num_steps: int) -> "asyncio.Task[str]":
        return asyncio.create_task(in_turns(self.work(name, num_steps)))


def test_one_works_in_a_turn_of_the_loop_however_many_there_are() -> None:
    async def test() -> None:
        works = Works()
        counting = asyncio.create_task(works.count_turns())
        assert await asyncio.gather(*(works.start(name, LONG) for name in "abcd")) == list("abcd")
        counting.cancel()
        begun = {name: works.steps.index((name, turn)) for name, turn in reversed(works.steps)}
        later = [turn for at, (name, turn) in enumerate(works.steps) if at != begun[name]]
        assert len(later) == 4 * (LONG - 1) and len(set(later)) == len(later)

    run(test())


def test_long_works_go_one_after_the_other_and_short_ones_pass() -> None:
    async def test() -> None:
        works = Works()
        await asyncio.gather(
            *(works.start(name, LONG) for name in "ab"), works.start("short", SHORT_TURNS)
        )
        assert works.ended == ["short", "a", "b"]
        names = [name for name, _ in works.steps]
        assert names[: -names[::-1].index("a")].count("b") == SHORT_TURNS + 1

    run(test())


def test_who_gives_up_stands_in_nobody_s_way() -> None:
    async def test() -> None:
        works = Works()
        tasks = {name: works.start(name, LONG) for name in "abcd"}
        for victim, after in (("b", "c"), ("a", "a")):  # one that waits, one that works
            while sum(name == after for name, _ in works.steps) <= SHORT_TURNS:
                await asyncio.sleep(0)
            tasks.pop(victim).cancel()
        assert await asyncio.gather(*tasks.values()) == ["c", "d"]
        assert sorted(works.ended) == list("abcd")  # also those that were given up

    run(test())


@pytest.mark.parametrize("num_steps", [0, 2, LONG])
def test_a_result_lives_no_longer_than_its_users(num_steps: int) -> None:
    """It may have megabytes. To free them in a collection would stop whatever thread begins one."""

    class Body:
        pass

    def decoding() -> Steps[Body]:
        for _ in range(num_steps):
            yield
        return Body()

    async def user() -> "weakref.ref[Body]":
        return weakref.ref(await in_turns(decoding()))

    async def test() -> None:
        assert (await user())() is None

    gc.disable()
    try:
        run(test())
    finally:
        gc.enable()


def test_an_error_ends_its_own_work_alone() -> None:
    def failing() -> Steps[str]:
        for _ in range(LONG):
            yield
        raise ValueError("broken")

    async def test() -> None:
        works = Works()
        failed, other = asyncio.create_task(in_turns(failing())), works.start("a", LONG)
        with pytest.raises(ValueError, match="broken"):
            await failed
        assert await other == "a"

    run(test())
