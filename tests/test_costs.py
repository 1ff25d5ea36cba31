"""The file of what keys have used: added to by several servers, read without one."""

import asyncio
import datetime
import errno
import itertools
import threading
from pathlib import Path

import pytest

from localinfra import cache, costs, executor
from localinfra.costs import Book, CostRow, CostsUnreadable, Ledger, Used

TIME = datetime.datetime(2026, 1, 2, 3, 4, tzinfo=datetime.UTC)
ONE = Used(requests=1, prompt_tokens=10, cached_tokens=4, generated_tokens=5, usd=0.25)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "costs.json"


def row(key: str = "k", model: str = "m", minutes: int = 0) -> CostRow:
    time = TIME + datetime.timedelta(minutes=minutes)
    found = CostRow(key=key, model=model, first_at=time, last_at=time)
    found.add(ONE)
    return found


def used(book: Book) -> dict[tuple[str, str], tuple[int, int, float]]:
    return {(row.key, row.model): (row.requests, row.prompt_tokens, row.usd) for row in book.rows}


def serve(ledger: Ledger, num_requests: int) -> None:
    """Keeps the ledger as a server does from its start to its end."""

    async def run() -> None:
        async with ledger.kept():
            for _ in range(num_requests):
                ledger.add("k", "m", ONE)

    asyncio.run(run())


def test_no_file_is_an_empty_book(path: Path) -> None:
    assert costs.read(path).rows == []


def test_rows_of_one_key_and_model_become_one(path: Path) -> None:
    costs.add(path, [row(minutes=5), row("other")])
    costs.add(path, [row(minutes=9), row(model="second")])
    book = costs.read(path)
    assert used(book) == {
        ("k", "m"): (2, 20, 0.5),
        ("other", "m"): (1, 10, 0.25),
        ("k", "second"): (1, 10, 0.25),
    }
    assert book.since == TIME
    first = book.rows[0]
    assert (first.first_at, first.last_at) == (row(minutes=5).first_at, row(minutes=9).last_at)


def test_a_ledger_adds_to_the_file_what_came_since(path: Path) -> None:
    serve(Ledger(path), 3)
    assert used(costs.read(path)) == {("k", "m"): (3, 30, 0.75)}
    serve(Ledger(path), 1)
    assert used(costs.read(path)) == {("k", "m"): (4, 40, 1.0)}


