"""The process that clients talk to: checks requests, reads them, and hands them to replicas.

Has no model and renders no API: what it answers itself are its refusals, lists of all replicas, and
errors where a replica has died.
"""

import asyncio
import contextlib
import logging
from collections.abc import Collection, Coroutine

from msgspec.structs import replace
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from localinfra.api.http.arriving import Arriving
from localinfra.api.http.bodies import BodyLimits, HeldBodies, UnfinishedBodies
from localinfra.api.http.body import receive_body
from localinfra.api.http.errors import EXCEPTION_HANDLERS
from localinfra.api.http.guard import Access, Guard
from localinfra.api.http.limiting import Limiting
from localinfra.api.http.paths import CanonicalPaths
from localinfra.api.http.sse import until_disconnect
from localinfra.api.http.state import RequestState
from localinfra.api.openai.images import DEFAULT_MODEL
from localinfra.api.tokens import only_text_model
from localinfra.config.settings import ServerSettings
from localinfra.errors import ApiError, ModelUnavailable
from localinfra.keys.holders import Holders
from localinfra.logs import about
from localinfra.models.catalog import Catalog
from localinfra.models.entries import ImageModelEntry, TextModelEntry
from localinfra.scale.asked import Asked, Reach, asked_for
from localinfra.scale.forwarded import Fleet, Forwarded, ReplicaLost
from localinfra.scale.groups import Groups
from localinfra.scale.merging import METRICS, Reply, merged
from localinfra.scale.placement import ReplicaChoice
from localinfra.scale.prefixes import PromptStart
from localinfra.scale.relay import RelayedAnswer, died
from localinfra.shares import Kept

logger = logging.getLogger(__name__)

# A request may be what kills replicas: it gets one more, not all of them.
MAX_TRIES = 2
INLINE_BYTES = 256 << 10  # of a body, read in 1 ms
MOST_OWNERS = 10_000  # of things kept by a replica, remembered
# For what a replica answers within milliseconds, such as its metrics: one that has stopped, and
# that nobody has noticed yet, must not hold up the answers of all.
LOOK_S = 15.0


def create_gateway(
    fleet: Fleet,
    groups: Groups,
    catalog: Catalog,
    settings: ServerSettings,
    holders: Holders | None = None,
) -> Starlette:
    """The gateway's application, with the same guard and limits of keys as the server's."""
    access = Access(settings, holders)
    gateway = Gateway(fleet, groups, catalog, settings)
    app = Starlette(
        routes=[Route("/{path:path}", gateway)],
        middleware=[
            Middleware(CanonicalPaths),
            Middleware(Arriving),
            Middleware(Guard, access=access),
            Middleware(Limiting),
        ],
        exception_handlers=EXCEPTION_HANDLERS,
    )
    app.router.redirect_slashes = False
    return app


