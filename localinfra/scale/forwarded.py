"""What passes between the gateway and a replica: a request that was checked, and its answer."""

from collections.abc import AsyncGenerator, Collection, Mapping
from typing import Any, Protocol

import msgspec
from starlette.types import Message, Scope

from localinfra.api.http.state import RequestState
from localinfra.chance import random_hex

USED = "localinfra.used"  # the type of messages that say what the request has used so far


class ReplicaLost(Exception):
    """The replica died, or can't be reached; perhaps in the middle of the answer."""


class Forwarded(msgspec.Struct, frozen=True):
    """A request whose body has arrived and whose key was checked. Can be pickled."""

    method: str
    path: str  # as `CanonicalPaths` writes it
    raw_path: bytes
    query: bytes
    headers: list[tuple[bytes, bytes]]
    scheme: str
    client: tuple[str, int] | None
    server: tuple[str, int | None] | None
    body: bytes
    id: str  # `x-request-id`
    caller: str
    may_manage: bool
    models: frozenset[str] | None  # that the key may use
    ticket: str  # no two have the same; clients may send any `id`

    @classmethod
    def of(cls, scope: Scope, body: bytes) -> "Forwarded":
        state, client, server = RequestState.of(scope), scope.get("client"), scope.get("server")
        return cls(
            method=scope["method"],
            path=scope["path"],
            raw_path=scope.get("raw_path") or scope["path"].encode(),
            query=scope.get("query_string", b""),
            headers=[(bytes(name), bytes(value)) for name, value in scope["headers"]],
            scheme=scope.get("scheme", "http"),
            client=(client[0], client[1]) if client else None,
            server=(server[0], server[1]) if server else None,
            body=body,
            id=state.id,
            caller=state.caller,
            may_manage=state.may_manage,
            models=state.permit.models,
            ticket=random_hex(32),
        )

    def scope(self) -> Scope:
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "method": self.method,
            "path": self.path,
            "raw_path": self.raw_path,
            "root_path": "",
            "query_string": self.query,
            "headers": list(self.headers),
            "scheme": self.scheme,
            "client": self.client,
            "server": self.server,
            "state": {},
        }


Batch = list[Message]  # of an answer, that were ready together
# An answer's messages, with one of type USED whenever more has been used: before the last of an
# answer, and once all is counted where its client has left.
Batches = AsyncGenerator[Batch, None]


class Fleet(Protocol):
    """The replicas as a gateway reaches them. Event loop only."""

    def replicas(self, group: str) -> Mapping[str, int]:
        """The names of those that run, and how many requests each is known to have. Empty while
        that is not known, or none runs."""
        ...

    def answer(self, group: str, replica: str | None, request: Forwarded) -> Batches:
        """Asks a replica, or any of the group; waits for one if there is none. Closing the batches
        cancels the work. Raises ReplicaLost."""
        ...

    async def leave(self, group: str, replica: str, ticket: str) -> bool:
        """Ends an answer as if its client had left: its batches end once all that it has used is
        counted. False if the replica doesn't work at it. Raises ReplicaLost."""
        ...

    async def knows(self, group: str, replica: str, caller: str, ids: Collection[str]) -> bool:
        """Whether the replica keeps one of these for the caller. Raises ReplicaLost."""
        ...


def is_last(message: Message) -> bool:
    return message["type"] == "http.response.body" and not message.get("more_body", False)


def used_message(state: RequestState) -> dict[str, Any]:
    """What the request has used so far, and whether its work goes on without it."""
    used = state.background[1].progress if state.background else state.progress
    return {
        "type": USED,
        "prompt": used.prompt_tokens,
        "generated": used.generated_tokens,
        "goes_on": state.goes_on,
    }
