"""Which requests Guard lets through, and what it adds to every response."""

import logging
from collections.abc import Iterator
from typing import Any

import pytest
from asgi import Header, Reply, call, scope_of
from serving import Serving
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from localinfra.api.http.guard import Access, Guard
from localinfra.api.http.state import RequestState
from localinfra.config.settings import ServerSettings
from localinfra.errors import QueueFull

HOST = ("host", "localhost:8000")
HTTP_METHODS = ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"]
PATHS = ["/", "/health", "/health/", "/metrics", "/v1/models", "/nowhere", "//health", "/HEALTH"]


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    await PlainTextResponse("inside")(scope, receive, send)


def guarded(app: ASGIApp, **settings: Any) -> Guard:
    return Guard(app, Access(ServerSettings(**settings)))


async def guarded_path(scope: Scope, receive: Receive, send: Send) -> None:
    async def tell_path(scope: Scope, receive: Receive, send: Send) -> None:
        await PlainTextResponse(scope["path"])(scope, receive, send)

    if scope["type"] == "http":
        await guarded(tell_path)(scope, receive, send)
        return
    for step in ("startup", "shutdown"):
        await receive()
        await send({"type": f"lifespan.{step}.complete"})


@pytest.fixture(scope="module")
def server() -> Iterator[Serving]:
    serving = Serving(guarded_path)
    yield serving
    serving.close()


async def unreachable(scope: Scope, receive: Receive, send: Send) -> None:
    raise AssertionError("the app was reached")


def get(guard: Guard, *headers: Header, method: str = "GET", path: str = "/v1/models") -> Reply:
    return call(guard, scope_of(method, path, headers))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "hosts",
    [[], [("host", "evil.com")], [("host", "")], [HOST, HOST], [HOST, ("host", "evil.com")]],
    ids=["missing", "foreign", "empty", "twice", "ambiguous"],
)
def test_a_request_without_exactly_one_known_host_is_refused_on_every_path(
    hosts: list[Header], path: str
) -> None:
    reply = get(guarded(unreachable), *hosts, path=path)
    assert reply.status == 403
    assert reply.error["code"] == "forbidden" and "allowed_hosts" in reply.error["message"]


def test_hosts_come_from_the_settings_and_the_connection() -> None:
    guard = guarded(app, allowed_hosts=["box", "*.lan"])
    for host in ("box:8000", "a.lan", "127.0.0.1:8000"):
        assert get(guard, ("host", host)).status == 200
    scope = scope_of(headers=[("host", "10.0.0.7:8000")], server=("10.0.0.7", 8000))
    assert call(guard, scope).status == 200


@pytest.mark.parametrize(
    ("target", "host", "status"),
    [
        ("http://localhost:8000/v1/models", "localhost:8000", 200),
        ("HTTP://LOCALHOST/v1/models", "localhost:8000", 200),
        ("http://localhost:8000?a=b", "localhost:8000", 200),
        ("http://[::1]:8000", "localhost:8000", 200),
        ("http://evil.com/v1/models", "localhost:8000", 403),
        ("https://evil.com:8000", "localhost:8000", 403),
        ("http://localhost:8000/v1/models", "evil.com", 403),
        ("http://evil.com/v1/models", "evil.com", 403),
        ("http://localhost@evil.com/", "localhost", 403),
        ("http://evil.com@localhost/", "localhost", 403),
        ("http:///v1/models", "localhost", 403),
    ],
)
def test_the_host_of_an_absolute_url_is_checked_too(
    server: Serving, target: str, host: str, status: int
) -> None:
    with server.talk() as talk:
        reply = talk.ask(f"GET {target} HTTP/1.1\r\nhost: {host}\r\n\r\n".encode())
        assert reply.status == status, reply
        if status == 200:
            path = target.partition("?")[0].partition("://")[2].partition("/")[2]
            assert reply.body == f"/{path}".encode()


def test_the_host_is_never_taken_from_a_proxy_header() -> None:
    foreign = [
        ("host", "evil.com"),
        ("x-forwarded-host", "localhost"),
        ("forwarded", "host=localhost"),
    ]
    assert get(guarded(unreachable), *foreign).status == 403


@pytest.mark.parametrize("path", PATHS)
def test_a_foreign_page_is_refused_before_any_work(path: str) -> None:
    advice = {"https://evil.com": "allowed_origins", "null": "http://localhost"}
    for origin, words in advice.items():
        reply = get(guarded(unreachable), HOST, ("origin", origin), method="POST", path=path)
        assert reply.status == 403 and words in (reply.error["message"] or "")
        assert reply.header("access-control-allow-origin") is None


