"""The first thing a request meets: its id, then Host, Origin and key, before any work or body.

Decides on the method, path and headers of the scope alone, never on `request.url` (which a Host
header can bend). Refusals and every failure that nobody else rendered leave here as JSON.
"""

import re
from collections.abc import Iterable
from typing import cast

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from localinfra.api.http.auth import ApiKeys
from localinfra.api.http.errors import as_api_error, error_response, speaks_anthropic
from localinfra.api.http.hosts import Authority, HostRules, OriginRules, parse_authority
from localinfra.api.http.state import RequestState
from localinfra.chance import random_hex
from localinfra.errors import Forbidden, Unauthorized

REQUEST_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
HEADER_NAMES = re.compile(r"[A-Za-z0-9_, -]{0,1000}")  # what a preflight may have echoed
EXPOSED_HEADERS = (
    "x-request-id, request-id, x-localinfra-ignored, x-localinfra-truncated, retry-after"
)
OPEN_PATHS = frozenset({"/health"})  # to be read without a key
IMAGE_FILES = "/v1/images/files"  # and what is below: nobody can guess the names


class Guard:
    """ASGI middleware around all that judges or works.

    Every response gets `x-request-id` (the client's own, if it is a plain word of up to 64
    characters). It is also in the `RequestState`, as is who calls. Only reading an open path and
    CORS preflights need no key: a path that doesn't exist needs one too, so nothing about the
    routes leaks.
    """

    def __init__(
        self,
        app: ASGIApp,
        allowed_hosts: Iterable[str] = (),
        allowed_origins: Iterable[str] = (),
        api_keys: Iterable[str] = (),
        on_loopback: bool = False,
    ):
        """`allowed_hosts`: names, or `*.lan` for all below; `allowed_origins`: origins, or `*`.
        `on_loopback`: no other machine reaches the server, so that desktop apps may use it."""
        self.app = app
        self.hosts = HostRules(allowed_hosts)
        self.origins = OriginRules(allowed_origins, takes_desktop_apps=on_loopback)
        self.keys = ApiKeys(api_keys)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})  # no route takes one
        elif scope["type"] == "http":
            await self.guard(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def guard(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        state = RequestState.of(scope)
        state.id = request_id_of(headers)
        own_headers = {"x-request-id": state.id}
        if speaks_anthropic(scope):
            own_headers["request-id"] = state.id  # where its SDKs look
        started = False

        async def reply(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message["headers"] = [*message.get("headers", ()), *Headers(own_headers).raw]
            await send(message)

        try:
            host = self.check_host(headers, scope)
            own_headers |= self.check_origin(headers, host, scope["method"])
            app = self.app
            if is_preflight(headers, scope):
                app = preflight(headers)
            elif not is_open(scope["path"]) or scope["method"] not in ("GET", "HEAD"):
                state.caller = self.check_key(headers)
            await app(scope, receive, reply)
        except ClientDisconnect:
            return  # ordinary: nobody is left to answer
        except Exception as error:
            if started:
                raise  # half an answer is out: the server can only cut the connection
            await error_response(as_api_error(error, scope), scope)(scope, receive, reply)

    def check_host(self, headers: Headers, scope: Scope) -> Authority:
        """Against DNS rebinding: a page that had its name pointed here still sends that name. Of
        two hosts both have to be ours, whichever one a proxy in between went by."""
        given = headers.getlist("host")
        if (target := RequestState.of(scope).target_host) is not None:
            given = [target, *(host for host in given if host != target)]
        hosts = [parse_authority(host) for host in given]
        server = scope.get("server")  # (address, port) of this end of the connection
        arrived_at = server[0] if server else None
        if len(headers.getlist("host")) != 1 or not all(
            host is not None and self.hosts.allows(host, arrived_at) for host in hosts
        ):
            raise Forbidden(
                f"This server does not answer to the host {', '.join(given)[:200]!r}. If the name "
                "is yours, list it in allowed_hosts under [server] of models.toml."
            )
        return cast(Authority, hosts[0])

    def check_origin(self, headers: Headers, host: Authority, method: str) -> dict[str, str]:
        """Returns the CORS headers for an allowed page, none where no page is involved.

        CORS alone only hides the answer: the work a foreign page asks for has to be refused here.
        """
        given = [origin for origin in headers.getlist("origin") if origin]
        if not given and not is_foreign_fetch(headers, method):
            return {}
        if not self.origins.allows_all and not (
            len(given) == 1 and self.origins.allows(given[0], host)
        ):
            page = ", ".join(given)[:200] or "other sites"
            if page == "null":
                raise Forbidden(
                    "A page opened from a file or in a sandboxed frame does not say whose it is, "
                    "so it may not use this server: open it from http://localhost."
                )
            raise Forbidden(
                f"Pages of {page!r} may not use this server. If it is yours, list it in "
                "allowed_origins under [server] of models.toml."
            )
        return {
            "access-control-allow-origin": given[0] if given else "*",
            "access-control-expose-headers": EXPOSED_HEADERS,
            "vary": "Origin",
        }

    def check_key(self, headers: Headers) -> str:
        """Returns what the key's holder is called."""
        given = headers.get("authorization", ""), headers.get("x-api-key", "")
        caller = self.keys.caller(*given)
        if caller is None:
            raise Unauthorized(
                "The API key is missing or unknown. Send 'Authorization: Bearer KEY' with one of "
                "the keys this server was started with."
            )
        return caller


def is_open(path: str) -> bool:
    """An image's address is as good as a key for it, and browsers fetch it without one."""
    return path in OPEN_PATHS or path.startswith(IMAGE_FILES + "/")


def request_id_of(headers: Headers) -> str:
    given = headers.get("x-request-id", "")
    return given if REQUEST_ID.fullmatch(given) else random_hex(32)


def is_foreign_fetch(headers: Headers, method: str) -> bool:
    """A page's <img>, <script> or no-cors fetch, which has no Origin, or its form, should a browser
    send that without; following a link is fine."""
    follows_link = headers.get("sec-fetch-mode") == "navigate" and method in ("GET", "HEAD")
    return headers.get("sec-fetch-site") == "cross-site" and not follows_link


def is_preflight(headers: Headers, scope: Scope) -> bool:
    asks = "origin" in headers and "access-control-request-method" in headers
    return scope["method"] == "OPTIONS" and asks


def preflight(headers: Headers) -> Response:
    """A browser asks before it sends a key, so this is answered without one."""
    asked = headers.get("access-control-request-headers", "")
    allow_headers = asked if HEADER_NAMES.fullmatch(asked) else "authorization, content-type"
    return Response(
        status_code=204,
        headers={
            "access-control-allow-methods": "GET, POST, DELETE, OPTIONS",
            "access-control-allow-headers": allow_headers,
            "access-control-max-age": "600",  # seconds
        },
    )
