"""First checks of a request: sets its id, then checks Host, Origin and key before any other work.

Relies only on the scope's method, path and headers, never on `request.url` (which a Host header
can forge). Renders its own refusals and all errors not rendered elsewhere as JSON.
"""

import re
from typing import cast

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from localinfra import logs
from localinfra.api.http.auth import offered_keys
from localinfra.api.http.errors import as_api_error, error_response, speaks_anthropic
from localinfra.api.http.hosts import Authority, HostRules, OriginRules, parse_authority
from localinfra.api.http.limiting import limit_headers
from localinfra.api.http.state import RequestState
from localinfra.chance import random_hex
from localinfra.config.settings import ServerSettings, is_local
from localinfra.errors import Forbidden, Unauthorized, UpgradeRequired
from localinfra.keys.holders import Holder, Holders
from localinfra.keys.meter import Permit
from localinfra.shares import current_client

REQUEST_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
HEADER_NAMES = re.compile(r"[A-Za-z0-9_, -]{0,1000}")  # echoed to a preflight
EXPOSED_HEADERS = ", ".join(
    (
        "x-request-id, request-id, x-localinfra-ignored, x-localinfra-truncated, retry-after",
        *limit_headers(anthropic=False),
        *limit_headers(anthropic=True),
    )
)
OPENAPI = "/openapi.json"
DOCS = "/docs"  # and below it: the page that shows the document, and asks for a key to try
OPEN_PATHS = frozenset({"/", "/health", OPENAPI, DOCS})  # readable without a key
IMAGE_FILES = "/v1/images/files"  # paths below it are open too: their names can't be guessed
PAGE_FILES = "/web"  # and below this: the page, which asks for the key


class Access:
    """Who may call, by the settings that were last applied and the named keys."""

    def __init__(self, settings: ServerSettings | None = None, holders: Holders | None = None):
        self.holders = holders or Holders()
        self.apply(settings or ServerSettings())

    def apply(self, settings: ServerSettings) -> None:
        self.hosts = HostRules((settings.host, *settings.allowed_hosts))
        # Desktop apps may use a server that no other machine can reach.
        self.origins = OriginRules(
            settings.allowed_origins, takes_desktop_apps=is_local(settings.host)
        )
        is_open_allowed = settings.allow_unauthenticated or is_local(settings.host)
        self.holders.apply(settings.api_keys, is_open_allowed=is_open_allowed)