def test_desktop_apps_may_call_on_loopback_only() -> None:
    for origin in ("app://obsidian.md", "tauri://localhost", "vscode-webview://1a2b", "file://"):
        sent = [HOST, ("origin", origin), ("sec-fetch-site", "cross-site")]
        reply = get(guarded(app, host="localhost"), *sent, method="POST")
        assert reply.status == 200
        assert reply.header("access-control-allow-origin") == origin
        assert get(guarded(unreachable, host="192.168.1.20"), *sent, method="POST").status == 403


def test_two_origins_are_refused() -> None:
    local = ("origin", "http://localhost:3000")
    assert get(guarded(unreachable), HOST, local, local).status == 403


@pytest.mark.parametrize("origin", ["http://localhost:3000", "https://app.example.org"])
def test_an_allowed_page_can_read_the_answer(origin: str) -> None:
    reply = get(guarded(app, allowed_origins=["https://app.example.org"]), HOST, ("origin", origin))
    assert (reply.status, reply.body) == (200, b"inside")
    assert reply.header("access-control-allow-origin") == origin
    assert reply.header("vary") == "Origin"
    assert "x-request-id" in (reply.header("access-control-expose-headers") or "")
    assert reply.header("access-control-allow-credentials") is None


def test_an_allowed_page_can_read_why_it_was_refused() -> None:
    reply = get(guarded(unreachable, api_keys=["k"]), HOST, ("origin", "http://localhost:3000"))
    assert reply.status == 401
    assert reply.header("access-control-allow-origin") == "http://localhost:3000"


def test_without_an_origin_there_are_no_cors_headers() -> None:
    reply = get(guarded(app), HOST)
    assert not [name for name, _ in reply.headers if name.startswith("access-control")]


@pytest.mark.parametrize(
    ("site", "mode", "status"),
    [
        ("cross-site", "no-cors", 403),  # <img src="http://localhost:8000/...">
        ("cross-site", "", 403),
        ("cross-site", "navigate", 200),  # a link to the web page
        ("same-site", "no-cors", 200),
        ("same-origin", "cors", 200),
        ("none", "navigate", 200),  # typed into the address bar
    ],
)
def test_requests_without_origin_are_told_apart_by_fetch_metadata(
    site: str, mode: str, status: int
) -> None:
    fetch = [("sec-fetch-site", site), ("sec-fetch-mode", mode)]
    assert get(guarded(app), HOST, *fetch).status == status
    assert get(guarded(app, allowed_origins=["*"]), HOST, *fetch).status == 200


FORM = ("content-type", "multipart/form-data; boundary=x")  # needs no preflight


