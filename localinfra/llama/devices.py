"""The free memory of the devices that weights can be placed on."""

from localinfra.llama.build_info import devices


def free_memory() -> list[int]:
    """Bytes free on each GPU that llama.cpp would use; empty without one.

    An integrated GPU counts only where there is no other, as in llama.cpp.
    """
    gpus = [device.free_bytes for device in devices() if device.kind == "gpu"]
    return gpus or [device.free_bytes for device in devices() if device.kind == "integrated gpu"]
