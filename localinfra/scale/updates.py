"""What an update of models.toml means for the replicas that run, and whether there is room for
those that it asks for. Pure."""

import hashlib
from collections.abc import Mapping, Sequence

import msgspec
from msgspec.structs import replace

from localinfra import __version__
from localinfra.config.scale import ReplicaGroup
from localinfra.config.settings import Config
from localinfra.models import catalog as catalog_file
from localinfra.models.catalog import Catalog
from localinfra.scale.groups import Groups

KINDS = {"CPU": "cores", "GPU": "GPUs"}  # as Ray calls them → as models.toml does


def config_of(config: Config, table: ReplicaGroup) -> Config:
    """For the group's replicas. They need no keys: the gateway checks whose requests are."""
    server = replace(config.server, api_keys=())
    if table.memory_budget is not None:
        server = replace(server, memory_budget=table.memory_budget)
    return replace(config, server=server)


def version_of(config: Config, groups: Groups, catalog: Catalog, group: str) -> str:
    """Replicas may stay as long as this is the same: what only concerns other groups, or how many
    replicas there are, changes nothing that they have loaded. `config`: the group's. Models without
    a table are none of it, as replicas find these themselves."""
    own = groups.models_of(group).keys() & catalog_file.decode_models(config).keys()
    entries = {name: catalog.entries[name] for name in own}
    return digest(__version__, config.server, groups.tables[group].num_cpus, entries)


def digest(*values: object) -> str:
    """Of anything in models.toml."""
    hashed = hashlib.blake2b(digest_size=8)
    for value in values:
        hashed.update(msgspec.json.encode(value, enc_hook=repr, order="deterministic") + b"\0")
    return hashed.hexdigest()


# --- Room ----------------------------------------------------------------------------------------


def needs(table: ReplicaGroup) -> dict[str, float]:
    """Of one replica."""
    return {"CPU": table.num_cpus or 1, "GPU": table.num_gpus}


def first_replicas(table: ReplicaGroup) -> int:
    return max(1, table.min_replicas)


def lacking(groups: Mapping[str, ReplicaGroup], machines: Sequence[Mapping[str, float]]) -> str:
    """Why the first replicas can't all start on machines that have so much, or "". They would wait
    for other machines."""
    for kind, unit in KINDS.items():
        there = [one.get(kind, 0) for one in machines]
        together = 0.0
        for name, table in groups.items():
            amount = needs(table)[kind]
            together += amount * first_replicas(table)
            if amount > max(there, default=0):
                return (
                    f'a replica of "{name}" takes {amount:g} {unit}, and no machine has more than '
                    f"{max(there, default=0):g}: change num_{kind.lower()}s"
                )
        if together > sum(there):
            return (
                f"the first replicas of all groups take {together:g} {unit} together, and there "
                f"are {sum(there):g}: have fewer groups, or change num_{kind.lower()}s or "
                "min_replicas"
            )
    return ""
