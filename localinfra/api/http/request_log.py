"""One log line per request: caller, path, status and reason. Never the body."""

import logging
import re

from starlette.types import Scope

from localinfra.api.http.state import RequestState
from localinfra.errors import ApiError
from localinfra.logs import about, kind, shown

log = logging.getLogger("localinfra.requests")

# All names below these fields of a body are the client's own.
OWN_NAMES = re.compile(
    r"(?<![^.])(?P<field>parameters|input_schema|schema|chat_template_kwargs|metadata)[.[].*",
    re.DOTALL,
)


def log_request(scope: Scope, status: int | None, seconds: float) -> None:
    """Logs success at debug level and failure as a warning, with the error kept by
    `remember_error`. `status`: None if the client left before the response began."""
    state = RequestState.of(scope)
    method, path, error = shown(scope["method"], 20), shown(scope["path"]), state.error
    failed = error is not None or (status is not None and status >= 400)
    if not failed and not log.isEnabledFor(logging.DEBUG):
        return
    log.log(
        logging.WARNING if failed else logging.DEBUG,
        "%s %s %s%s",
        method,
        path,
        "left" if status is None else status,
        f" {reason(error)}" if error else "",
        extra=kind(status)
        | about(
            state.id,
            said={"method": method, "path": path, "status": status, "error": code(error)},
            client=client_name(scope.get("client")),
            key=state.caller,
            model=state.model,
            ms=round(seconds * 1000),
        ),
    )


def log_refusal(error: ApiError, scope: Scope, client: tuple[str, int] | None) -> None:
    """Logs input that never became a request; the message concerns only its head."""
    path, id = shown(scope["path"]), RequestState.of(scope).id
    said = {"path": path, "status": error.status, "error": code(error)}
    log.warning(
        "%s %s %s",
        path or "connection",
        error.status,
        f"{code(error)}: {shown(error.message)}",
        extra=kind(error.status) | about(id, said=said, client=client_name(client)),
    )


def remember_error(error: ApiError, scope: Scope) -> None:
    """Keeps the error for the request's log line, even if the response began with 200."""
    RequestState.of(scope).error = error


def code(error: ApiError | None) -> str:
    return error.code or error.type if error else ""


def reason(error: ApiError) -> str:
    """The error's kind and place in the body, never the value there."""
    place = OWN_NAMES.sub(r"\g<field>...", error.param or "")
    where = f" ({shown(place, 64)})" if place else ""
    what = f": {shown(error.for_log)}" if error.for_log else ""
    return f"{code(error)}{where}{what}"


def client_name(client: tuple[str, int] | None) -> str:
    return f"{shown(str(client[0]), 64)}:{client[1]}" if client else ""
