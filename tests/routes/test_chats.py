"""Conversations kept by the server: listed, found, changed by two windows, deleted; within limits,
on files that are damaged, full or of no use."""

import asyncio
import os
import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from echo import EchoServer

from localinfra.conversations import database
from localinfra.conversations.database import Database, default_path
from localinfra.conversations.store import ChatStore, Limits
from localinfra.errors import ChatsUnavailable, DiskFull

pytestmark = pytest.mark.timeout(600)

KEEPS = "[server]\nkeep_chats = true\n"
SAID = {"turns": [{"id": "a", "role": "user", "content": "The Albatross sleeps in flight."}]}


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the conversations are kept."""
    monkeypatch.setenv("LOCALINFRA_DATA", str(tmp_path / "data"))
    return default_path()


@pytest.fixture
def server(file: Path, tmp_path: Path) -> Iterator[EchoServer]:
    server = EchoServer(tmp_path, KEEPS)
    yield server
    server.close()


def put(server: EchoServer, id: str, **fields: Any) -> httpx2.Response:
    body = {"title": "Birds", "data": SAID, **fields}
    return server.client.put(f"/v1/chats/{id}", json=body)


def listed(server: EchoServer, **query: Any) -> Any:
    reply = server.client.get("/v1/chats", params=query)
    assert reply.status_code == 200, reply.text
    return reply.json()


def ids(page: Any) -> list[str]:
    return [head["id"] for head in page["data"]]


def error(reply: httpx2.Response) -> tuple[int, str, str]:
    found = reply.json()["error"]
    return reply.status_code, found["code"], found["message"]


def test_a_conversation_comes_back_as_it_was_put(server: EchoServer) -> None:
    head = put(server, "one").json()
    assert (head["id"], head["title"], head["revision"]) == ("one", "Birds", 1)
    found = server.client.get("/v1/chats/one").json()
    assert found == {**head, "data": SAID}
    assert listed(server) == {"object": "list", "kept": True, "data": [head], "next": None}


def test_a_change_takes_the_revision_that_it_changes(server: EchoServer) -> None:
    created_at = put(server, "one").json()["created_at"]
    changed = put(server, "one", title="Sleep", data={}, revision=1).json()
    assert (changed["revision"], changed["created_at"]) == (2, created_at)
    for late in (0, 1, 3):
        status, code, message = error(put(server, "one", revision=late))
        assert (status, code) == (409, "conflict") and "revision 2" in message
    assert server.client.get("/v1/chats/one").json()["title"] == "Sleep"


def test_what_was_deleted_meanwhile_does_not_come_back_by_itself(server: EchoServer) -> None:
    put(server, "one")
    assert server.client.delete("/v1/chats/one").json() == {"deleted": 1}
    assert server.client.delete("/v1/chats/one").json() == {"deleted": 0}
    status, code, message = error(put(server, "one", revision=1))
    assert (status, code) == (404, "not_found") and "revision 0" in message
    assert error(server.client.get("/v1/chats/one"))[:2] == (404, "not_found")


def test_pages_have_the_latest_first_and_each_once(server: EchoServer) -> None:
    for number in range(5):
        put(server, f"c{number}", updated_at=1000 + number // 2)  # some at the same time
    first = listed(server, limit=2)
    second = listed(server, limit=2, after=first["next"])
    third = listed(server, limit=2, after=second["next"])
    assert [ids(first), ids(second), ids(third)] == [["c4", "c3"], ["c2", "c1"], ["c0"]]
    assert third["next"] is None


def test_a_search_looks_through_titles_and_turns(server: EchoServer) -> None:
    put(server, "one")
    put(server, "two", title="Straße", data={"turns": [{"content": [1]}, {}], "x": "albatross"})
    put(server, "three", title="Odd", data={"turns": "albatross"})
    assert ids(listed(server, search="ALBATROSS sleeps")) == ["one"]
    assert ids(listed(server, search="STRASSE")) == ["two"]
    assert ids(listed(server, search="100%_")) == []


def test_all_are_deleted_at_once_and_leave_nothing_in_the_files(
    server: EchoServer, file: Path
) -> None:
    put(server, "one")
    put(server, "two")
    assert server.client.delete("/v1/chats").json() == {"deleted": 2}
    assert listed(server)["data"] == []
    left = b"".join(path.read_bytes() for path in file.parent.iterdir())
    assert b"Albatross" not in left and b"albatross" not in left


def test_what_a_conversation_took_is_given_back_to_the_disk(server: EchoServer, file: Path) -> None:
    put(server, "small")
    put(server, "large", data={"turns": [{"content": "long " * 100_000}]})
    server.client.delete("/v1/chats/large")
    assert file.stat().st_size < 50_000


def test_only_their_owner_can_read_the_files(server: EchoServer, file: Path) -> None:
    put(server, "one")
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (file.parent, *file.parent.iterdir())]
    assert len(modes) > 1 and not any(mode & 0o077 for mode in modes)


@pytest.mark.parametrize(
    ("id", "fields", "param"),
    [
        ("one", {"data": []}, "data"),
        ("one", {"data": "{}"}, "data"),
        ("one", {"revision": -1}, "revision"),
        ("one", {"title": "x" * 201}, "title"),
        ("one", {"updated_at": 1e300}, "updated_at"),
        ("x" * 65, {}, "id"),
        ("%2e%2e", {}, "id"),
        ("ä", {}, "id"),
    ],
)
def test_a_wrong_body_or_id_is_refused(
    server: EchoServer, id: str, fields: dict[str, Any], param: str
) -> None:
    reply = put(server, id, **fields)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, param)


def test_a_body_that_is_no_text_is_refused(server: EchoServer) -> None:
    body = b'{"title": "x", "data": {"turns": [{"content": "\xff"}]}}'
    headers = {"content-type": "application/json"}
    reply = server.client.put("/v1/chats/one", content=body, headers=headers)
    assert error(reply)[:2] == (400, "invalid_value")


@pytest.mark.parametrize(
    "query", [{"limit": 0}, {"limit": 101}, {"limit": "x"}, {"after": "x"}, {"after": "1."},
              {"after": "9" * 30 + ".a"}, {"search": "x" * 1001}],
)  # fmt: skip
def test_a_wrong_query_is_refused(server: EchoServer, query: dict[str, Any]) -> None:
    reply = server.client.get("/v1/chats", params=query)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, *query)


@pytest.mark.parametrize("id", ["%ff", "%00", "%ed%a0%80", "x" * 5000])
def test_an_id_of_any_bytes_is_not_found(server: EchoServer, id: str) -> None:
    assert error(server.client.get(f"/v1/chats/{id}"))[:2] == (404, "not_found")
    assert listed(server, search="\0")["data"] == []
    assert server.client.get("/v1/chats?search=%ff%ed%a0%80").json()["data"] == []


# Whose they are


def test_a_server_keeps_nothing_unless_it_is_told_to(tmp_path: Path, file: Path) -> None:
    server = EchoServer(tmp_path, "")
    assert listed(server) == {"object": "list", "kept": False, "data": [], "next": None}
    status, code, message = error(put(server, "one"))
    assert (status, code) == (404, "chats_not_kept") and "keep_chats" in message
    server.close()
    assert not file.parent.exists()


def test_each_key_has_its_own(tmp_path: Path, file: Path) -> None:
    server = EchoServer(tmp_path, KEEPS + 'api_keys = ["ours", "theirs"]\n')
    ours, theirs = ({"authorization": f"Bearer {key}"} for key in ("ours", "theirs"))
    body = {"title": "Birds", "data": SAID}
    assert server.client.put("/v1/chats/one", json=body, headers=ours).status_code == 200
    assert server.client.get("/v1/chats").status_code == 401
    assert server.client.get("/v1/chats", headers=theirs).json()["data"] == []
    assert server.client.get("/v1/chats/one", headers=theirs).status_code == 404
    assert server.client.delete("/v1/chats", headers=theirs).json() == {"deleted": 0}
    assert server.client.put("/v1/chats/one", json=body, headers=theirs).json()["revision"] == 1
    assert server.client.get("/v1/chats/one", headers=ours).json()["data"] == SAID
    server.close()


def test_without_keys_other_machines_and_other_pages_get_none(server: EchoServer) -> None:
    put(server, "one")
    for headers in ({"x-forwarded-for": "10.0.0.1"}, {"origin": "http://localhost:3000"}):
        seen = server.client.get("/v1/chats", headers=headers).json()
        assert (seen["kept"], seen["data"]) == (False, [])
        reply = server.client.get("/v1/chats/one", headers=headers)
        assert error(reply)[:2] == (403, "forbidden") and "conversations" in error(reply)[2]


# Limits


@pytest.mark.parametrize(
    ("limits", "status", "words"),
    [
        ({"chat_bytes": 100}, 413, "begin a new one"),
        ({"num_chats": 2}, 507, "2 conversations are kept"),
        ({"owner_bytes": 250}, 507, "each key"),
        ({"total_bytes": 250}, 507, "All conversations"),
    ],
)
def test_a_limit_says_what_to_do_and_never_keeps_one_from_making_room(
    file: Path, tmp_path: Path, limits: dict[str, int], status: int, words: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("localinfra.api.app.ChatStore", lambda at: ChatStore(at, Limits(**limits)))
    server = EchoServer(tmp_path, KEEPS)
    for id in ("one", "two"):
        assert put(server, id).status_code == 200
    full = put(server, "three", data={**SAID, "more": "x" * 60})
    assert full.status_code == status and words in full.json()["error"]["message"]
    assert put(server, "one", data={}, revision=1).status_code == 200
    server.client.delete("/v1/chats/two")
    assert put(server, "three").status_code == 200
    server.close()


def test_many_small_values_are_no_obstacle(server: EchoServer) -> None:
    """As token probabilities are."""
    score = {"token": "a", "logprob": -0.5, "top_logprobs": [{"token": "a", "logprob": -0.5}] * 5}
    data = {"turns": [{"content": "a", "scores": [score] * 7000}]}
    assert put(server, "one", data=data).status_code == 200
    assert server.client.get("/v1/chats/one").json()["data"] == data


# The file


def test_two_servers_share_a_file(server: EchoServer, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = EchoServer(tmp_path / "other", KEEPS)
    put(server, "one")
    assert ids(listed(other)) == ["one"]
    assert put(other, "one", revision=1).json()["revision"] == 2
    assert error(put(server, "one", revision=1))[:2] == (409, "conflict")
    other.close()
    assert put(server, "one", revision=2).status_code == 200


def damage(file: Path) -> None:
    file.write_bytes(b"no database" * 1000)


def garble(file: Path) -> None:
    """All but the head, which opening reads."""
    data = file.read_bytes()
    file.write_bytes(data[:100] + b"\xff" * (len(data) - 100))


@pytest.mark.parametrize("how", [damage, garble])
def test_a_damaged_file_is_put_aside_and_the_server_goes_on(
    server: EchoServer, file: Path, tmp_path: Path, how: Any, caplog: pytest.LogCaptureFixture
) -> None:
    put(server, "one")
    server.close()
    how(file)
    again = EchoServer(tmp_path, KEEPS)
    assert listed(again)["data"] == []
    assert put(again, "two").status_code == 200
    again.close()
    (aside,) = file.parent.glob("chats.damaged-*")
    assert aside.stat().st_size > 0 and f"is now {aside}" in caplog.text


def test_a_file_that_was_deleted_is_made_again(server: EchoServer, file: Path) -> None:
    put(server, "one")
    for path in list(file.parent.iterdir()):
        path.unlink()
    assert put(server, "two").status_code == 200
    assert ids(listed(server)) == ["two"] and file.exists()


def test_a_newer_versions_file_is_left_alone(server: EchoServer, file: Path) -> None:
    file.parent.mkdir(parents=True)
    connection = sqlite3.connect(file)
    connection.execute("PRAGMA user_version = 99")
    for _ in range(2):
        status, code, message = error(put(server, "one"))
        assert (status, code) == (503, "chats_unavailable") and "newer localinfra" in message
    assert connection.execute("PRAGMA user_version").fetchone() == (99,)
    assert connection.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,)
    connection.close()


def test_a_folder_that_can_not_be_made_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data").write_text("a file")
    monkeypatch.setenv("LOCALINFRA_DATA", str(tmp_path / "data"))
    server = EchoServer(tmp_path, KEEPS)
    status, code, message = error(put(server, "one"))
    server.close()
    assert (status, code) == (503, "chats_unavailable") and "LOCALINFRA_DATA" in message


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Database]:
    found = Database(tmp_path / "chats.sqlite")
    found.read(lambda connection: None)
    yield found
    found.close()


def add(connection: sqlite3.Connection) -> None:
    connection.execute(
        "INSERT INTO chats VALUES ('a', 'b', 'c', 1, 1, 1, 1, 'w', ?)", (os.urandom(1 << 20),)
    )


def test_a_full_disk_is_told_and_changes_nothing(opened: Database) -> None:
    opened.read(lambda connection: connection.execute("PRAGMA max_page_count = 20").fetchall())
    with pytest.raises(DiskFull, match="nothing was changed"):
        opened.write(add)
    opened.read(lambda connection: connection.execute("PRAGMA max_page_count = 2000").fetchall())
    opened.write(add)  # there is room again


def test_a_file_that_can_only_be_read_is_told(opened: Database) -> None:
    opened.read(lambda connection: connection.execute("PRAGMA query_only = ON").fetchall())
    with pytest.raises(ChatsUnavailable, match="writable"):
        opened.write(add)


def test_a_file_that_another_program_holds_is_told_and_tried_again(
    opened: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened.read(lambda connection: connection.execute("PRAGMA busy_timeout = 1").fetchall())
    other = sqlite3.connect(opened.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(ChatsUnavailable, match="try again"):
        opened.write(add)
    other.execute("ROLLBACK")
    other.close()
    opened.write(add)


def test_each_version_of_the_file_is_brought_to_this_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "chats.sqlite"
    first = Database(path)
    first.write(add)
    first.close()
    more = (*database.MIGRATIONS, ("ALTER TABLE chats ADD COLUMN pinned INTEGER DEFAULT 0",))
    monkeypatch.setattr(database, "MIGRATIONS", more)
    second = Database(path)
    rows = second.read(lambda at: at.execute("SELECT id, pinned FROM chats").fetchall())
    assert rows == [("b", 0)]
    second.close()


def test_a_search_whose_client_has_left_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("localinfra.conversations.store.STEPS_UNWATCHED", 1)

    async def look() -> None:
        store = ChatStore(tmp_path / "chats.sqlite")
        await store.put("o", "one", "Birds", b"{}", 0)
        assert (await store.page("o", "birds", 1, None)).heads
        monkeypatch.setattr("localinfra.conversations.store.is_abandoned", lambda: True)
        with pytest.raises(ChatsUnavailable, match="interrupted"):
            await store.page("o", "birds", 1, None)
        assert (await store.page("o", "", 1, None)).heads  # in the other thread
        await store.close()

    asyncio.run(look())
