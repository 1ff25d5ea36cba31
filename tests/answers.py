"""What an answer over HTTP says, as tests read it."""

import json
from collections.abc import Iterator
from typing import Any

import httpx2


def ignored(reply: httpx2.Response) -> list[str]:
    assert reply.status_code == 200, reply.text
    return reply.headers.get("x-localinfra-ignored", "").split(", ")


def parsed(body: bytes) -> Iterator[Any]:
    """The events of a stream."""
    for line in body.splitlines():
        if line.startswith(b"data: {"):
            yield json.loads(line.removeprefix(b"data: "))


def assert_error(reply: httpx2.Response, status: int, param: str | None, code: str) -> None:
    assert reply.status_code == status, reply.text
    error = reply.json()["error"]
    assert (error["param"], error["code"]) == (param, code), error
    assert error["message"] and error["type"]
    assert reply.headers["x-request-id"]