@pytest.mark.parametrize(
    "sent_by",
    [
        [("origin", "https://evil.com")],
        [("origin", "null")],  # from a sandboxed frame, or with no-referrer
        [("origin", ""), ("origin", "https://evil.com")],
        [("origin", ""), ("sec-fetch-site", "cross-site")],
        [("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate")],
        [("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "no-cors")],
    ],
)
def test_a_form_on_a_foreign_page_is_refused_before_any_work(sent_by: list[Header]) -> None:
    path = "/v1/inference/model"
    assert get(guarded(unreachable), HOST, FORM, *sent_by, method="POST", path=path).status == 403


def test_a_form_from_a_local_page_or_a_program_is_allowed() -> None:
    own = [("origin", "http://localhost:8000"), ("sec-fetch-site", "same-origin")]
    for sent_by in (own, [], [("origin", "")]):
        reply = get(guarded(app), HOST, FORM, *sent_by, method="POST", path="/v1/inference/model")
        assert reply.status == 200


def preflight(guard: Guard, origin: str, asked: str = "authorization, content-type") -> Reply:
    ask = [("access-control-request-method", "POST"), ("access-control-request-headers", asked)]
    return get(guard, HOST, ("origin", origin), *ask, method="OPTIONS", path="/v1/chat/completions")


def test_a_preflight_of_an_allowed_page_needs_no_key() -> None:
    reply = preflight(guarded(unreachable, api_keys=["k"]), "http://localhost:3000")
    assert (reply.status, reply.body) == (204, b"")
    assert reply.header("access-control-allow-origin") == "http://localhost:3000"
    assert "POST" in (reply.header("access-control-allow-methods") or "")
    assert reply.header("access-control-allow-headers") == "authorization, content-type"
    assert reply.header("access-control-max-age") == "600"


def test_a_preflight_of_a_foreign_page_is_refused() -> None:
    assert preflight(guarded(unreachable), "https://evil.com").status == 403


@pytest.mark.parametrize("asked", ["a" * 1001, "x: y", "x\ty", "ä", "a;b"])
def test_a_preflight_echoes_only_plain_header_names(asked: str) -> None:
    reply = preflight(guarded(unreachable), "http://localhost:3000", asked)
    assert reply.header("access-control-allow-headers") == "authorization, content-type"


def test_other_options_requests_are_not_preflights() -> None:
    assert get(guarded(unreachable, api_keys=["k"]), HOST, method="OPTIONS").status == 401


@pytest.mark.parametrize("method", HTTP_METHODS)
@pytest.mark.parametrize("path", PATHS)
def test_only_reading_health_and_the_page_needs_no_key(method: str, path: str) -> None:
    guard = guarded(app, api_keys=["secret"])
    is_open = path in ("/", "/health") and method in ("GET", "HEAD")
    for headers in ([], [("authorization", "Bearer wrong")], [("authorization", "Bearer ")]):
        reply = get(guard, HOST, *headers, method=method, path=path)
        assert reply.status == (200 if is_open else 401)
        if not is_open:
            assert reply.header("www-authenticate") == "Bearer"
            assert reply.error["code"] == "invalid_api_key"
    for key in (("authorization", "bearer secret"), ("x-api-key", "secret")):
        assert get(guard, HOST, key, method=method, path=path).status == 200


def test_refusals_on_anthropics_paths_have_their_shape() -> None:
    guard = guarded(unreachable, api_keys=["secret"])
    reply = get(guard, HOST, ("x-api-key", "wrong"), method="POST", path="/v1/messages")
    assert reply.status == 401 and reply.error["type"] == "authentication_error"
    assert reply.body.startswith(b'{"type":"error"')
    assert reply.header("request-id") == reply.header("x-request-id")


def test_with_no_keys_an_empty_bearer_is_fine() -> None:
    assert get(guarded(app), HOST, ("authorization", "Bearer ")).status == 200


def test_keys_are_never_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    get(guarded(unreachable, api_keys=["secret"]), HOST, ("authorization", "Bearer guess-123"))
    get(guarded(unreachable, api_keys=["secret"]), HOST, ("authorization", "Bearer secret"))
    assert "secret" not in caplog.text and "guess-123" not in caplog.text


@pytest.mark.parametrize("given", ["a", "A-z_09", "x" * 64])
def test_a_clients_request_id_is_kept(given: str) -> None:
    reply = get(guarded(app), HOST, ("x-request-id", given))
    assert reply.header("x-request-id") == given == RequestState.of(reply.scope).id


@pytest.mark.parametrize("given", ["", "x" * 65, "a b", "a\n", "<script>", "ä", "a,b"])
def test_any_other_request_id_is_replaced(given: str) -> None:
    reply = get(guarded(app), HOST, ("x-request-id", given))
    assert reply.header("x-request-id") == RequestState.of(reply.scope).id != given
    assert len(reply.header("x-request-id") or "") == 32


def test_every_answer_has_its_own_request_id() -> None:
    guard = guarded(app, api_keys=["k"])
    replies = [get(guard, HOST, path="/health"), get(guard, HOST), get(guard)]
    assert [reply.status for reply in replies] == [200, 401, 403]
    assert len({reply.header("x-request-id") for reply in replies}) == 3


def test_an_unexpected_failure_is_logged_and_reported_without_details(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def failing(scope: Scope, receive: Receive, send: Send) -> None:
        raise ZeroDivisionError("private detail")

    local = ("origin", "http://localhost:3000")
    reply = get(guarded(failing), HOST, local, ("x-request-id", "id-7"))
    assert reply.status == 500 and reply.error["request_id"] == "id-7"
    assert b"private detail" not in reply.body and b"Traceback" not in reply.body
    assert reply.header("x-request-id") == "id-7" and reply.header("vary") == "Origin"
    assert "id-7" in caplog.text and "private detail" in caplog.text


def test_an_unrendered_api_error_keeps_its_status() -> None:
    async def full(scope: Scope, receive: Receive, send: Send) -> None:
        raise QueueFull("later", retry_after_s=3)

    reply = get(guarded(full), HOST)
    assert (reply.status, reply.header("retry-after")) == (429, "3")


def test_a_failure_after_the_first_byte_is_left_to_the_server() -> None:
    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        get(guarded(broken), HOST)
