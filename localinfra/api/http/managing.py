"""Who may manage models, running requests and conversations: holders of a key, and on a server
without keys only this machine's own programs and the server's own page."""

from starlette.requests import Request

from localinfra.addresses import is_loopback
from localinfra.api.http.hosts import is_same_origin, parse_authority
from localinfra.api.http.state import AppState
from localinfra.errors import Forbidden

# With one of these the request comes from a program of this machine that passes on others'.
OF_PROXIES = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via")


def check_may_manage(request: Request, what: str = "models and running requests") -> None:
    """Raises Forbidden. The guard has checked the key, if the server has any."""
    if AppState.of(request.app).runtime.settings.api_keys:
        return
    is_here = request.client is not None and is_loopback(request.client.host)
    if not is_here or any(name in request.headers for name in OF_PROXIES):
        raise Forbidden(
            f"Without an API key, {what} can only be managed from the server's own machine. "
            "Set api_keys in [server] or LOCALINFRA_API_KEYS, and send one of them."
        )
    host = parse_authority(request.headers.get("host", ""))
    for origin in request.headers.getlist("origin"):
        if host is None or not is_same_origin(origin, host, request.scope.get("scheme") == "https"):
            raise Forbidden(
                f"Pages of {origin[:200]!r} may not manage {what} without an API key: use "
                "the server's own page, or set api_keys in [server]."
            )
