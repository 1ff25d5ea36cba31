"""Answers without a client: their room, their time, and their end at any moment."""

import asyncio
import contextlib
import gc
import weakref

import msgspec
import pytest
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope
from streams import Events, Source, yielding
from waiting import run, until

from localinfra.api.http.background import OWN_BYTES, BackgroundAnswer, BackgroundAnswers, Respond
from localinfra.api.http.sse import EventStream
from localinfra.api.http.state import RequestState
from localinfra.config.settings import ServerSettings
from localinfra.errors import InvalidRequest

SETTINGS = ServerSettings(max_answer_event_bytes=16_000, max_event_bytes=40_000)


def backgrounds(settings: ServerSettings = SETTINGS) -> BackgroundAnswers:
    found = BackgroundAnswers(lambda app: app)
    found.apply(settings)
    return found


def scope(caller: str = "") -> Scope:
    found: Scope = {"type": "http", "method": "POST", "path": "/", "headers": []}
    RequestState.of(found).caller = caller
    return found


def sending(num_bytes: int, gate: asyncio.Event | None = None) -> Respond:
    """A stream of events of 100 bytes each, which ends when the gate opens."""

    async def respond(_: Request) -> Response:
        async def events() -> Events:
            for _ in range(num_bytes // 100):
                yield b"x" * 92
            if gate is not None:
                await gate.wait()

        return EventStream(events())

    return respond


async def until_sent(background: BackgroundAnswer, num_events: int) -> None:
    log = background.log
    await until(lambda: log.first + log.num_bytes // 100 >= num_events)


async def until_ended(background: BackgroundAnswer) -> None:
    await until(lambda: not background.is_running)


def test_events_stay_within_the_limits_whatever_runs() -> None:
    async def test() -> None:
        kept, gate = backgrounds(), asyncio.Event()
        first = kept.start("first", scope(), sending(8_000))
        await until_ended(first)
        running = [kept.start(f"{at}", scope(), sending(15_000, gate)) for at in range(5)]
        for one in running:
            await until_sent(one, 150)
            num_bytes = sum(OWN_BYTES + one.log.num_bytes for one in running)
            assert num_bytes <= 40_000
        assert kept.find("first", "") is None  # an ended one goes first
        assert all(kept.find(one.id, "") is one for one in running)  # a running one never
        long = kept.start("long", scope(), sending(100_000, gate))
        await until_sent(long, 1000)
        assert long.log.num_bytes <= 16_000 and long.log.first > 0
        gate.set()
        await kept.close()

    run(test)


def test_who_has_many_pushes_out_no_events_of_others() -> None:
    async def test() -> None:
        kept, gate = backgrounds(), asyncio.Event()
        ended = kept.start("ended", scope("other"), sending(4_000))
        await until_ended(ended)
        running = kept.start("running", scope("other"), sending(4_000, gate))
        await until_sent(running, 40)
        for at in range(5):
            await until_ended(kept.start(f"{at}", scope("greedy"), sending(8_000)))
        assert [at for at in range(5) if kept.find(f"{at}", "greedy")] == [4]
        long = kept.start("long", scope("greedy"), sending(15_000, gate))
        await until_sent(long, 150)
        assert kept.find("ended", "other") is ended and ended.log.first == running.log.first == 0
        gate.set()
        await kept.close()

    run(test)


@pytest.mark.parametrize("num_turns", range(12))  # of the event loop, before that
def test_an_answer_can_be_cancelled_at_any_moment(num_turns: int) -> None:
    async def test() -> None:
        kept, source = backgrounds(), Source()

        async def respond(_: Request) -> Response:
            await asyncio.sleep(0)
            return EventStream(source.events())

        background = kept.start("a", scope(), respond)
        for _ in range(num_turns):
            await asyncio.sleep(0)
        await background.cancel()
        assert not background.is_running and source.closed == source.started
        last = [piece async for piece in background.log.follow(background.log.first)][-1]
        assert b"request_cancelled" in last
        await background.cancel()

    run(test)


@pytest.mark.parametrize("fails", [True, False])
def test_what_has_ended_keeps_neither_head_nor_body(fails: bool) -> None:
    class Held:
        pass

    async def test() -> None:
        kept, body, head = backgrounds(), Held(), Held()
        held = [weakref.ref(body), weakref.ref(head)]

        async def respond(_: Request, body: object = body) -> Response:
            if fails:
                raise InvalidRequest("no")
            return EventStream(yielding(b"1"))

        async def ask(body: object) -> None:
            with contextlib.suppress(InvalidRequest):
                await kept.find("a", "").begun()  # type: ignore[union-attr]

        background = kept.start("a", {**scope(), "extensions": {"of": head}}, respond)
        del respond, head
        await ask(body)
        await ask(body)
        await until_ended(background)
        del body
        gc.collect()
        assert kept.find("a", "") is background
        assert [ref() for ref in held] == [None, None]

    run(test)


def test_events_are_kept_for_a_while_after_the_end() -> None:
    async def test() -> None:
        kept = backgrounds()
        background = kept.start("a", scope(), respond)
        await until_ended(background)
        assert kept.find("a", "") is background and kept.find("a", "another") is None
        kept.apply(msgspec.structs.replace(SETTINGS, events_kept_s=0.001))
        await asyncio.sleep(0.01)
        assert kept.find("a", "") is None

    async def respond(_: Request) -> Response:
        return EventStream(yielding(b"1", b"2"))

    run(test)
