"""A gateway and its replicas in one process: each replica is a whole application of echo models."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Collection, Mapping
from pathlib import Path
from typing import Any

import httpx2
from echo import CATALOGUE, FILES, EchoRuntime
from serving import Serving
from starlette.applications import Starlette

from localinfra.api.app import create_app
from localinfra.config import settings as config_file
from localinfra.costs import Ledger
from localinfra.keys.holders import Holders
from localinfra.models import catalog as catalog_file
from localinfra.scale.forwarded import Batches, Forwarded, ReplicaLost
from localinfra.scale.gateway import create_gateway
from localinfra.scale.groups import Groups
from localinfra.scale.hosted import HostedApp

TWO_GROUPS = """
[ray.group.echo]
models = ["tests/echo", "slow"]
min_replicas = 2

[ray.group.rest]
"""
NO_PULLED = "[server]\nserve_pulled = false\n"


class LocalFleet:
    """A `Fleet` of this process. `killed` replicas are still named, as those of a cluster are for a
    while; those in `cut` die once they have begun to answer."""

    def __init__(self, hosted: Mapping[str, Mapping[str, HostedApp]]):
        self.hosted = hosted
        self.killed: set[str] = set()
        self.cut: set[str] = set()
        self.cut_after = 1  # batches
        self.stopped: set[str] = set()  # their processes: they say nothing, and nobody knows
        self.answered: list[str] = []  # the replicas that were asked, in order

    def replicas(self, group: str) -> Mapping[str, int]:
        return dict.fromkeys(self.hosted[group], 0)

    async def answer(self, group: str, replica: str | None, request: Forwarded) -> Batches:
        name = replica or next(iter(self.hosted[group]))
        self.answered.append(name)
        if name in self.killed:
            raise ReplicaLost("killed")
        if name in self.stopped:
            await asyncio.Event().wait()
        num_batches = 0
        async with contextlib.aclosing(self.hosted[group][name].answer(request)) as batches:
            async for batch in batches:
                yield batch
                num_batches += 1
                if name in self.cut and num_batches >= self.cut_after:
                    raise ReplicaLost("cut")

    async def leave(self, group: str, replica: str, ticket: str) -> bool:
        if replica in self.killed:
            raise ReplicaLost("killed")
        if replica in self.stopped:
            await asyncio.Event().wait()
        return self.hosted[group][replica].leave(ticket)

    async def knows(self, group: str, replica: str, caller: str, ids: Collection[str]) -> bool:
        if replica in self.killed:
            raise ReplicaLost("killed")
        if replica in self.stopped:
            await asyncio.Event().wait()
        return self.hosted[group][replica].knows(caller, ids)


class ScaledEcho(Serving):
    """Two replicas of one group, one of another."""

    def __init__(
        self,
        folder: Path,
        head: str = NO_PULLED,
        holders: Holders | None = None,
        runtime_kind: type[EchoRuntime] = EchoRuntime,
        ledger: Ledger | None = None,
    ):
        for name in (*FILES, "damaged.gguf"):
            (folder / name).write_bytes(b"GGUF" + bytes(100))
        path = folder / "models.toml"
        path.write_text(head + CATALOGUE + TWO_GROUPS)
        config = config_file.load(path)
        catalog = catalog_file.load(config)
        groups = Groups(config.scale, catalog, path)
        self.runtimes: dict[str, EchoRuntime] = {}
        hosted: dict[str, dict[str, HostedApp]] = {}
        for group, table in groups.tables.items():
            hosted[group] = {}
            for number in range(table.min_replicas):
                name = f"{group}{number}"
                runtime = self.runtimes[name] = runtime_kind(config.server, catalog)
                app = create_app(runtime, ledger, is_vouched_for=True)
                hosted[group][name] = HostedApp(app)
        self.fleet = LocalFleet(hosted)
        gateway = create_gateway(self.fleet, groups, catalog, config.server, holders)
        gateway.router.lifespan_context = self._all_running
        super().__init__(gateway, config.server)
        self.client = httpx2.Client(base_url=self.url, timeout=600)

    @contextlib.asynccontextmanager
    async def _all_running(self, app: Starlette) -> AsyncIterator[None]:
        everyone = [one for group in self.fleet.hosted.values() for one in group.values()]
        for one in everyone:
            await one.start()
        yield
        for one in everyone:
            await one.close()

    def close(self) -> None:
        self.client.close()
        super().close()

    def say(self, *messages: str, **fields: Any) -> httpx2.Response:
        """A turn of a conversation, whose messages are the user's and the model's in turn."""
        turns = [
            {"role": "user" if at % 2 == 0 else "assistant", "content": message}
            for at, message in enumerate(messages)
        ]
        body = {"model": "echo", "messages": turns, "temperature": 0, **fields}
        return self.client.post("/v1/chat/completions", json=body)
