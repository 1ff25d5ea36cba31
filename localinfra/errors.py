"""Errors for clients, each with its status, code and param. Renders and logs nothing.

Raised where the fact is known; one handler in `api/` makes them responses, `cli/` one line.
"""

import math
from typing import Literal


class ApiError(Exception):
    """An error with an HTTP status. `message` tells the reader what to do next."""

    status = 500
    type = "server_error"
    code: str | None = None
    quotes_body = False  # the message may hold values of the request's body

    def __init__(
        self,
        message: str,
        param: str | None = None,
        retry_after_s: int | None = None,
        fault: str = "",
    ):
        """`fault`: what is wrong, without any value of the body."""
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s  # sent as the Retry-After header
        self.fault = fault

    @property
    def for_log(self) -> str:
        """The message for the log, which must not contain any value of a body."""
        return self.fault if self.quotes_body else self.message


class InvalidRequest(ApiError):
    """The request can't be understood, or a value is out of its range."""

    status, type, code = 400, "invalid_request_error", "invalid_value"
    quotes_body = True


class UnsupportedParameter(InvalidRequest):
    """A parameter this API knows, but that this model or release can't honour."""

    code = "unsupported_parameter"


class ContextLengthExceeded(InvalidRequest):
    """The prompt does not fit into the model's context."""

    code = "context_length_exceeded"
    quotes_body = False

    def __init__(
        self, num_tokens: int, limit: int, param: str = "messages", *, is_exact: bool = True
    ):
        """`is_exact`: false if counting stopped at `num_tokens`."""
        # Clients parse this wording (litellm reads the text, not the code): keep it.
        super().__init__(
            f"This model's maximum context length is {limit} tokens, however your request has "
            f"{'' if is_exact else 'at least '}{num_tokens} prompt tokens and the answer needs "
            "room for one more. Shorten the prompt, or raise context_length for this model in "
            "models.toml.",
            param,
        )


class Unauthorized(ApiError):
    status, type, code = 401, "authentication_error", "invalid_api_key"


class Forbidden(ApiError):
    """Host or origin refused."""

    status, type, code = 403, "permission_error", "forbidden"


class NotFound(ApiError):
    status, type, code = 404, "invalid_request_error", "not_found"


class ModelNotFound(NotFound):
    code = "model_not_found"
    quotes_body = True


class MethodNotAllowed(ApiError):
    status, type, code = 405, "invalid_request_error", "method_not_allowed"


class Conflict(ApiError):
    """What the request would change has been changed by another one meanwhile."""

    status, type, code = 409, "invalid_request_error", "conflict"


class RequestTimeout(ApiError):
    """The head or the body came too slowly."""

    status, type, code = 408, "invalid_request_error", "request_timeout"


class BodyTooLarge(ApiError):
    status, type, code = 413, "invalid_request_error", "body_too_large"


class UrlTooLong(ApiError):
    status, type, code = 414, "invalid_request_error", "url_too_long"


class RequestCancelled(ApiError):
    """Not a 5xx, 408, 409 or 429: clients would send the request again by themselves."""

    status, type, code = 400, "invalid_request_error", "request_cancelled"

    def __init__(self, message: str = "This request was cancelled on the server."):
        super().__init__(message)


class UnsupportedMediaType(ApiError):
    status, type, code = 415, "invalid_request_error", "unsupported_media_type"


class UpgradeRequired(ApiError):
    """The request asks for another protocol. Codex falls back to HTTP on this status."""

    status, type, code = 426, "invalid_request_error", "unsupported_protocol"

    def __init__(
        self,
        message: str = "This server does not support WebSocket: use HTTP, with `stream: true` to "
        "stream.",
    ) -> None:
        super().__init__(message)


class HeadersTooLarge(ApiError):
    status, type, code = 431, "invalid_request_error", "headers_too_large"


class QueueFull(ApiError):
    status, type, code = 429, "rate_limit_error", "queue_full"


class RateLimited(ApiError):
    """A key has used up one of its limits: its `type` says of what."""

    status, code = 429, "rate_limit_exceeded"

    def __init__(
        self, message: str, what: Literal["requests", "tokens"] = "requests", wait_s: float = 1.0
    ) -> None:
        super().__init__(message, retry_after_s=max(1, math.ceil(wait_s)))
        self.type = what


class ModelUnavailable(ApiError):
    """The model's files are absent or it failed to load. The message names the remedy."""

    status, type, code = 503, "server_error", "model_unavailable"


class FilesAbsent(ModelUnavailable):
    """The model's files are not on this machine."""


class Quarantined(ModelUnavailable):
    """The model has killed the server several times, and is not loaded any more."""

    code = "model_quarantined"


class PullRefused(ApiError):
    """The source of a model's files wants a login, or its terms accepted."""

    status, type, code = 403, "permission_error", "pull_refused"


class PullFailed(ApiError):
    """A model's files could not be fetched, or are not what their source promised."""

    status, type, code = 502, "server_error", "pull_failed"


class PullStopped(ApiError):
    """Whoever asked for the files asked to stop. What is here is kept."""

    status, type, code = 409, "invalid_request_error", "pull_stopped"


class ChatsUnavailable(ApiError):
    """The file of the conversations can't be read or written. The message names the remedy."""

    status, type, code = 503, "server_error", "chats_unavailable"


class DiskFull(ApiError):
    """There is no room for it: on the disk, or within a limit."""

    status, type, code = 507, "server_error", "insufficient_storage"


class ServerBusy(ApiError):
    """This server's limit on open connections is reached."""

    status, type, code = 503, "server_error", "too_many_connections"


class UnsupportedHttpVersion(ApiError):
    status, type, code = 505, "invalid_request_error", "unsupported_protocol"


class NoSummary(ApiError):
    """A conversation was to be summarized. Not a 500: the server works, and a new try may help."""

    status, code = 503, "no_summary"

    def __init__(
        self,
        message: str = "The model wrote no summary of the conversation: try again, or begin a new "
        "one.",
    ) -> None:
        super().__init__(message)


class ServerDied(ApiError):
    """The process that worked on the request has ended, without an answer."""

    status, type, code = 503, "server_error", "server_died"

    def __init__(
        self,
        message: str = "The server ended unexpectedly while it worked on this request. It is "
        "started again: try again.",
    ) -> None:
        super().__init__(message, retry_after_s=1)


class EngineFailed(ApiError):
    """The engine failed during this request; the details are in the server's log."""

    code = "engine_failed"


class ConfigError(Exception):
    """models.toml or the command line can't be used. The message names file, table and key."""
