"""The free memory of the devices that weights can be placed on."""

from localinfra.llama.build_info import devices


def free_memory() -> list[int]:
    """Bytes free on each discrete or integrated GPU that llama.cpp sees; empty without one."""
    return [device.free_bytes for device in devices() if device.kind in ("gpu", "integrated gpu")]
