"""How much memory all models together may take, by device. Asks no device itself."""

from collections.abc import Callable, Mapping
from typing import Self

from localinfra.config.settings import ServerSettings
from localinfra.config.sizes import num_bytes
from localinfra.errors import ModelUnavailable
from localinfra.footprint import CPU, MIB, Footprint, Room, device_name, sized

# Left to other programs and to what running requests allocate, if the budget is `auto`.
HOST_RESERVE_BYTES = 512 * MIB
GPU_RESERVE_BYTES = 256 * MIB


class Budget:
    """`limit` is bytes of each device; None: what is free, with what the models hold already.

    `free` gives the bytes that are free now, for the devices that are known so far."""

    def __init__(self, limit: int | None, free: Callable[[], Mapping[str, int]]):
        self._limit = limit
        self._free = free

    @classmethod
    def of(cls, settings: ServerSettings, free: Callable[[], Mapping[str, int]]) -> Self:
        limit = settings.memory_budget
        return cls(None if limit == "auto" else num_bytes(limit), free)

    def room(self, held: Footprint) -> Room:
        """Bytes by device for all models together, of which they hold `held` now."""
        free = self._free()
        if self._limit is not None:
            return dict.fromkeys((CPU, *free), self._limit)
        room = {}
        for device, size in free.items():
            own = held.bytes_on.get(device, 0)
            if device == CPU:
                room[device] = size + own - held.mapped - HOST_RESERVE_BYTES
            else:
                room[device] = size + own - GPU_RESERVE_BYTES
        return {device: max(0, size) for device, size in room.items()}


def too_large(name: str, takes: Footprint, room: Room) -> ModelUnavailable:
    """The error for a model that would not fit even if all others were unloaded. It names none of
    those: whoever reads it may not be one who may know them."""
    short = [
        f"{sized(takes.bytes_on[device])} of {device_name(device)}, where the budget has "
        f"{sized(room[device])}"
        for device in sorted(takes.short(room))
    ]
    reason = " and ".join(short) or f"{takes}, of which pinned models leave too little"
    return ModelUnavailable(
        f"{name} needs {reason}. Use a smaller file of it, lower its context_length or "
        "kv_cache_tokens in models.toml, or raise memory_budget under [server] (auto leaves what "
        "other programs use).",
        "model",
    )
