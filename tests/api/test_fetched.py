"""Pictures that were fetched for clients: kept for each alone, within a size."""

import asyncio

import pytest

from localinfra.api import fetched
from localinfra.api.fetched import FetchedPictures


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The URLs that were really fetched: pictures of 4 bytes, where 10 may be kept."""
    urls: list[str] = []

    def fetch(url: str, max_bytes: int, limit_s: float) -> bytes:
        urls.append(url)
        return b"1234"

    monkeypatch.setattr(fetched, "fetch_picture", fetch)
    monkeypatch.setattr(fetched, "MAX_KEPT_BYTES", 10)
    return urls


def get(pictures: FetchedPictures, *asking: tuple[str, str]) -> None:
    async def all_of_them() -> None:
        for client, url in asking:
            assert await pictures.get(client, url, "messages", 1.0) == b"1234"

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
