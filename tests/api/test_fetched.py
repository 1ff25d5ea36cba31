"""Pictures that were fetched for clients: kept for each alone, within a size."""

import asyncio
from types import SimpleNamespace

import pytest

from localinfra.api import fetched
from localinfra.api.fetched import KEPT_S, MAX_KEPT_BYTES, OWN_BYTES, FetchedPictures


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The URLs that were really fetched: pictures of 4 bytes, of which two may be kept."""
    urls: list[str] = []

    def fetch(url: str, max_bytes: int, limit_s: float) -> bytes:
        urls.append(url)
        return b"1234"

    monkeypatch.setattr(fetched, "fetch_picture", fetch)
    monkeypatch.setattr(fetched, "MAX_KEPT_BYTES", int(2.5 * OWN_BYTES))
    return urls


def get(pictures: FetchedPictures, *asking: tuple[str, str]) -> None:
    async def all_of_them() -> None:
        for client, url in asking:
            data = await pictures.get(client, url, "messages", 1.0)
            assert data == b"1234"
            pictures.keep(client, url, data)

    asyncio.run(all_of_them())


def test_a_picture_is_fetched_once_for_each_client(asked: list[str]) -> None:
    get(FetchedPictures(), ("a", "x"), ("a", "x"), ("b", "x"), ("a", "x"), ("b", "x"))
    assert asked == ["x", "x"]


def test_who_asks_for_many_pushes_out_none_of_others(asked: list[str]) -> None:
    """Nor can it see by their time what others ask for."""
    pictures = FetchedPictures()
    get(pictures, ("a", "x"), *(("b", f"{at}") for at in range(5)))
    asked.clear()
    get(pictures, ("a", "x"), ("b", "4"), ("b", "3"))
    assert asked == ["3"]


def test_long_urls_count_and_so_does_each_picture() -> None:
    """A server may answer one byte to any number of them."""
    for size in (20, 16_000):
        pictures = FetchedPictures()
        for at in range(5000):
            pictures.keep("a", f"https://a.example/{at:0{size}}", b"1")
        assert 1000 < pictures.num_kept < MAX_KEPT_BYTES / (size + OWN_BYTES)


def test_a_picture_stays_as_long_as_promised_and_no_longer(
    asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures, now_s = FetchedPictures(), 1000.0
    monkeypatch.setattr(fetched, "time", SimpleNamespace(monotonic=lambda: now_s))
    get(pictures, ("a", "x"))
    now_s += KEPT_S - 1
    get(pictures, ("a", "x"))
    assert asked == ["x"]
    now_s += 2
    get(pictures, ("a", "x"))
    assert asked == ["x", "x"] and pictures.num_kept == 1


def test_what_is_no_picture_is_not_kept(asked: list[str]) -> None:
    pictures = FetchedPictures()
    for _ in range(2):
        asyncio.run(pictures.get("a", "x", "messages", 1.0))
    assert asked == ["x", "x"] and not pictures.num_kept
