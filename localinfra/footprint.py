"""The memory a model takes, by device: plain numbers, shared by those who measure, plan and decide.

Devices are named as in torch (`cpu`, `cuda:0`, `mps`); `cpu` is main memory.
"""

from collections.abc import Iterable, Mapping

import msgspec

CPU = "cpu"
GIB = 1 << 30
MIB = 1 << 20

Room = Mapping[str, int]  # bytes by device; a device that is missing has no limit


class Footprint(msgspec.Struct, frozen=True):
    """Bytes by device."""

    bytes_on: Mapping[str, int] = {}
    # The part of main memory that is pages of mapped files: the system counts them as available,
    # since it can drop and read them again.
    mapped: int = 0

    def __sub__(self, other: "Footprint") -> "Footprint":
        """By how much this takes more on each device; negative where it takes less."""
        devices = self.bytes_on.keys() | other.bytes_on.keys()
        sizes = {d: self.bytes_on.get(d, 0) - other.bytes_on.get(d, 0) for d in devices}
        return Footprint(sizes, self.mapped - other.mapped)

    def fits(self, room: Room) -> bool:
        return not self.short(room)

    def short(self, room: Room) -> set[str]:
        """The devices with less room than this takes."""
        taken = self.bytes_on.items()
        return {device for device, size in taken if size > max(0, room.get(device, size))}

    def __str__(self) -> str:
        taken = self.bytes_on.items()
        parts = [f"{sized(size)} of {device_name(device)}" for device, size in taken if size]
        return " and ".join(parts) or "no memory"


NO_MEMORY = Footprint()


def total(footprints: Iterable[Footprint]) -> Footprint:
    sums: dict[str, int] = {}
    mapped = 0
    for footprint in footprints:
        mapped += footprint.mapped
        for device, size in footprint.bytes_on.items():
            sums[device] = sums.get(device, 0) + size
    return Footprint(sums, mapped)


def larger(one: Footprint, other: Footprint) -> Footprint:
    """The larger number of each device."""
    devices = one.bytes_on.keys() | other.bytes_on.keys()
    sizes = {d: max(one.bytes_on.get(d, 0), other.bytes_on.get(d, 0)) for d in devices}
    return Footprint(sizes, max(one.mapped, other.mapped))


def less(room: Room, taken: Footprint) -> dict[str, int]:
    """What remains of the room; negative where more is taken than there is."""
    return {device: size - taken.bytes_on.get(device, 0) for device, size in room.items()}


def more(room: Room, freed: Footprint) -> dict[str, int]:
    return {device: size + freed.bytes_on.get(device, 0) for device, size in room.items()}


def sized(num_bytes: int) -> str:
    if num_bytes < GIB:
        return f"{num_bytes / MIB:.0f} MiB"
    return f"{num_bytes / GIB:.1f} GiB"


def device_name(device: str) -> str:
    return "main memory" if device == CPU else device
