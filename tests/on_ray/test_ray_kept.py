"""What one replica keeps is found by its id, through gateways that have not seen it made."""

from collections.abc import Iterator

import pytest
from ray_process import RayServer

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def two_gateways(server: RayServer) -> Iterator[None]:
    """They know nothing of each other's requests."""
    with server.changed("[ray.group.rest]", "[ray]\ngateways = 2\n\n[ray.group.rest]"):
        yield


def test_images_are_fetched_through_any_gateway_whoever_painted_them(
    server: RayServer, two_gateways: None
) -> None:
    body = {"prompt": "a river", "response_format": "url", "size": "64x64", "n": 1}
    urls: list[str] = []
    while len(urls) < 4 or len(server.answering("rest", "/v1/images/generations")) < 2:
        reply = server.post("/v1/images/generations", body)
        urls.append(reply.json()["data"][0]["url"])
    for url in urls * 4:
        got = server.client.get(url)
        assert got.headers["content-type"] == "image/png" and got.content.startswith(b"\x89PNG")
    assert server.client.get(f"{urls[0]}x").status_code == 404


def test_answers_in_the_background_are_read_and_cancelled_through_any_gateway(
    server: RayServer, two_gateways: None
) -> None:
    body = {"model": "slow", "temperature": 0, "background": True}
    texts = [f"river {number}" for number in range(4)]
    started = [server.post("/v1/responses", body | {"input": text}).json()["id"] for text in texts]
    for id, text in zip(started, texts, strict=True):
        while (found := server.client.get(f"/v1/responses/{id}").json())["status"] != "completed":
            assert found["status"] in ("queued", "in_progress")
        assert found["output"][0]["content"][0]["text"] == text
    for text in texts:
        long = body | {"input": text * 100, "max_output_tokens": 900}
        id = server.post("/v1/responses", long).json()["id"]
        reply = server.client.post(f"/v1/responses/{id}/cancel")
        assert reply.json()["status"] == "cancelled"


def test_stored_responses_are_found_through_any_gateway(
    server: RayServer, two_gateways: None
) -> None:
    for number in range(4):
        body = {"model": "echo", "input": f"remember {number}", "temperature": 0}
        first = server.client.post("/v1/responses", json=body).json()
        assert server.client.get(f"/v1/responses/{first['id']}").json() == first
        going_on = body | {"input": "and?", "previous_response_id": first["id"]}
        assert server.client.post("/v1/responses", json=going_on).status_code == 200
