"""Whose key it is, and what a server learns of the file while it runs."""

import asyncio
import datetime
import hmac
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from metering import label

from localinfra.errors import ConfigError
from localinfra.keys import file
from localinfra.keys.holders import ANYONE, LOOK_EVERY_S, Holders
from localinfra.keys.record import KeyLimits, KeyRecord, hash_of, utc_now

DAY = datetime.timedelta(days=1)


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class Known(Holders):
    """Those of a file, on a clock that the test holds."""

    def __init__(self, path: Path, *plain: str, is_open_allowed: bool = True):
        self.clock = Clock()
        super().__init__(path, self.clock)
        self.apply(plain, is_open_allowed=is_open_allowed)
        self.read()

    def later(self) -> None:
        self.clock.now_s += LOOK_EVERY_S
        asyncio.run(self.refresh())

    def knows(self, key: str) -> bool:
        return self.holder([key]) is not None


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


def put(path: Path, *names: str, **options: object) -> None:
    """The keys' names are the keys, too."""
    keys = [
        KeyRecord(
            name=name,
            sha256=hash_of(name.encode()).hex(),
            created=utc_now(),
            **options,  # type: ignore[arg-type]
        )
        for name in names
    ]
    file.change(path, lambda _: keys)


def test_new_and_revoked_keys_are_known_without_a_restart(path: Path) -> None:
    known = Known(path)
    assert known.holder([]) == ANYONE  # open, until the first key exists
    put(path, "alice", "bob")
    known.later()
    assert known.holder([]) is None and known.holder(["carol"]) is None
    assert known.knows("alice") and known.knows("bob")
    put(path, "bob")
    known.later()
    assert not known.knows("alice") and known.knows("bob")


def test_the_file_is_looked_at_once_a_second_at_most(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(path, "alice")
    known, looks = Known(path), 0
    stamp: Callable[[Path], file.Stamp] = file.stamp

    def counting(path: Path) -> file.Stamp:
        nonlocal looks
        looks += 1
        return stamp(path)

    monkeypatch.setattr(file, "stamp", counting)

    async def ask() -> None:
        for _ in range(100):
            await known.refresh()

    asyncio.run(ask())
    assert looks == 0
    known.clock.now_s += LOOK_EVERY_S
    asyncio.run(ask())
    assert looks == 1


def test_a_look_can_be_begun_by_who_does_not_wait_for_it(path: Path) -> None:
    put(path, "alice")
    known = Known(path)
    put(path, "bob")

    async def ask() -> None:
        known.look()
        assert known._look is None, "it is too early"
        known.clock.now_s += LOOK_EVERY_S
        known.look()
        assert known.knows("alice")
        while not known.knows("bob"):
            await asyncio.sleep(0.001)

    asyncio.run(ask())
    assert not known.knows("alice")


def test_requests_that_come_during_a_look_wait_for_it(path: Path) -> None:
    put(path, "alice")
    known = Known(path)
    put(path, "bob")
    known.clock.now_s += LOOK_EVERY_S

    async def ask() -> bool:
        await known.refresh()
        return known.knows("alice")

    async def crowd() -> list[bool]:
        return await asyncio.gather(*(ask() for _ in range(20)))

    assert not any(asyncio.run(crowd()))


def test_a_damaged_file_keeps_the_last_good_keys_and_is_logged_once(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    put(path, "alice")
    known = Known(path)
    good = path.read_bytes()
    path.write_bytes(good[: len(good) // 2])
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            known.later()
    assert known.knows("alice") and known.holder([]) is None
    [line] = caplog.records
    assert "the keys stay as they were" in line.getMessage() and str(path) in line.getMessage()
    put_back = path.with_suffix(".good")
    put_back.write_bytes(good)
    put_back.replace(path)
    known.later()
    path.write_bytes(b"{")
    with caplog.at_level(logging.ERROR):
        known.later()
    assert len(caplog.records) == 2


def test_a_damaged_file_stops_a_start(path: Path) -> None:
    path.write_bytes(b"{")
    with pytest.raises(ConfigError, match="damaged"):
        Known(path)


def test_revoking_the_last_key_lets_no_one_in(path: Path) -> None:
    put(path, "alice")
    known = Known(path)
    put(path)
    known.later()
    assert known.holder([]) is None and not known.knows("alice")
    assert Known(path).holder([]) is None  # nor does a restart
    path.unlink()
    known.later()
    assert known.holder([]) == ANYONE


def test_a_server_that_others_reach_is_never_opened_by_a_lost_file(path: Path) -> None:
    put(path, "alice")
    known = Known(path, is_open_allowed=False)
    path.unlink()
    known.later()
    assert known.holder([]) is None


def test_a_key_is_refused_once_it_expires(path: Path) -> None:
    put(path, "alice", expires=utc_now() - DAY)
    assert Known(path).holder(["alice"]) is None
    put(path, "alice", expires=utc_now() + DAY)
    assert Known(path).knows("alice")


def test_named_keys_and_plain_ones_work_side_by_side(path: Path) -> None:
    put(path, "alice")
    known = Known(path, "plain")
    plain, alice = known.holder(["plain"]), known.holder(["alice"])
    assert plain and alice and alice.record and alice.record.name == "alice"
    assert (plain.label, plain.may_manage, plain.record) == (label("plain"), True, None)
    assert (alice.label, alice.may_manage) == (label("alice"), False)
    assert known.permit(plain).states() == []


def test_a_permit_has_the_limits_and_models_of_its_key(path: Path) -> None:
    put(path, "alice", limits=KeyLimits(rpm=2), models=("a", "b"), may_manage=True)
    known = Known(path)
    holder = known.holder(["alice"])
    assert holder and holder.may_manage
    known.permit(holder).enter()
    permit = known.permit(holder)
    assert permit.models == frozenset({"a", "b"})
    assert [state.remaining for state in permit.states()] == [1]
    put(path, "alice", "bob", limits=KeyLimits(rpm=2))
    known.later()
    assert [state.remaining for state in known.permit(holder).states()] == [1]


def test_every_hash_is_compared_whichever_matches(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(path, "alice", "bob")
    known = Known(path, "plain")
    compared: list[bytes] = []
    compare: Callable[[bytes, bytes], bool] = hmac.compare_digest

    def counting(ours: bytes, theirs: bytes) -> bool:
        compared.append(ours)
        return compare(ours, theirs)

    monkeypatch.setattr(hmac, "compare_digest", counting)
    for key in ("plain", "alice", "bob", "nobody"):
        compared.clear()
        known.holder([key])
        assert compared == [hash_of(name.encode()) for name in ("plain", "alice", "bob")]
