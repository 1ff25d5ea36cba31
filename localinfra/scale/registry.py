"""The routers of this process, by deployment. Ray copies a router's class with its module and all
that this has; a module of its own is the same one for all."""

from typing import Protocol


class KnownLoads(Protocol):
    def known_loads(self) -> dict[str, int]: ...


routers: dict[str, KnownLoads] = {}
