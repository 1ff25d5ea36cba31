"""A disk that is full or read-only, for each file that a server writes: requests are answered, what
was kept stays, nothing half written does, and once there is room all goes on."""

import asyncio
import errno
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import numpy as np
import pytest
from echo import CATALOGUE, EchoServer
from fetch.pulling import QUICK, remote
from fetch.site import Site, repository, serving
from small_disk import MIB, SmallDisk, mounted

from localinfra import cache, costs
from localinfra.conversations.database import Database
from localinfra.costs import Ledger, Used
from localinfra.deaths import Death, Deaths
from localinfra.engine.offloaded import OffloadedCells
from localinfra.errors import DiskFull
from localinfra.footprint import Footprint
from localinfra.models.fetch import pull, transfer
from localinfra.models.measured import footprints
from localinfra.prefixes import folder as prefixes
from localinfra.prefixes.entry import HASH_BYTES, NO_PARENT, Entry
from localinfra.prefixes.folder import Folder

pytestmark = pytest.mark.timeout(600)
ONE = Used(requests=1, prompt_tokens=10)


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SmallDisk]:
    with mounted(tmp_path / "disk", 4 * MIB) as disk:
        for name in ("LOCALINFRA_CACHE", "LOCALINFRA_DATA", "HF_HUB_CACHE"):
            monkeypatch.setenv(name, str(disk.folder / name.lower()))
        yield disk


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*") if path.is_file()} - {"filler"}


@pytest.mark.parametrize("num_written", range(0, 12))
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EIO])
def test_a_write_that_fails_at_any_byte_leaves_the_old_content_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_written: int, number: int
) -> None:
    path = tmp_path / "file.json"
    cache.write_whole(path, b"the old one")
    whole = Path.write_bytes

    def cut(path: Path, data: bytes) -> int:
        whole(path, data[:num_written])
        raise OSError(number, "scripted")

    monkeypatch.setattr(Path, "write_bytes", cut)
    with pytest.raises(OSError, match="scripted"):
        cache.write_whole(path, b"the new one, longer")
    assert files(tmp_path) == {"file.json"} and path.read_bytes() == b"the old one"


