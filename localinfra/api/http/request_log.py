"""One line of the log for a request: who asked for what, and why it was refused. Never a body."""

import logging
import re

from starlette.types import Scope

from localinfra.api.http.state import RequestState
from localinfra.errors import ApiError
from localinfra.logs import kind, shown

log = logging.getLogger("localinfra.requests")

# Below these fields of a body all names are the client's.
OWN_NAMES = re.compile(
    r"(?<![^.])(?P<field>parameters|input_schema|schema|chat_template_kwargs|metadata)[.[].*",
    re.DOTALL,
)


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
    """For what never became a request, of whose head alone the message tells."""
    log.warning(
        "%s %s %s id=%s client=%s",
        shown(scope["path"]) or "connection",
        error.status,
        f"{error.code or error.type}: {shown(error.message)}",
        RequestState.of(scope).id,
        client_name(client),
        extra=kind(error.status),
    )


def remember_error(error: ApiError, scope: Scope) -> None:
    """For the request's line, also where an answer had begun with 200."""
    RequestState.of(scope).error = error


def reason(error: ApiError) -> str:
    """Where in the body something is wrong and of what kind that is: never what stands there."""
    place = OWN_NAMES.sub(r"\g<field>...", error.param or "")
    where = f" ({shown(place, 64)})" if place else ""
    what = f": {shown(error.for_log)}" if error.for_log else ""
    return f"{error.code or error.type}{where}{what}"


def client_name(client: tuple[str, int] | None) -> str:
    return f"{shown(str(client[0]), 64)}:{client[1]}" if client else "-"
