"""Who may manage models, running requests and conversations: holders of a key, models only if it
says so; on a server without keys only this machine's own programs and the server's own page."""

from starlette.requests import Request

from localinfra.addresses import is_loopback
from localinfra.api.http.hosts import is_same_origin, parse_authority
from localinfra.api.http.state import RequestState
from localinfra.errors import Forbidden
from localinfra.keys.holders import NO_KEY

# With one of these the request comes from a program of this machine that passes on others'.
OF_PROXIES = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via")


def check_may_manage(request: Request) -> None:
    """Whether the request may manage models. Raises Forbidden."""
    check_has_own(request, "models and running requests")
    if not RequestState.of(request.scope).may_manage:
        raise Forbidden(
            "This API key may not manage models: use one that was made with --manage, by "
            "`localinfra key new NAME --manage`."
        )


def check_has_own(request: Request, what: str = "models and running requests") -> None:
    """Whether the request may see and manage what its key's holder has here. Raises Forbidden. The
    guard has checked the key, if the server has any."""
    if RequestState.of(request.scope).caller not in ("", NO_KEY):
        return
    is_here = request.client is not None and is_loopback(request.client.host)
    if not is_here or any(name in request.headers for name in OF_PROXIES):
        raise Forbidden(
            f"Without an API key, {what} can only be managed from the server's own machine. "
            "Set api_keys in [server] or LOCALINFRA_API_KEYS, or make a key with `localinfra key "
            "new NAME --manage`, and send it."
        )
    host = parse_authority(request.headers.get("host", ""))
    for origin in request.headers.getlist("origin"):
        if host is None or not is_same_origin(origin, host, request.scope.get("scheme") == "https"):
            raise Forbidden(
                f"Pages of {origin[:200]!r} may not manage {what} without an API key: use "
                "the server's own page, or set api_keys in [server]."
            )
