"""Images by URL: the URL works without a key, so it is unguessable and expires."""

import re
import time

import pytest
from asgi import call, scope_of

from localinfra.api.app import create_app
from localinfra.api.http.guard import IMAGE_FILES
from localinfra.api.http.state import AppState
from localinfra.api.openai import image_files
from localinfra.api.openai.image_files import ImageFiles
from localinfra.config.settings import ServerSettings
from localinfra.errors import NotFound
from localinfra.models.catalog import Catalog
from localinfra.runtime import Runtime


def test_addresses_have_24_random_bytes_and_lead_to_one_image_each() -> None:
    files = ImageFiles(60)
    paths = [files.put(b"%d" % at, "image/png", "a") for at in range(200)]
    assert len(set(paths)) == 200
    assert all(re.fullmatch(r"/v1/images/files/[\w-]{32}\.png", path) for path in paths)
    assert files.get(paths[7].rpartition("/")[2]).data == b"7"
    for guess in ("", "7.png", paths[7][-10:], paths[7].rpartition("/")[2][:-4]):
        with pytest.raises(NotFound):
            files.get(guess)


def put(files: ImageFiles, data: bytes, owner: str) -> str:
    return files.put(data, "image/png", owner).rpartition("/")[2]


def test_who_has_many_pushes_out_none_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_files, "MAX_BYTES", 10)
    files = ImageFiles(60)
    others = put(files, b"1234", "other")
    own = [put(files, b"123", "greedy") for _ in range(5)]
    assert files.has(others) and [files.has(name) for name in own] == [False] * 3 + [True] * 2
    newest = put(files, b"1234567", "third")  # more than any other has, and not told yet
    assert files.has(newest) and not files.has(others)


def test_they_end_after_their_time_and_when_there_are_too_many(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(image_files, "MAX_BYTES", 10)
    files = ImageFiles(60)
    names = [put(files, b"1234", "a") for _ in range(3)]
    with pytest.raises(NotFound):
        files.get(names[0])
    assert files.get(names[2])
    later = time.monotonic() + 61
    monkeypatch.setattr(time, "monotonic", lambda: later)
    with pytest.raises(NotFound):
        files.get(names[2])


@pytest.mark.parametrize("key", ["", "sk-second"])
def test_the_url_suffices_without_a_key_and_a_key_does_not_without_the_url(key: str) -> None:
    app = create_app(Runtime(ServerSettings(api_keys=("sk-first", "sk-second")), Catalog({})))
    path = AppState.of(app).store(ImageFiles).put(b"pixels", "image/png", "a")
    headers = [("host", "localhost"), ("authorization", f"Bearer {key}")]
    assert call(app, scope_of(path=path, headers=headers)).body == b"pixels"
    listing = call(app, scope_of(path=IMAGE_FILES, headers=headers))
    assert listing.status in (401, 404) and b"pixels" not in listing.body
    other = path[:-5] + ("y" if path[-5] == "x" else "x") + ".png"
    assert call(app, scope_of(path=other, headers=headers)).status == 404
