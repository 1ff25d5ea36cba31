"""More images at once than there are places: each is made in full or refused with a 429, also where
a stream was asked for."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from crowding import check_crowded
from live import LiveServer

pytestmark = pytest.mark.timeout(300)

MODELS = """
[server]
max_queue = 2

[model."flux"]
kind = "image"
source = "flux"
default_size = 64
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, tiny_flux: Path) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("full")
    (folder / "flux").symlink_to(tiny_flux)
    (folder / "models.toml").write_text(MODELS)
    server = LiveServer(folder / "models.toml")
    yield server
    server.close()


def test_no_stream_begins_that_has_no_place(server: LiveServer) -> None:
    body = {"model": "flux", "prompt": "a boat", "n": 4, "stream": True}
    check_crowded(f"{server.url}/v1/images/generations", body)