class Guard:
    """ASGI middleware around the application.

    Every response gets `x-request-id` (the client's, if it is a plain word of up to 64
    characters). It and the caller are also in the `RequestState`. Only GETs of open paths and CORS
    preflights need no key: unknown paths need one too, so that routes can't be probed.
    """

    def __init__(self, app: ASGIApp, access: Access):
        self.app = app
        self.access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            # Behind a proxy that speaks it; our own connections refuse it themselves. In HTTP: the
            # server answers the handshake so by ASGI's extension `websocket.http.response`.
            refusal = error_response(UpgradeRequired(), scope, {"upgrade": "HTTP/1.1"})
            await refusal(scope, receive, send)
        elif scope["type"] == "http":
            await self.guard(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def guard(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        state = RequestState.of(scope)
        state.id = request_id_of(headers)
        logs.request_id.set(state.id)
        own_headers = {"x-request-id": state.id}
        if speaks_anthropic(scope):
            own_headers["request-id"] = state.id  # the name its SDKs read
        state.headers = own_headers
        started = False

        async def reply(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message["headers"] = [*message.get("headers", ()), *Headers(own_headers).raw]
            await send(message)

        try:
            host = self.check_host(headers, scope)
            own_headers |= self.check_origin(headers, host, scope)
            app = self.app
            if is_preflight(headers, scope):
                app = preflight(headers)
            elif is_open(scope["path"]) and scope["method"] in ("GET", "HEAD"):
                state.permit = self.permit_without_key(headers)
            else:
                await self.access.holders.refresh()
                holder = self.check_key(headers)
                state.caller, state.may_manage = holder.label, holder.may_manage
                current_client.set(holder.label)
                state.permit = self.access.holders.permit(holder)
            await app(scope, receive, reply)
        except ClientDisconnect:
            return  # ordinary, and no response can be sent
        except Exception as error:
            if started:
                raise  # the response has begun: the server can only close the connection
            await error_response(as_api_error(error, scope), scope)(scope, receive, reply)

    def check_host(self, headers: Headers, scope: Scope) -> Authority:
        """Prevents DNS rebinding: a page whose name was pointed here still sends that name. If two
        hosts are given, both must be ours, since a proxy may have gone by either."""
        given = headers.getlist("host")
        if (target := RequestState.of(scope).target_host) is not None:
            given = [target, *(host for host in given if host != target)]
        hosts = [parse_authority(host) for host in given]
        server = scope.get("server")  # (address, port) of this end of the connection
        local_address = server[0] if server else None
        if len(headers.getlist("host")) != 1 or not all(
            host is not None and self.access.hosts.allows(host, local_address) for host in hosts
        ):
            raise Forbidden(
                f"This server does not answer to the host {', '.join(given)[:200]!r}. If the name "
                "is yours, add it to allowed_hosts under [server] of models.toml, or to "
                "LOCALINFRA_ALLOWED_HOSTS."
            )
        return cast(Authority, hosts[0])

    def check_origin(self, headers: Headers, host: Authority, scope: Scope) -> dict[str, str]:
        """Returns the CORS headers for an allowed page; empty if no page is involved.

        CORS by itself only hides the response: a foreign page's request must be refused here.
        """
        given = [origin for origin in headers.getlist("origin") if origin]
        if not given and not is_foreign_fetch(headers, scope["method"]):
            return {}
        origins, is_encrypted = self.access.origins, scope.get("scheme") == "https"
        if not origins.allows_all and not (
            len(given) == 1 and origins.allows(given[0], host, is_encrypted=is_encrypted)
        ):
            page = ", ".join(given)[:200] or "other sites"
            if page == "null":
                raise Forbidden(
                    "Pages opened from a file or in a sandboxed frame (origin null) may not use "
                    "this server: open the page from http://localhost."
                )
            raise Forbidden(
                f"Pages of {page!r} may not use this server. If the page is yours, add its origin "
                "to allowed_origins under [server] of models.toml."
            )
        return {
            "access-control-allow-origin": given[0] if given else "*",
            "access-control-expose-headers": EXPOSED_HEADERS,
            "vary": "Origin",
        }

    def permit_without_key(self, headers: Headers) -> Permit:
        """For open paths: a key still says whose models may be told of; without one, none, if the
        server asks for keys. New keys are known to the next such request: health waits for no
        disk."""
        self.access.holders.look()
        holder = self.holder(headers)
        return Permit(models=self.access.holders.permit(holder).models if holder else frozenset())

    def holder(self, headers: Headers) -> Holder | None:
        given = headers.get("authorization", ""), headers.get("x-api-key", "")
        return self.access.holders.holder(offered_keys(*given))

    def check_key(self, headers: Headers) -> Holder:
        """Raises Unauthorized: the same for keys that are unknown, revoked or have expired."""
        holder = self.holder(headers)
        if holder is None:
            raise Unauthorized(
                "The API key is missing or unknown. Send 'Authorization: Bearer KEY' with one of "
                "this server's keys."
            )
        return holder


def is_open(path: str) -> bool:
    """Browsers open pages and images without a key. Only its URL gives access to an image; the
    pages are the same on every server."""
    return path in OPEN_PATHS or path.startswith((IMAGE_FILES + "/", DOCS + "/", PAGE_FILES + "/"))


def request_id_of(headers: Headers) -> str:
    given = headers.get("x-request-id", "")
    return given if REQUEST_ID.fullmatch(given) else random_hex(32)


def is_foreign_fetch(headers: Headers, method: str) -> bool:
    """Another site's <img>, <script> or no-cors fetch, which has no Origin, or its form, should a
    browser send that without one. Following a link is allowed."""
    follows_link = headers.get("sec-fetch-mode") == "navigate" and method in ("GET", "HEAD")
    return headers.get("sec-fetch-site") == "cross-site" and not follows_link


def is_preflight(headers: Headers, scope: Scope) -> bool:
    asks = "origin" in headers and "access-control-request-method" in headers
    return scope["method"] == "OPTIONS" and asks


def preflight(headers: Headers) -> Response:
    """The answer to a preflight, which browsers send without a key."""
    asked = headers.get("access-control-request-headers", "")
    allow_headers = asked if HEADER_NAMES.fullmatch(asked) else "authorization, content-type"
    return Response(
        status_code=204,
        headers={
            "access-control-allow-methods": "GET, POST, PUT, DELETE, OPTIONS",
            "access-control-allow-headers": allow_headers,
            "access-control-max-age": "600",  # seconds
        },
    )