class Gateway:
    """ASGI application behind `Guard`."""

    def __init__(self, fleet: Fleet, groups: Groups, catalog: Catalog, settings: ServerSettings):
        unfinished = max(settings.max_unfinished_bytes, settings.max_body_bytes)
        self._limits = BodyLimits(
            settings.max_body_bytes,
            settings.body_timeout_s,
            UnfinishedBodies(unfinished),
            HeldBodies(max(settings.max_held_bytes, settings.max_body_bytes)),
        )
        self._fleet = fleet
        self._groups = groups
        self._catalog = catalog
        self._shares_prefixes = settings.share_prefixes
        self._leaving: set[asyncio.Task[None]] = set()  # of requests whose clients have left
        self._choices = {group: ReplicaChoice() for group in groups.tables}
        self._owners: Kept[str, tuple[str, str]] = Kept(MOST_OWNERS)  # by caller and id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await receive_body(Request(scope, receive), self._limits)
        answer = RelayedAnswer(scope, send)

        async def until_left() -> Message:
            """A client that has its whole answer leaves too, while the replica cleans up."""
            message = await receive()
            if answer.has_ended:
                await asyncio.Event().wait()
            return message

        await until_disconnect(until_left, self._answer(scope, body, answer))

    async def _answer(self, scope: Scope, body: bytes, answer: RelayedAnswer) -> None:
        """Cancelled if the client leaves."""
        request = Forwarded.of(scope, body)
        seed = "" if self._shares_prefixes else request.caller
        content_type = Headers(scope=scope).get("content-type")
        given = request.method, request.path, body, seed, request.query, content_type
        if len(body) <= INLINE_BYTES:
            asked = asked_for(*given)
        else:
            asked = await asyncio.to_thread(asked_for, *given)
        if asked.model is None:
            asked = replace(asked, model=self._own_model(asked, request.models))
        if asked.reach is not Reach.ONE:
            await self._answer_together(request, asked, answer)
            return
        self._count(scope, asked)
        owner = await self._owner(request.caller, asked.ids) if asked.ids else None
        failed: list[str] = []
        for _ in range(MAX_TRIES):
            group, replica = owner or self._chosen(asked, request.models, failed)
            try:
                await self._pass_on(group, replica, request, asked.prefix, answer)
                return
            except ReplicaLost as lost:
                logger.warning("replica %s: %s", replica or group, lost, extra=about(request.id))
                if answer.has_begun:
                    if not answer.has_ended:
                        await answer.break_off()
                    return
                failed.append(replica or "")
                owner = None
        raise died()

    def _own_model(self, asked: Asked, models: frozenset[str] | None) -> str | None:
        """The one that a request means which names none; None if a replica is to say that it must.
        `models`: those that its key may use."""
        known = self._catalog.only(models)
        if asked.kind is ImageModelEntry:
            return known.image_model(DEFAULT_MODEL)
        if asked.kind is TextModelEntry:
            with contextlib.suppress(ApiError):
                return only_text_model(known)
        return None

    def _count(self, scope: Scope, asked: Asked) -> None:
        """Counts the request for its key's limits. So does one for a model that is unknown here,
        which may have been pulled since, or that the key may not use, which is as unknown. Raises
        RateLimited."""
        permit = RequestState.of(scope).permit
        if asked.uses_model:
            permit.expected_tokens = asked.expected_tokens
            permit.enter()

    def _chosen(
        self, asked: Asked, models: frozenset[str] | None, failed: Collection[str]
    ) -> tuple[str, str | None]:
        """`models`: those that the key may use. Others must start and delay nothing."""
        group = self._groups.of(asked.model, models)
        replicas = self._fleet.replicas(group)
        return group, self._choices[group].choose(asked.prefix, replicas, failed)

    async def _pass_on(
        self,
        group: str,
        replica: str | None,
        request: Forwarded,
        prefix: PromptStart,
        answer: RelayedAnswer,
    ) -> None:
        """Raises ReplicaLost."""
        with contextlib.ExitStack() as stack:
            if replica is not None:
                stack.enter_context(self._choices[group].running(replica, prefix))
            relay = asyncio.create_task(answer.relay(self._fleet.answer(group, replica, request)))
            # Not with the request, which Serve may cancel more than once.
            answer.state.settled = relay
            try:
                await answer.over(relay)
            except asyncio.CancelledError:
                answer.leave()
                await asyncio.shield(
                    self._kept(self._leave(group, replica, request, relay, answer))
                )
                raise
            if relay.done():
                relay.result()
            else:
                self._kept(self._end(relay))

    def _kept(self, work: Coroutine[None, None, None]) -> "asyncio.Task[None]":
        """Goes on when the request has ended."""
        task = asyncio.create_task(work)
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)
        return task

    async def _leave(
        self,
        group: str,
        replica: str | None,
        request: Forwarded,
        relay: "asyncio.Task[None]",
        answer: RelayedAnswer,
    ) -> None:
        """The client has left, and its key is charged what was computed: the relay learns of it
        once the replica has ended the work."""
        with contextlib.suppress(ReplicaLost, TimeoutError):
            async with asyncio.timeout(LOOK_S):
                if replica and await self._fleet.leave(group, replica, request.ticket):
                    await answer.over(relay)
        if answer.goes_on:
            self._kept(self._end(relay))
            return
        relay.cancel()
        await self._end(relay)

    async def _end(self, relay: "asyncio.Task[None]") -> None:
        await asyncio.wait((relay,))
        if not relay.cancelled():
            relay.exception()  # so that none is reported as unread

    async def _owner(self, caller: str, ids: Collection[str]) -> tuple[str, str] | None:
        """The group and replica that keep one of these. Asks all replicas, once for each id. Raises
        ModelUnavailable."""
        everywhere = [
            (group, replica)
            for group in self._groups.tables
            for replica in self._fleet.replicas(group)
        ]
        for id in ids:
            if (known := self._owners.get(caller, id)) and known in everywhere:
                return known
        owner = await self._found(everywhere, caller, ids)
        if owner:
            for id in ids:
                self._owners.put(caller, id, owner, 1)
        return owner

    async def _found(
        self, places: Collection[tuple[str, str]], caller: str, ids: Collection[str]
    ) -> tuple[str, str] | None:
        """The first one to say that it keeps one of these. Raises ModelUnavailable if none does and
        one says nothing."""
        looks = [asyncio.ensure_future(self._look(place, caller, ids)) for place in places]
        is_silent = False
        try:
            for look in asyncio.as_completed(looks):
                try:
                    if place := await look:
                        return place
                except TimeoutError:
                    is_silent = True
        finally:
            for each in looks:
                each.cancel()
        if is_silent:
            raise silent()
        return None

    async def _look(
        self, place: tuple[str, str], caller: str, ids: Collection[str]
    ) -> tuple[str, str] | None:
        """Raises TimeoutError."""
        try:
            async with asyncio.timeout(LOOK_S):
                return place if await self._fleet.knows(*place, caller, ids) else None
        except ReplicaLost:
            return None

    # --- Several replicas -----------------------------------------------------------------------

    async def _answer_together(
        self, request: Forwarded, asked: Asked, answer: RelayedAnswer
    ) -> None:
        """Raises ModelUnavailable."""
        if request.path == METRICS:  # or they might be in several formats
            request = without_header(request, b"accept")
        replies = await asyncio.gather(
            *(
                self._reply(group, replica, request)
                for group, replica in self._reached(asked, request.models)
            )
        )
        whole = [reply for reply in replies if reply is not None]
        if not whole:
            raise died()
        reply = merged(request.path, whole, self._groups)
        await answer.pass_on(
            {"type": "http.response.start", "status": reply.status, "headers": reply.headers}
        )
        await answer.pass_on({"type": "http.response.body", "body": reply.body})

    def _reached(self, asked: Asked, models: frozenset[str] | None) -> list[tuple[str, str | None]]:
        """A group without replicas is started for requests of its own models only."""
        is_group = asked.reach is Reach.GROUP
        groups = [self._groups.of(asked.model, models)] if is_group else list(self._groups.tables)
        found: list[tuple[str, str | None]] = []
        for group in groups:
            replicas = list(self._fleet.replicas(group))
            found += [
                (group, one) for one in replicas[: 1 if asked.reach is Reach.GROUPS else None]
            ]
        return found or [(groups[0] if is_group else self._groups.home, None)]

    async def _reply(self, group: str, replica: str | None, request: Forwarded) -> Reply | None:
        """The whole answer; None if the replica died, or takes long for what is at hand."""
        status, headers, parts = 500, [], []
        is_look = request.method == "GET" and replica is not None  # None may have to start
        limit = asyncio.timeout(LOOK_S if is_look else None)
        batches = self._fleet.answer(group, replica, request)
        try:
            async with limit, contextlib.aclosing(batches):
                async for batch in batches:
                    for message in batch:
                        if message["type"] == "http.response.start":
                            status, headers = message["status"], message["headers"]
                        elif message["type"] == "http.response.body":
                            parts.append(message.get("body", b""))
        except (ReplicaLost, TimeoutError) as lost:
            reason = str(lost) or f"no answer within {LOOK_S:g} s"
            logger.warning("replica %s: %s", replica or group, reason, extra=about(request.id))
            return None
        return Reply(group, replica or group, status, list(headers), b"".join(parts))


def silent() -> ModelUnavailable:
    return ModelUnavailable(
        "This may be kept by a process that does not answer at the moment: send the request again "
        "in a minute. If that process is replaced, what it kept is lost."
    )


def without_header(request: Forwarded, name: bytes) -> Forwarded:
    return replace(request, headers=[one for one in request.headers if one[0].lower() != name])


def without_own_id(app: ASGIApp) -> ASGIApp:
    """For behind a proxy that gives every request its id, and repeats it itself."""

    async def answered(scope: Scope, receive: Receive, send: Send) -> None:
        async def reply(message: Message) -> None:
            if message["type"] == "http.response.start":
                pairs = message.get("headers", ())
                message["headers"] = [one for one in pairs if one[0].lower() != b"x-request-id"]
            await send(message)

        await app(scope, receive, reply)

    return answered
