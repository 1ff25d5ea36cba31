"""Tells clients what is left of their key's limits; at its end, counts what a request has used, and
its body no longer.

`Leases` counts a request in, once it is about to use a model.
"""

import datetime
from collections.abc import Iterable, Iterator
from typing import Literal

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from localinfra.api.http.errors import speaks_anthropic
from localinfra.api.http.state import RequestState
from localinfra.keys.meter import LimitState, duration
from localinfra.keys.record import utc_now

KINDS: tuple[Literal["requests", "tokens"], ...] = ("requests", "tokens")


class Limiting:
    """ASGI middleware around `Leasing`."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        state = RequestState.of(scope)

        async def reply(message: Message) -> None:
            if message["type"] == "http.response.start" and (limits := state.permit.states()):
                write = anthropic_headers if speaks_anthropic(scope) else openai_headers
                own = ((name.encode(), value.encode()) for name, value in write(limits))
                message["headers"] = [*message.get("headers", ()), *own]
            await send(message)

        try:
            await self.app(scope, receive, reply)
        finally:
            if state.body is not None:
                state.body.release()
            if state.settled is None or state.settled.done():
                leave(state)
            else:
                state.settled.add_done_callback(lambda _: leave(state))


def leave(state: RequestState) -> None:
    used = state.progress
    state.permit.leave(used.prompt_tokens + used.generated_tokens)


def openai_headers(limits: Iterable[LimitState]) -> Iterator[tuple[str, str]]:
    """https://platform.openai.com/docs/guides/rate-limits#rate-limits-in-headers"""
    for each in limits:
        yield f"x-ratelimit-limit-{each.what}", str(each.limit)
        yield f"x-ratelimit-remaining-{each.what}", str(each.remaining)
        yield f"x-ratelimit-reset-{each.what}", duration(each.full_in_s)


def anthropic_headers(limits: Iterable[LimitState]) -> Iterator[tuple[str, str]]:
    """https://platform.claude.com/docs/en/api/rate-limits#response-headers; times in RFC 3339."""
    now = utc_now()
    for each in limits:
        full_at = now + datetime.timedelta(seconds=each.full_in_s)
        yield f"anthropic-ratelimit-{each.what}-limit", str(each.limit)
        yield f"anthropic-ratelimit-{each.what}-remaining", str(each.remaining)
        yield f"anthropic-ratelimit-{each.what}-reset", f"{full_at:%Y-%m-%dT%H:%M:%SZ}"


def limit_headers(*, anthropic: bool) -> list[str]:
    """The names of all these headers."""
    limits = [LimitState(what, 1, 1, 0.0) for what in KINDS]
    return [name for name, _ in (anthropic_headers if anthropic else openai_headers)(limits)]


def limit_header_texts() -> dict[str, str]:
    """Each header with what it says."""
    texts = {
        "limit": "{what} per minute that the key may use; only with a key that has this limit.",
        "remaining": "{what} that the key may use now.",
        "reset": "When the whole limit is there again, if nothing is used until then.",
    }
    return {
        name: texts[word].format(what=what.capitalize())
        for name in (*limit_headers(anthropic=False), *limit_headers(anthropic=True))
        for word in texts
        for what in KINDS
        if {word, what} <= set(name.split("-"))
    }
