"""The `[ray]` tables: how many processes serve which models. Only `localinfra ray` reads them."""

from collections.abc import Mapping
from typing import Annotated

import msgspec
from msgspec import Meta

from localinfra.config.sizes import AutoOrSize
from localinfra.config.tables import decode
from localinfra.errors import ConfigError

Count = Annotated[int, Meta(ge=1, le=10_000)]
Delay = Annotated[float, Meta(ge=0, le=86_400)]  # seconds


class ReplicaGroup(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A `[ray.group."NAME"]` table: replicas that serve the same models."""

    # `scripts/make_settings_doc` copies these comments into docs/settings.md.

    # names of the models that it serves; a group without this serves all that no other does
    models: tuple[str, ...] = ()
    # GPUs of each replica; a fraction lets several share one: then set `memory_budget` too
    num_gpus: Annotated[float, Meta(ge=0, le=64)] = 0.0
    # cores of each replica, and the threads of its text models; default: Ray counts one, and the
    # models use what they find idle
    num_cpus: Count | None = None
    memory_budget: AutoOrSize | None = None  # in place of that of `[server]`, for each replica
    # replicas without any load; 0 lets the group go, and its next request waits for a start
    min_replicas: Annotated[int, Meta(ge=0, le=10_000)] = 1
    max_replicas: Count | None = None  # with all load; default: `min_replicas`, and at least one
    # running and waiting requests of a replica beyond which another one is started; about as many
    # as its models have `sequences`
    target_ongoing_requests: Annotated[float, Meta(gt=0, le=10_000)] = 8.0
    upscale_delay_s: Delay = 30.0  # how long the load must be above that
    downscale_delay_s: Delay = 600.0  # how long it must be below: what a replica kept is then lost
    # an update starts new replicas before it ends old ones, and waits for free cores and GPUs to do
    # so; else old ones end first, a fifth of them at a time
    start_first: bool = False

    def __post_init__(self) -> None:
        if self.max_replicas is not None and self.max_replicas < self.min_replicas:
            raise ValueError("max_replicas: it is less than min_replicas")
        if self.num_gpus > 1 and not self.num_gpus.is_integer():  # as Ray asks for
            raise ValueError("num_gpus: a share of one GPU, or a whole number of them")

    @property
    def most_replicas(self) -> int:
        return self.max_replicas or max(1, self.min_replicas)


class RaySettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The `[ray]` table, without its groups."""

    # processes that check requests and hand them on; each knows only its own requests' load, and
    # counts the limits of keys for itself
    gateways: Count = 1
    # how long a replica that shall end may go on with its answers
    drain_s: Delay = 300.0


class Scale(msgspec.Struct, frozen=True):
    """All of it."""

    settings: RaySettings = RaySettings()
    groups: Mapping[str, ReplicaGroup] = {}


def read_scale(table: Mapping[str, object], path: object) -> Scale:
    """From the `[ray]` table of the file. Raises ConfigError."""
    rest = {key: value for key, value in table.items() if key != "group"}
    groups = table.get("group", {})
    if not isinstance(groups, dict):
        raise ConfigError(f'{path}: [ray] group: expected a table, written [ray.group."NAME"]')
    found = {}
    for name, group in groups.items():
        place = f'{path}: [ray.group."{name}"]'
        if not isinstance(group, dict):
            raise ConfigError(f"{place}: expected a table")
        found[name] = decode(group, ReplicaGroup, place)
    return Scale(decode(rest, RaySettings, f"{path}: [ray]"), found)