def test_it_is_in_the_file_long_before_the_end(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(costs, "SAVE_INTERVAL_S", 0.01)

    async def run() -> None:
        ledger = Ledger(path)
        async with ledger.kept():
            ledger.add("k", "m", ONE)
            while not costs.read(path).rows:
                await asyncio.sleep(0.01)
            ledger.add("k", "m", ONE)

    asyncio.run(asyncio.wait_for(run(), 20))
    assert used(costs.read(path)) == {("k", "m"): (2, 20, 0.5)}


def test_it_is_in_the_file_once_an_answer_ends(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A death after that loses none of it. Many that end at once are few writes."""
    monkeypatch.setattr(costs, "SAVE_INTERVAL_S", 600)
    writes: list[int] = []
    real = costs.timed_add

    def counted(path: Path, rows: list[CostRow]) -> float:
        writes.append(len(rows))
        return real(path, rows)

    monkeypatch.setattr(costs, "timed_add", counted)

    async def run() -> None:
        ledger = Ledger(path)
        async with ledger.kept():
            for number in (1, 2):
                for _ in range(500):
                    ledger.add("k", "m", ONE)
                    ledger.save_soon()
                while not (rows := costs.read(path).rows) or rows[0].requests < 500 * number:
                    await asyncio.sleep(0.01)
            assert writes == [1, 1]
            ledger.add("k", "m", ONE)

    asyncio.run(asyncio.wait_for(run(), 120))
    assert used(costs.read(path)) == {("k", "m"): (1001, 10010, 250.25)}


def test_servers_that_save_at_once_lose_nothing(path: Path) -> None:
    def server() -> None:
        for _ in range(20):
            costs.add(path, [row()])

    threads = [threading.Thread(target=server) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert used(costs.read(path)) == {("k", "m"): (80, 800, 20.0)}


def test_a_reset_begins_anew_and_what_comes_after_counts(path: Path) -> None:
    costs.add(path, [row()])
    costs.reset(path)
    assert costs.read(path).rows == []
    costs.add(path, [row("later")])
    assert used(costs.read(path)) == {("later", "m"): (1, 10, 0.25)}


def test_a_damaged_file_is_put_aside_and_told(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path.parent.mkdir()
    path.write_bytes(b'{"since": ')
    with pytest.raises(CostsUnreadable, match="--reset"):
        costs.read(path)
    costs.add(path, [row()])
    assert used(costs.read(path)) == {("k", "m"): (1, 10, 0.25)}
    assert path.with_suffix(".damaged").read_bytes() == b'{"since": '
    assert "costs.damaged" in caplog.text


def test_what_cannot_be_written_is_told_once_and_kept_for_later(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(costs, "SAVE_INTERVAL_S", 0.01)

    async def run() -> None:
        path.parent.write_bytes(b"a file where the folder would be")
        ledger = Ledger(path)
        async with ledger.kept():
            ledger.add("k", "m", ONE)
            await asyncio.sleep(0.2)
            ledger.add("k", "m", ONE)
            path.parent.unlink()

    asyncio.run(run())
    assert used(costs.read(path)) == {("k", "m"): (2, 20, 0.5)}
    assert caplog.text.count("can't be saved") == 1


def test_a_lock_that_somebody_keeps_is_told_and_the_end_waits_for_nobody(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(costs, "LOCK_LIMIT_S", 0.05)
    with cache.locked(path.with_suffix(".lock")):
        serve(Ledger(path), 3)
    assert "costs.lock is locked by" in caplog.text
    assert "costs of 0.750000 US dollars were not saved in" in caplog.text
    assert costs.read(path).rows == []


def test_a_disk_that_hangs_does_not_hold_up_the_end(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    may_go = threading.Event()
    monkeypatch.setattr(costs, "add", lambda path, rows: may_go.wait(60))
    monkeypatch.setattr(costs, "LAST_SAVE_LIMIT_S", 0.05)
    serve(Ledger(path), 3)
    may_go.set()
    assert "could not be written in time" in caplog.text


def test_without_a_path_nothing_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCALINFRA_CACHE", str(tmp_path))
    serve(Ledger(), 1)
    assert list(tmp_path.iterdir()) == []
    assert costs.default_path() == tmp_path / "costs" / "costs.json"


def test_a_file_that_can_not_be_read_for_now_is_not_put_aside(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    costs.add(path, [row()])

    def no_descriptor(path: Path) -> bytes:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", no_descriptor)
        with pytest.raises(OSError, match="Too many open files"):
            costs.add(path, [row()])
    costs.add(path, [row()])
    assert used(costs.read(path)) == {("k", "m"): (2, 20, 0.5)}
    assert not path.with_suffix(".damaged").exists()


def test_a_clock_that_is_set_leaves_first_before_last(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = iter([TIME, TIME - datetime.timedelta(days=365), TIME])
    monkeypatch.setattr(costs, "now", lambda: next(times, TIME))
    serve(Ledger(path), 3)
    [found] = costs.read(path).rows
    assert found.requests == 3 and found.first_at < found.last_at == TIME


def test_a_lack_of_threads_is_waited_for(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, num_refused = executor.in_daemon_thread, itertools.count()

    def refuse(*arguments: object, **options: object) -> object:
        if next(num_refused) < 2:
            raise RuntimeError("can't start new thread")
        return real(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(costs, "in_daemon_thread", refuse)
    monkeypatch.setattr(costs, "SAVE_INTERVAL_S", 0.01)

    async def run() -> None:
        ledger = Ledger(path)
        async with ledger.kept():
            ledger.add("k", "m", ONE)
            while not path.exists():
                await asyncio.sleep(0.01)

    asyncio.run(run())
    assert used(costs.read(path)) == {("k", "m"): (1, 10, 0.25)}
