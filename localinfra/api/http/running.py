"""The requests that are being answered, and how to end one from outside.

Event loop only. Knows no request's content.
"""

import asyncio
import contextlib
import time
from collections.abc import Iterator

import msgspec
from starlette.types import Scope

from localinfra.api.http.state import RequestState


class RunningRequest(msgspec.Struct, frozen=True):
    id: str  # `x-request-id`; clients may send one of theirs, so several requests may have one
    route: str
    model: str | None  # None until the model is loaded
    key: str  # its holder
    # waiting (for a model or its turn), encoding (pictures and sounds), reading (the prompt) or
    # answering
    phase: str
    running_s: float
    prompt_tokens: int
    generated_tokens: int
    images: int


def phase_of(state: RequestState) -> str:
    if state.is_encoding:
        return "encoding"
    if state.progress.generated_tokens or state.progress.images:
        return "answering"
    return "reading" if state.model else "waiting"


class Running:
    """The requests whose work can be cancelled."""

    def __init__(self) -> None:
        self._requests: dict[RequestState, tuple[str, asyncio.Event]] = {}

    @contextlib.contextmanager
    def entered(self, scope: Scope, gone: asyncio.Event) -> Iterator[None]:
        """Within, the request is one of them. `gone`: set it, and its work is cancelled."""
        state = RequestState.of(scope)
        if scope["method"] == "POST":
            self._requests[state] = (scope["path"], gone)
        try:
            yield
        finally:
            self._requests.pop(state, None)

    def of(self, caller: str) -> list[RunningRequest]:
        """Those of the holder of a key, the oldest first."""
        now_s = time.perf_counter()
        return [
            RunningRequest(
                id=state.id,
                route=path,
                model=state.model or None,
                key=state.caller,
                phase=phase_of(state),
                running_s=now_s - state.started_s,
                prompt_tokens=state.progress.prompt_tokens,
                generated_tokens=state.progress.generated_tokens,
                images=state.progress.images,
            )
            for state, (path, _) in self._requests.items()
            if state.caller == caller and not state.goes_on
        ]

    def cancel(self, id: str, caller: str) -> int:
        """Ends the caller's requests with this id; their clients get `RequestCancelled`. Returns
        how many there were."""
        found = [
            (state, gone)
            for state, (_, gone) in self._requests.items()
            if (state.id, state.caller) == (id, caller) and not state.goes_on
        ]
        for state, gone in found:
            state.is_cancelled = True
            gone.set()
        return len(found)
