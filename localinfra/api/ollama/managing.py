"""POST /api/pull and DELETE /api/delete: Ollama's forms of what `openai/managing.py` does."""

import contextlib
import hashlib
from collections.abc import AsyncGenerator
from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, UnsetType
from starlette.requests import Request
from starlette.responses import Response

from localinfra.api.call import Call
from localinfra.api.http.managing import check_may_manage
from localinfra.api.ollama.calls import HUBS, renamed_errors, served_name
from localinfra.api.openai.managing import MAX_REFERENCE, Pull, PullEvent, delete_files
from localinfra.errors import InvalidRequest
from localinfra.executor import DaemonThreads
from localinfra.leases import Leases
from localinfra.models.fetch import references
from localinfra.models.sources import RemoteSource

ELSEWHERE = ("hf:", "ollama:", "http://", "https://", *HUBS)  # what is not in Ollama's registry

Reference = Annotated[str, Meta(max_length=MAX_REFERENCE)]


class ManagingFields(msgspec.Struct, frozen=True, kw_only=True):
    """Older clients send `name`."""

    model: Reference = ""
    name: Reference = ""

    @property
    def id(self) -> str:
        """Raises InvalidRequest."""
        if not (self.model or self.name):
            raise InvalidRequest("model is required", "model")
        return self.model or self.name


class OllamaPullFields(ManagingFields, frozen=True, kw_only=True):
    stream: bool = True


class OllamaPullLine(msgspec.Struct, frozen=True):
    """How far a pull is; the last one says success."""

    status: str
    digest: str | UnsetType = UNSET
    total: int | UnsetType = UNSET  # bytes, like the next
    completed: int | UnsetType = UNSET


async def pull_ollama_model(request: Request) -> Response:
    """Fetches a model, in the form of Ollama's clients."""
    check_may_manage(request)
    call = await Call.begin(request, OllamaPullFields, has_type=False)
    sources = await sources_of(call.models, call.body.id, call.threads.files)
    pull = Pull(call.runtime, call.models, sources)
    if call.body.stream:
        return call.lines(lines_of(pull), pull, lambda: msgspec.json.encode(WAITING))
    return call.json(line_of(await pull.whole()))


async def sources_of(models: Leases, id: str, threads: DaemonThreads) -> list[RemoteSource]:
    """Those of a model in models.toml, none if it came with a package or so: applications pull what
    they need without asking whether it is here. Else what the name means to Ollama, or to
    `localinfra pull`. Raises InvalidRequest and ModelNotFound."""
    name, catalog = await served_name(models, id), models.catalog
    if catalog.own_name(name) is not None:
        source = catalog.find(name)[1].source
        is_here = await threads.run(source.find)
        if is_here and not isinstance(source, RemoteSource):
            return []
    elif not id.startswith(ELSEWHERE):
        name = f"ollama:{id}"
    return references.parse(name, catalog)


async def lines_of(pull: Pull) -> AsyncGenerator[bytes, None]:
    async with contextlib.aclosing(pull.events()) as events:
        async for event in events:
            yield msgspec.json.encode(line_of(event))


WAITING = OllamaPullLine("pulling manifest")


def line_of(event: PullEvent) -> OllamaPullLine:
    """Clients show a bar for each digest, and cut parts out of it."""
    if event.status == "planning":
        return WAITING
    if event.status == "done":
        return OllamaPullLine("success")
    digest = hashlib.sha256((event.file or "").encode()).hexdigest()
    return OllamaPullLine(
        "verifying sha256 digest" if event.status == "verifying" else f"pulling {event.file}",
        digest=f"sha256:{digest}",
        total=event.total_bytes or UNSET,
        completed=event.done_bytes or UNSET,
    )


async def delete_ollama_model(request: Request) -> Response:
    """Deletes the files of a pulled model, in the form of Ollama's clients."""
    check_may_manage(request)
    call = await Call.begin(request, ManagingFields, has_type=False)
    name = await served_name(call.models, call.body.id)
    with renamed_errors(call.body.id):
        await delete_files(call.runtime, call.models, name)
    return Response(headers=call.headers)
