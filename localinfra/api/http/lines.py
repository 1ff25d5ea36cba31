"""Streams of JSON lines (application/x-ndjson), for Ollama's clients."""

import math
from collections.abc import AsyncGenerator, Callable, Mapping

from starlette.types import Scope

from localinfra.api.http.errors import error_body
from localinfra.api.http.sse import Closable, Stream
from localinfra.errors import ApiError


class LineStream(Stream[bytes]):
    """One JSON object per line. No end mark: a complete answer's last line says that it is."""

    media_type = "application/x-ndjson"

    def __init__(
        self,
        lines: AsyncGenerator[bytes | list[bytes], None],
        headers: Mapping[str, str] | None = None,
        keepalive_s: float = math.inf,
        source: Closable | None = None,
        *,
        heartbeat_line: Callable[[], bytes],
    ):
        """`heartbeat_line` makes a line without effect: clients don't skip empty ones."""
        super().__init__(lines, headers, keepalive_s, source)
        self.heartbeat_line = heartbeat_line

    def frame(self, item: bytes) -> bytes:
        return b"%b\n" % item

    def failure(self, error: ApiError, scope: Scope) -> bytes:
        return error_body(error, scope)

    def heartbeat(self) -> bytes:
        return self.frame(self.heartbeat_line())
