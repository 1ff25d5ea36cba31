"""llama.cpp's load log → the memory that it has taken. Its API does not report this; its log names
each buffer. Pure: lines in, numbers out."""

import re
from collections.abc import Iterable

from localinfra.footprint import CPU, MIB, Footprint

BUFFER = re.compile(
    r"(?P<name>\S+) +(?P<kind>model|KV|RS|output|compute|LoRA) buffer size = +(?P<size>[\d.]+) MiB"
)
GPUS = {"CUDA": "cuda", "ROCm": "cuda", "MTL": "mps", "Vulkan": "vulkan", "SYCL": "sycl"}
PEER = re.compile(r"RPC(\d+)\[(.+)\]")  # another machine's device, and where that is
NUMBERED = re.compile(rf"({'|'.join(GPUS)})(\d+)")


def footprint_of(lines: Iterable[str]) -> Footprint:
    """What the buffers take that these lines of a load name."""
    sizes: dict[tuple[str, str], float] = {}
    for line in lines:
        if found := BUFFER.search(line):
            key = found["name"], found["kind"]
            # A model may have several caches. Compute buffers are made anew until they suffice.
            before = 0.0 if found["kind"] == "compute" else sizes.get(key, 0.0)
            sizes[key] = before + float(found["size"])
    bytes_on: dict[str, int] = {}
    mapped = 0
    for (name, _), mebibytes in sizes.items():
        device, size = device_of(name), round(mebibytes * MIB)
        bytes_on[device] = bytes_on.get(device, 0) + size
        mapped += size if device == CPU and name.endswith("_Mapped") else 0
    return Footprint(bytes_on, mapped)


def device_of(name: str) -> str:
    """The device of one of llama.cpp's buffers or devices. Buffers such as `CPU_Mapped` and
    `CUDA_Host` are in main memory."""
    if peer := PEER.match(name):
        return f"rpc:{peer[2]}/{peer[1]}"
    found = NUMBERED.match(name)
    if found is None:
        return CPU
    kind = GPUS[found[1]]
    return kind if kind == "mps" else f"{kind}:{found[2]}"
