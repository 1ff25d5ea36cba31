"""Prefixes outlive their engine, on a shelf in memory or with files, and are read while others go
on; over a scripted model."""

import asyncio
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
from fakes import FakeBackend, collect, reference, run, settle, tokens
from hypothesis import given, settings
from hypothesis import strategies as st

from localinfra.engine import keeping
from localinfra.engine.engine import Engine
from localinfra.engine.offloaded import Done, OffloadedCells
from localinfra.engine.request import (
    EngineSettings,
    GenerationParams,
    GenerationRequest,
    SamplingParams,
)
from localinfra.prefixes.shelves import ModelShelf, Shelves

MIB = 1 << 20
CONTEXT = 1500
SEEDED = GenerationParams(SamplingParams(is_reproducible=True))
LONG = [i % 49 for i in range(1100)]


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short conversations are written too, and as soon as they end."""
    monkeypatch.setattr(keeping, "REST_S", 0.0)
    monkeypatch.setattr(keeping, "WORTH_WRITING", 20)


class Server:
    """Shelves, and one engine after the other with the same model."""

    def __init__(self, root: Path, disk_bytes: int = 0, **options: Any):
        self.shelves = Shelves(root, disk_bytes)
        self.shelf = self.shelves.shelf("m", ["one model"])
        self.options = {"num_cells": 2000, "context_length": CONTEXT, "batch_size": 512, **options}

    def engine(self, max_offloaded: int = MIB, shelf: ModelShelf | None = None) -> Engine:
        limits = EngineSettings(max_offloaded=max_offloaded)
        return Engine(FakeBackend(**self.options), limits, shelf=shelf or self.shelf)

    def request(self, prompt: list[int], max_tokens: int = 3, key: str = "a") -> GenerationRequest:
        return GenerationRequest(prompt, max_tokens, cache_salt=self.shelves.salt(key))

    async def ask(self, engine: Engine, prompt: list[int], key: str = "a") -> int:
        """Checks the answer; returns how many tokens were cached."""
        [events] = await collect(engine, self.request(prompt, key=key))
        assert tokens(events) == reference(prompt, 3, CONTEXT)
        return events[0].num_cached

    async def written(self, engine: Engine) -> None:
        """Until the conversations so far are in files."""
        await settle(engine)
        keeping = engine._scheduler.keeping
        while keeping._finished or keeping._resting:
            await asyncio.sleep(0.001)
        is_written = asyncio.Event()
        loop = asyncio.get_running_loop()
        self.shelves.writer.run(lambda: loop.call_soon_threadsafe(is_written.set))
        await is_written.wait()


def entries(root: Path) -> list[Path]:
    return sorted(root.glob(f"{'?' * 32}/{'?' * 32}"))


async def close(engine: Engine) -> None:
    await asyncio.to_thread(engine.close)


def restarted(server: Server, root: Path, disk_bytes: int = 64 * MIB, **options: Any) -> Server:
    """The next server of these files."""
    return Server(root, disk_bytes, **{**server.options, **options})


def test_the_next_engine_has_the_prefixes_of_the_last_one(tmp_path: Path) -> None:
    server = Server(tmp_path)

    async def test() -> None:
        first = server.engine()
        assert await server.ask(first, LONG) == 0
        await close(first)
        assert server.shelf.num_bytes == 12 * (len(LONG) + 2)  # the answer's last token has no cell
        second = server.engine()
        assert await server.ask(second, [*LONG, 7, 7]) == len(LONG)
        assert await server.ask(second, LONG, key="b") == 0
        await close(second)

    run(test)


def test_running_requests_leave_what_they_have_computed(tmp_path: Path) -> None:
    server = Server(tmp_path)

    async def test() -> None:
        first = server.engine()
        async with first.generate([server.request(LONG, 400)]) as generation:
            async for _ in generation:
                break
            await close(first)
        second = server.engine()
        assert await server.ask(second, [*LONG, 7, 7]) == len(LONG)
        await close(second)

    run(test)


def test_the_most_useful_prefixes_stay_within_the_memory_for_them(tmp_path: Path) -> None:
    server = Server(tmp_path, num_cells=1300)

    async def test() -> None:
        first = server.engine(max_offloaded=12 * 700)
        prompts = [[i, *LONG[:300]] for i in range(4)]
        for prompt in prompts:
            await server.ask(first, prompt)
        await close(first)
        assert 0 < server.shelf.num_bytes <= 12 * 700
        second = server.engine(max_offloaded=12 * 700)
        assert await server.ask(second, prompts[3]) == 300
        assert await server.ask(second, prompts[0]) == 0
        await close(second)

    run(test)


def test_a_shelf_of_another_identity_has_nothing(tmp_path: Path) -> None:
    server = Server(tmp_path)

    async def test() -> None:
        first = server.engine()
        await server.ask(first, LONG)
        await close(first)
        second = server.engine(shelf=server.shelves.shelf("m", ["its file was replaced"]))
        assert await server.ask(second, LONG) == 0
        await close(second)

    run(test)


def test_a_killed_server_loses_only_what_did_not_rest(tmp_path: Path) -> None:
    server = Server(tmp_path, 64 * MIB)

    async def test() -> None:
        first = server.engine()
        await server.ask(first, LONG)
        await server.written(first)
        await server.ask(first, [*LONG, 5, *LONG[:40]])
        await server.written(first)
        files = [(path.name, path.stat().st_ino) for path in entries(tmp_path)]
        next_server = restarted(server, tmp_path)
        second = next_server.engine()
        assert await next_server.ask(second, [*LONG, 5, *LONG[:40], 9, 9]) == len(LONG) + 41
        assert await next_server.ask(second, [*LONG, 5], key="b") == 0
        # Another branch appends its own part; what was there is not written again.
        await next_server.ask(second, [*LONG[:600], *[3] * 200])
        await next_server.written(second)
        now = [(path.name, path.stat().st_ino) for path in entries(tmp_path)]
        assert set(files) < set(now)
        await close(second)
        await close(first)

    run(test)


class SlowReads(ModelShelf):
    """Reads when it is told to."""

    def __init__(self, shelf: ModelShelf):
        self.__dict__.update(shelf.__dict__)
        self.asked: list[Callable[[], None]] = []
        self.is_asked = asyncio.Event()
        self.loop = asyncio.get_running_loop()

    def read(self, copies: list[OffloadedCells], done: Done) -> None:
        self.asked += [partial(self._read, copy, done) for copy in copies]
        self.loop.call_soon_threadsafe(self.is_asked.set)


def test_others_go_on_while_a_prefix_is_read(tmp_path: Path) -> None:
    server = Server(tmp_path, 64 * MIB)

    async def test() -> None:
        first = server.engine()
        await server.ask(first, LONG)
        await close(first)
        server.shelves.close(60)
        next_server = restarted(server, tmp_path)
        shelf = SlowReads(next_server.shelf)
        second = next_server.engine(shelf=shelf)
        waiting = asyncio.create_task(next_server.ask(second, [*LONG, 7]))
        alike = asyncio.create_task(next_server.ask(second, [*LONG, 8]))
        await shelf.is_asked.wait()
        assert await next_server.ask(second, [4, 5, 6]) == 0
        num_steps = second.stats.num_steps
        await asyncio.sleep(0.01)
        assert second.stats.num_steps <= num_steps + 1, "it sleeps until the reads are done"
        assert not waiting.done() and len(shelf.asked) == 3
        for read in shelf.asked:
            read()
        assert await waiting == await alike == len(LONG)
        assert len(shelf.asked) == 3, "nothing was read twice"
        await close(second)

    run(test)


def test_a_client_that_leaves_while_its_prefix_is_read_leaves_nothing_behind(
    tmp_path: Path,
) -> None:
    server = Server(tmp_path, 64 * MIB)

    async def test() -> None:
        first = server.engine()
        await server.ask(first, LONG)
        await close(first)
        server.shelves.close(60)
        next_server = restarted(server, tmp_path)
        shelf = SlowReads(next_server.shelf)
        second = next_server.engine(shelf=shelf)
        async with second.generate([next_server.request([*LONG, 7])]):
            await shelf.is_asked.wait()
        for read in shelf.asked:
            read()
        await settle(second)
        assert second.num_waiting == 0
        assert await next_server.ask(second, [*LONG, 7]) == len(LONG)
        await close(second)

    run(test)


def test_a_disk_that_hangs_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeping, "READ_LIMIT_S", 0.05)
    server = Server(tmp_path, 64 * MIB)

    async def test() -> None:
        first = server.engine()
        await server.ask(first, LONG)
        await close(first)
        server.shelves.close(60)
        next_server = restarted(server, tmp_path)
        shelf = SlowReads(next_server.shelf)
        second = next_server.engine(shelf=shelf)
        assert await next_server.ask(second, [*LONG, 7]) == 0
        for read in shelf.asked:  # it is back
            read()
        assert await next_server.ask(second, [*LONG, 8]) == len(LONG)
        await close(second)

    run(test)


def test_files_that_vanish_are_computed_anew(tmp_path: Path) -> None:
    server = Server(tmp_path, 64 * MIB)

    async def test() -> None:
        first = server.engine()
        await server.ask(first, LONG)
        await close(first)
        server.shelves.close(60)
        next_server = restarted(server, tmp_path)
        second = next_server.engine()
        for path in entries(tmp_path):
            path.unlink()
        assert await next_server.ask(second, [*LONG, 7]) == 0
        assert await next_server.ask(second, [*LONG, 7]) == len(LONG)
        await close(second)

    run(test)


def test_what_does_not_fit_in_memory_is_read_from_files(tmp_path: Path) -> None:
    """Four conversations, with memory for two and cells for one."""
    server = Server(tmp_path, 64 * MIB, num_cells=700)
    prompts = [[i, *LONG[:550]] for i in range(4)]

    async def test() -> None:
        first = server.engine(max_offloaded=12 * 1200)
        for prompt in prompts:
            await server.ask(first, prompt)
            await server.written(first)
        for prompt in prompts:
            assert await server.ask(first, prompt) == 550
        await close(first)

    run(test)


turns = st.lists(
    st.tuples(
        st.integers(0, 3),  # the conversation
        st.integers(1, 20),  # tokens to add
        st.sampled_from("ab"),  # the key
        st.booleans(),  # with a seed
        st.sampled_from(["", "", "", "reload", "restart", "damage"]),  # what happens then
    ),
    min_size=2,
    max_size=8,
)


@settings(max_examples=40)
@given(
    turns,
    st.sampled_from([500, 12 * 80, MIB]),
    st.sampled_from([2500, 64 * MIB]),
    st.sampled_from([0, 16]),
)
def test_any_history_gives_the_same_answers(
    history: list[tuple[int, int, str, bool, str]],
    max_offloaded: int,
    disk_bytes: int,
    canonical_rows: int,
) -> None:
    """Where steps of other shapes round differently, those with a seed."""
    options = {"num_cells": 130, "context_length": 100, "canonical_rows": canonical_rows}

    async def test(root: Path) -> None:
        server = Server(root, disk_bytes, **options)
        engine = server.engine(max_offloaded)
        talks: dict[int, list[int]] = {}
        for number, count, key, is_seeded, event in history:
            talk = talks.setdefault(number, [number] * 30)
            talk += [count % 49] * count
            del talk[90:]
            request = server.request(talk, key=key)
            if is_seeded:
                request = msgspec.structs.replace(request, params=SEEDED)
            [events] = await collect(engine, request)
            if is_seeded or not canonical_rows:
                assert tokens(events) == reference(talk, 3, 100)
            if not event:
                continue
            await close(engine)
            if event != "reload":
                server.shelves.close(60)  # else it may drop files meanwhile
                for path in entries(root)[::2] if event == "damage" else ():
                    path.write_bytes(path.read_bytes()[:-1])
                server = restarted(server, root, disk_bytes)
            engine = server.engine(max_offloaded)
        await close(engine)
        server.shelves.close(60)

    with tempfile.TemporaryDirectory() as root:
        run(lambda: test(Path(root)))
