"""The file of named keys: what is in it, who reads it, and what becomes of a damaged one."""

import datetime
import json
import threading
from pathlib import Path

import pytest

from localinfra.errors import ConfigError
from localinfra.keys import file
from localinfra.keys.file import KeyBook
from localinfra.keys.record import KEY_BYTES, PREFIX, KeyLimits, KeyRecord, hash_of, make_key

NOW = datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)


def record(name: str, key: str = "", **options: object) -> KeyRecord:
    hashed = hash_of((key or name).encode()).hex()
    return KeyRecord(name=name, sha256=hashed, created=NOW, **options)  # type: ignore[arg-type]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "new" / "keys.json"


def test_there_is_none_at_first(path: Path) -> None:
    assert file.read(path) is None and file.stamp(path) == file.NO_FILE


def test_what_is_written_is_read(path: Path) -> None:
    alice = record("alice", limits=KeyLimits(rpm=3, tpm=5, concurrent=7), models=("a/b", "c"))
    bob = record("bob", expires=NOW, may_manage=True)
    file.change(path, lambda keys: [*keys, alice])
    assert file.change(path, lambda keys: [*keys, bob]) == KeyBook((alice, bob))
    assert file.read(path) == KeyBook((alice, bob))


def test_only_its_user_reads_it_and_nothing_else_is_left(path: Path) -> None:
    file.change(path, lambda keys: [record("alice")])
    path.chmod(0o644)
    file.change(path, lambda keys: [*keys, record("bob")])
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert {each.name for each in path.parent.iterdir()} == {"keys.json", "keys.lock"}


def test_every_change_is_seen(path: Path) -> None:
    stamps = [file.stamp(path)]
    path.parent.mkdir()
    for name in "abc":
        file.write(path, KeyBook((record(name),)))
        stamps.append(file.stamp(path))
    path.chmod(0o640)
    stamps.append(file.stamp(path))
    path.unlink()
    assert len(set(stamps)) == 5 and file.stamp(path) == file.NO_FILE


def test_a_change_that_fails_changes_nothing(path: Path) -> None:
    file.change(path, lambda keys: [record("alice")])
    before = path.read_bytes()

    def fail(keys: object) -> list[KeyRecord]:
        raise LookupError

    with pytest.raises(LookupError):
        file.change(path, fail)
    with pytest.raises(ValueError, match="same name"):
        file.change(path, lambda keys: [*keys, record("alice", "another")])
    assert path.read_bytes() == before


def test_changes_at_the_same_time_all_count(path: Path) -> None:
    def add(name: str) -> None:
        file.change(path, lambda keys: [*keys, record(name)])

    threads = [threading.Thread(target=add, args=(f"key{at}",)) for at in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    book = file.read(path)
    assert book and {key.name for key in book.keys} == {f"key{at}" for at in range(8)}


@pytest.mark.parametrize(
    "damage",
    [
        b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"keys": [{"name": "a"}]}',
        b'{"keys": [], "version": 2}',
        b'{"keys": [{"name": "a b", "sha256": "%s", "created": "2026-01-02T00:00:00Z"}]}'
        % (b"0" * 64),
        b'{"keys": [{"name": "a", "sha256": "%s", "created": "2026-01-02T00:00:00Z",'
        b'"limits": {"rpm": 0}}]}' % (b"0" * 64),
        b'{"keys": [{"name": "a", "sha256": "beef", "created": "2026-01-02T00:00:00Z"}]}',
    ],
)  # fmt: skip
def test_a_damaged_file_says_what_to_do_and_stays(path: Path, damage: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(damage)
    with pytest.raises(ConfigError, match=r"keys.json is damaged.*delete it"):
        file.read(path)
    with pytest.raises(ConfigError, match=r"keys.json is damaged.*delete it"):
        file.change(path, lambda keys: [record("a")])
    assert path.read_bytes() == damage


def test_a_folder_that_can_not_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"keys.json can't be changed"):
        file.change(tmp_path / "file" / "keys.json", lambda keys: keys)


def test_a_key_is_long_and_its_label_new() -> None:
    keys = {make_key() for _ in range(100)}
    assert len(keys) == 100 and KEY_BYTES * 8 >= 128
    assert all(key.startswith(PREFIX) and len(key) >= len(PREFIX) + 22 for key in keys)


def test_nothing_in_the_file_leads_back_to_the_key(path: Path) -> None:
    key = make_key()
    file.change(path, lambda keys: [record("alice", key)])
    assert key.removeprefix(PREFIX)[:8] not in path.read_text()
    [kept] = json.loads(path.read_text())["keys"]
    assert kept["sha256"] == hash_of(key.encode()).hex()