def test_usage_waits_for_room_and_none_is_lost(
    disk: SmallDisk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(costs, "SAVE_INTERVAL_S", 0.01)
    path = costs.default_path()

    async def run() -> None:
        ledger = Ledger(path)
        async with ledger.kept():
            ledger.add("k", "m", ONE)
            while not costs.read(path).rows:
                await asyncio.sleep(0.01)
            disk.fill()
            ledger.add("k", "m", ONE)
            while "can't be saved" not in caplog.text:
                await asyncio.sleep(0.01)
            assert costs.read(path).rows[0].requests == 1  # and not the file of zero bytes
            disk.free()

    asyncio.run(run())
    assert costs.read(path).rows[0].requests == 2
    assert files(path.parent) == {"costs.json", "costs.lock"}


def test_a_prefix_that_finds_no_room_is_no_file(
    disk: SmallDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefixes, "FREE_BYTES", -(1 << 40))  # it looks as if there were room
    folder = Folder(disk.folder / "prefixes", 1 << 30)
    folder.make()
    model = b"m" * HASH_BYTES
    data = np.zeros(100_000, np.uint8)
    entries = [
        Entry(model, b"s" * HASH_BYTES, NO_PARENT, 0, [first, 2, 3], is_canonical=True)
        for first in range(2)
    ]
    folder.write(entries[0], data)
    disk.fill()
    with pytest.raises(OSError, match="No space left"):
        folder.write(entries[1], data)
    [span] = folder.spans(model)
    assert span.cells.file and folder.read(model, span.cells.file) is not None
    assert files(disk.folder) == {"secret", span.cells.file}
    disk.free()
    folder.write(entries[1], data)
    found: list[OffloadedCells] = [span.cells for span in folder.spans(model)]
    assert len(found) == 2 and folder.num_damaged == 0


def test_conversations_stay_and_new_ones_are_refused(disk: SmallDisk) -> None:
    database = Database(disk.folder / "chats.sqlite")
    add = "INSERT INTO chats VALUES ('a', ?, 'c', 1, 1, 1, 1, 'w', zeroblob(100000))"
    database.write(lambda at: at.execute(add, ("one",)))
    disk.fill()
    with pytest.raises(DiskFull, match="nothing was changed"):
        database.write(lambda at: at.execute(add, ("two",)))
    ids = database.read(lambda at: at.execute("SELECT id FROM chats").fetchall())
    assert ids == [("one",)]
    disk.free()
    database.write(lambda at: at.execute(add, ("two",)))
    database.close()


def test_what_was_measured_is_not_kept_and_nobody_minds(disk: SmallDisk) -> None:
    deaths = Deaths(disk.folder / "deaths")
    deaths.add("a" * 32, "m", Death(time.time(), "while decoding", "SIGSEGV"))
    disk.fill()
    footprints.keep("f", Footprint({"cpu": 1}))
    deaths.add("a" * 32, "m", Death(time.time(), "while decoding", "SIGSEGV"))
    assert footprints.find("f") is None and len(deaths.of("a" * 32)) == 1
    assert files(disk.folder) == {"a" * 32 + ".json"}


@pytest.mark.parametrize("is_full", [True, False], ids=["full", "read-only"])
def test_a_server_answers_on_a_disk_that_takes_nothing(
    disk: SmallDisk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_full: bool
) -> None:
    monkeypatch.setattr(costs, "SAVE_INTERVAL_S", 0.01)
    if is_full:
        disk.fill()
    else:
        disk.remount("ro")
    catalogue = '[server]\nkeep_chats = true\ndisk_cache = "1GiB"\n' + CATALOGUE
    server = EchoServer(tmp_path, catalogue, Ledger(costs.default_path()))
    try:
        messages = [{"role": "user", "content": "Hello"}]
        body = {"model": "echo", "messages": messages, "temperature": 0}
        for _ in range(3):
            reply = server.post("/v1/chat/completions", body)
            assert reply.json()["choices"][0]["message"]["content"] == "Hello", reply.text
        kept = server.client.put("/v1/chats/one", json={"title": "t", "data": {"turns": []}})
        assert kept.status_code in (503, 507) and kept.json()["error"]["message"]
        assert httpx2.get(f"{server.url}/health").json()["status"] == "ok"
    finally:
        server.close()
        if not is_full:
            disk.remount("rw")


@pytest.fixture
def hub(disk: SmallDisk, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")
    for name in ("HF_HUB_OFFLINE", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with serving() as site:
        monkeypatch.setenv("HF_ENDPOINT", site.url)
        yield site


def test_a_disk_that_fills_during_a_pull_is_named_and_the_next_one_goes_on(
    disk: SmallDisk, hub: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "SPARE_BYTES", 0)
    data = b"GGUF" + random.Random(1).randbytes(2 * MIB)
    repository(hub, hub, "org/m", {"m.gguf": data})

    def before_chunk(size: int) -> bool:
        if hub.sent_bytes > MIB and not (disk.folder / "filler").exists():
            disk.fill()
        return True

    hub.before_chunk = before_chunk
    planned = pull.plan(remote("hf:org/m/m.gguf"), pace=QUICK)
    with pytest.raises(DiskFull, match=r"Can't write to .*No space left"):
        pull.fetch(planned, lambda progress: None, threading.Event(), QUICK)
    hub.before_chunk = lambda size: True
    disk.free()
    before = hub.sent_bytes
    again = pull.plan(remote("hf:org/m/m.gguf"), pace=QUICK)
    assert pull.fetch(again, lambda _: None, threading.Event(), QUICK).read_bytes() == data
    assert hub.sent_bytes - before < len(data)
