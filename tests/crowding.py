"""More requests at once than there are places: each is answered in full or refused with a 429."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2

AT_ONCE = 24


def check_crowded(url: str, body: dict[str, Any]) -> None:
    """Asks `url` for streams, some of which must be refused."""
    together = threading.Barrier(AT_ONCE)

    def ask(_: int) -> httpx2.Response:
        with httpx2.Client(timeout=120) as client:
            client.get(httpx2.URL(url).join("/health"))
            together.wait()
            return client.post(url, json=body)

    assert ask_alone(url, body) == 200  # the model is loaded
    with ThreadPoolExecutor(AT_ONCE) as pool:
        replies = list(pool.map(ask, range(AT_ONCE)))
    assert {reply.status_code for reply in replies} == {200, 429}
    for reply in replies:
        if reply.status_code == 429:
            assert reply.headers["retry-after"] and reply.json()["error"]["message"]
        else:
            assert '"error":{' not in reply.text
            assert reply.headers["content-type"].startswith("text/event-stream")
    assert ask_alone(url, body) == 200  # all places were given back


def ask_alone(url: str, body: dict[str, Any]) -> int:
    return httpx2.post(url, json=body, timeout=120).status_code
