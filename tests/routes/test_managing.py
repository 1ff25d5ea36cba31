"""Loading and unloading models by request, and who may."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from asgi import Header, Reply, call, scope_of
from echo import ECHO, EchoServer
from waiting import wait_for

from localinfra.api.app import create_app
from localinfra.config.settings import ServerSettings
from localinfra.models.catalog import Catalog
from localinfra.runtime import Runtime


@pytest.fixture
def own(tmp_path: Path) -> Iterator[EchoServer]:
    server = EchoServer(tmp_path)
    yield server
    server.close()


def test_a_model_is_loaded_and_unloaded_under_any_of_its_names(own: EchoServer) -> None:
    for name in (ECHO, "echo", ECHO.replace("/", "%2F")):
        card = own.client.post(f"/v1/models/{name}/load").json()
        assert (card["id"], card["state"], card["context_length"]) == (ECHO, "loaded", 2048)
        assert ECHO in own.runtime.loaded()
        card = own.client.post(f"/v1/models/{name}/unload").json()
        assert (card["id"], card["state"]) == (ECHO, "present") and "memory" not in card
        assert not own.runtime.loaded()


def test_what_can_not_be_loaded_has_the_error_of_a_request_for_it(own: EchoServer) -> None:
    for name, status in (("absent", 503), ("damaged", 503), ("nobody", 404)):
        loading = own.client.post(f"/v1/models/{name}/load")
        asking = own.post("/v1/completions", {"model": name, "prompt": "Hi"})
        assert loading.status_code == asking.status_code == status
        assert loading.json()["error"]["message"] == asking.json()["error"]["message"]
    assert own.client.post("/v1/models/absent/unload").status_code == 200


def test_a_model_is_unloaded_after_the_answers_it_is_giving(own: EchoServer) -> None:
    body = {"model": "slow", "prompt": "endless", "max_tokens": 200, "stream": True}
    cards = []
    with own.client.stream("POST", "/v1/completions", json=body) as answer:
        pieces = answer.iter_bytes()
        next(pieces)
        unloading = threading.Thread(
            target=lambda: cards.append(own.client.post("/v1/models/slow/unload").json())
        )
        unloading.start()
        rest = b"".join(pieces)
    unloading.join()
    assert b'"finish_reason":"length"' in rest and b"error" not in rest
    assert [card["state"] for card in cards] == ["present"]
    wait_for(lambda: "slow" not in own.runtime.loaded())


ROUTES = {  # of managing → the status if one may: there is no such model and no such request
    ("POST", "/v1/models/nobody/unload"): 404,
    ("GET", "/v1/requests"): 200,
    ("DELETE", "/v1/requests/nobody"): 404,
}


def managed(
    origin: str | None = None,
    client: str = "127.0.0.1",
    key: str = "",
    keys: tuple[str, ...] = (),
    more: tuple[Header, ...] = (),
    route: tuple[str, str] = ("POST", "/v1/models/nobody/unload"),
) -> Reply:
    """The answer to a request to manage something, on a server with these keys."""
    settings = ServerSettings(api_keys=keys, allowed_origins=("https://friend.example",))
    headers: list[Header] = [("host", "localhost:8000"), *more]
    headers += [("origin", origin)] if origin else []
    headers += [("authorization", f"Bearer {key}")] if key else []
    scope = scope_of(*route, headers)
    scope["client"] = (client, 50_000)
    return call(create_app(Runtime(settings, Catalog({}))), scope)


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize(
    ("origin", "client", "may"),
    [
        (None, "127.0.0.1", True),
        (None, "::1", True),
        ("http://localhost:8000", "127.0.0.1", True),
        ("http://localhost:3000", "127.0.0.1", False),  # another program's page
        ("https://friend.example", "127.0.0.1", False),
        ("app://obsidian", "127.0.0.1", False),
        (None, "192.168.1.7", False),
    ],
)
def test_without_keys_only_this_machine_and_the_servers_own_page_may_manage(
    origin: str | None, client: str, may: bool, route: tuple[str, str]
) -> None:
    assert managed(origin, client, route=route).status == (ROUTES[route] if may else 403)


@pytest.mark.parametrize("name", ["forwarded", "x-forwarded-for", "x-real-ip", "via"])
def test_a_proxy_on_this_machine_does_not_make_others_its_programs(name: str) -> None:
    header = (name, "203.0.113.9")
    assert managed(more=(header,)).status == 403
    assert managed(more=(header,), key="k", keys=("k",)).status == 404


def test_with_a_key_anyone_may_manage_from_anywhere() -> None:
    assert managed(client="192.168.1.7", key="k", keys=("k",)).status == 404
    assert managed("https://friend.example", key="k", keys=("k",)).status == 404
    assert managed(keys=("k",)).status == 401


def test_metrics_show_the_memory_of_models_and_the_budget(own: EchoServer) -> None:
    own.client.post("/v1/models/echo/load")
    lines = own.client.get("/metrics").text.splitlines()
    assert any(line.startswith('localinfra_memory_budget_bytes{device="cpu"} ') for line in lines)
    assert "# TYPE localinfra_model_memory_bytes gauge" in lines
