"""One line of the log for a request: who asked for what, and why it was refused. Never a body."""

import logging

from starlette.types import Scope

from localinfra.api.http.state import RequestState
from localinfra.errors import ApiError
from localinfra.logs import kind, shown

log = logging.getLogger("localinfra.requests")


def log_request(scope: Scope, status: int | None, seconds: float) -> None:
    """At debug level if the answer is what was asked for, else as a warning with the reason that
    `remember_error` noted. `status`: None if nothing was sent, since the client had left."""
    state = RequestState.of(scope)
    error = state.error
    failed = error is not None or (status is not None and status >= 400)
    if not failed and not log.isEnabledFor(logging.DEBUG):
        return
    log.log(
        logging.WARNING if failed else logging.DEBUG,
        "%s %s %s%s id=%s client=%s key=%s in %.0f ms",
        shown(scope["method"], 20),
        shown(scope["path"]),
        "left" if status is None else status,
        f" {reason(error)}" if error else "",
        state.id or "-",
        client_name(scope.get("client")),
        state.caller or "-",
        seconds * 1000,
        extra=kind(status),
    )


def log_refusal(error: ApiError, scope: Scope, client: tuple[str, int] | None) -> None:
    """For what never became a request."""
    log.warning(
        "%s %s %s id=%s client=%s",
        shown(scope["path"]) or "connection",
        error.status,
        reason(error),
        RequestState.of(scope).id,
        client_name(client),
        extra=kind(error.status),
    )


def remember_error(error: ApiError, scope: Scope) -> None:
    """For the request's line, also where an answer had begun with 200."""
    RequestState.of(scope).error = error


def reason(error: ApiError) -> str:
    where = f" ({shown(error.param, 64)})" if error.param else ""
    return f"{error.code or error.type}{where}: {shown(error.message)}"


def client_name(client: tuple[str, int] | None) -> str:
    return f"{shown(str(client[0]), 64)}:{client[1]}" if client else "-"
