"""Where and how an image pipeline runs, from the sizes of its parts and the free memory.

Rules over plain numbers. `free_memory` asks torch, `part_elements` reads weight files' headers.
"""

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from localinfra.errors import ModelUnavailable
from localinfra.footprint import CPU, Footprint
from localinfra.machine import available_memory
from localinfra.models.entries import Attention, ImageModelEntry, Offload, Quantize

GIB = 2**30
WORKING_BYTES = int(2.5 * GIB)  # activations of a one-megapixel image, the VAE's included
BATCH_BYTES = 2 * GIB  # for each further megapixel in a batch
MAX_BATCH = 4  # enough to saturate a large GPU; larger batches make other requests wait longer
SMALL_BYTES = 8 * GIB
MAX_HEADER_BYTES = 100 << 20  # safetensors' own limit
ITEM_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


class Placement(msgspec.Struct, frozen=True):
    """Where and how a pipeline runs."""

    device: str  # cuda, mps or cpu
    dtype: str
    offload: Offload  # what moves to the GPU when needed: parts (model) or layers (group)
    quantize: Quantize  # float8: the transformer's weights are stored in it
    vae_tiling: bool  # decodes in tiles, for large images in little memory
    vae_slicing: bool  # decodes the images of a batch one by one
    attention: Attention  # auto: the library's choice
    compile: bool  # compiles the transformer's blocks: faster, after minutes for each image size
    batch_size: int | None  # images of a request made together; None: by free memory

    def images_at_once(self, width: int, height: int, free_bytes: int) -> int:
        """`free_bytes` of the device, with the weights loaded."""
        if self.batch_size is not None:
            return self.batch_size
        # Only a large GPU gains from batches: one image keeps other devices busy.
        if self.device != "cuda" or self.offload != "none":
            return 1
        further = (free_bytes - WORKING_BYTES) / (BATCH_BYTES * width * height / 2**20)
        return max(1, min(MAX_BATCH, 1 + int(further)))

    def tiles(self, width: int, height: int) -> bool:
        """Whether the VAE decodes an image of this size in tiles: decoding four megapixels at once
        takes several times the memory of one."""
        return self.vae_tiling or (self.device != "cpu" and width * height > 2**20)

    def __str__(self) -> str:
        words = [f"{self.device} in {self.dtype}"]
        if self.quantize != "none":
            words.append(f"transformer kept in {self.quantize}")
        words.append(OFFLOADS[self.offload])
        words += ["VAE in tiles"] * self.vae_tiling + ["VAE image by image"] * self.vae_slicing
        words += [f"{self.attention} attention"] * (self.attention != "auto")
        words += ["compiled"] * self.compile
        return ", ".join(words)


OFFLOADS = {
    "none": "all parts stay there",
    "model": "parts move there when needed",
    "group": "layers move there when needed",
}


def decide(
    entry: ImageModelEntry,
    transformer: Path | None,
    elements: Mapping[str, int],
    free: Mapping[str, int],
) -> Placement:
    """The entry's settings, with the best choice for each that is auto.

    `transformer` is a file that replaces the folder's own. `elements` is part → number of weights;
    `free` is device → free bytes, best device first and the CPU last.

    Raises ModelUnavailable if the device or a part is missing, or the memory is too small.
    """
    device = next(iter(free)) if entry.device == "auto" else entry.device
    if device not in free:
        raise ModelUnavailable(
            f"device = {device!r} is not available: PyTorch only finds {' and '.join(free)}.",
            "model",
        )
    if "transformer" not in elements and not transformer:
        raise ModelUnavailable("Its folder has no transformer in safetensors files.", "model")
    dtype: str = entry.dtype
    if dtype == "auto":
        dtype = "float32" if device == "cpu" else "bfloat16"
    room = free.get(device, 0)
    sizes = part_bytes(transformer, elements, dtype)
    has_file = transformer is not None
    quantize = entry.quantize
    if quantize == "auto":
        quantize = _quantize(device, sizes, room, has_file)
    if quantize == "float8":
        sizes["transformer"] //= ITEM_BYTES[dtype]
    offload = entry.offload
    if offload == "auto":
        offload = _offload(sizes, room) if device == "cuda" else "none"
    if device != "cuda" and room:
        check_room(sizes, room - WORKING_BYTES, device, dtype, has_file)
    elif offload != "none" and free.get("cpu"):  # offloaded weights stay in main memory
        check_room(sizes, free["cpu"], "the CPU", dtype, has_file)
    is_small = device != "cpu" and room < SMALL_BYTES
    return Placement(
        device=device,
        dtype=dtype,
        offload=offload,
        quantize=quantize,
        vae_tiling=is_small if entry.vae_tiling == "auto" else entry.vae_tiling,
        vae_slicing=entry.vae_slicing,
        attention=entry.attention,
        compile=entry.compile,
        batch_size=None if entry.images_at_once == "auto" else entry.images_at_once,
    )


def weights(
    placement: Placement, transformer: Path | None, elements: Mapping[str, int]
) -> Footprint:
    """What the weights will take."""
    sizes = part_bytes(transformer, elements, placement.dtype)
    if placement.quantize == "float8":
        sizes["transformer"] //= ITEM_BYTES[placement.dtype]
    whole, device = sum(sizes.values()), torch_device(placement.device)
    if device == CPU or placement.offload == "none":
        return Footprint({device: whole})
    largest = max(sizes.values()) if placement.offload == "model" else 0
    return Footprint({CPU: whole, device: largest})


def torch_device(device: str) -> str:
    """The name with a number of torch's first device of a kind."""
    return "cuda:0" if device == "cuda" else device


def part_bytes(transformer: Path | None, elements: Mapping[str, int], dtype: str) -> dict[str, int]:
    """Bytes of each part's weights in this type."""
    sizes = {part: count * ITEM_BYTES[dtype] for part, count in elements.items()}
    if transformer:
        sizes["transformer"] = file_bytes(transformer, dtype)
    return sizes


def check_room(sizes: Mapping[str, int], room: int, where: str, dtype: str, has_file: bool) -> None:
    """Raises ModelUnavailable if the weights don't fit."""
    if sum(sizes.values()) > room:
        smaller = "a smaller GGUF file" if has_file else "a GGUF file"
        raise ModelUnavailable(
            f"Its weights need {sum(sizes.values()) / GIB:.1f} GiB in {dtype}, but only "
            f"{max(0, room) / GIB:.1f} GiB are free for them on {where}. Set `transformer` to "
            f"{smaller} in models.toml, or free some memory.",
            "model",
        )


def _quantize(device: str, sizes: Mapping[str, int], room: int, is_file: bool) -> Quantize:
    """float8 if that makes everything fit the GPU, or else at least the transformer: moving bf16
    weights to it for each image takes longer than computing the image."""
    if device != "cuda" or is_file or sum(sizes.values()) + WORKING_BYTES <= room:
        return "none"
    halved = {**sizes, "transformer": sizes["transformer"] // 2}
    if sum(halved.values()) + WORKING_BYTES <= room:
        return "float8"
    is_needed = max(sizes.values()) + WORKING_BYTES > room
    return "float8" if is_needed and max(halved.values()) + WORKING_BYTES <= room else "none"


def _offload(sizes: Mapping[str, int], room: int) -> Offload:
    if sum(sizes.values()) + WORKING_BYTES <= room:
        return "none"
    # Text encoders read at most 256 tokens, so their activations are small.
    needs = (
        size + (WORKING_BYTES if part in ("transformer", "vae") else GIB // 2)
        for part, size in sizes.items()
    )
    return "model" if max(needs) <= room else "group"


def file_bytes(file: Path, dtype: str) -> int:
    """Memory that a transformer's file takes. Raises ModelUnavailable if its type is unknown."""
    if file.suffix == ".gguf":
        return file.stat().st_size
    if file.suffix == ".safetensors":
        return _elements(file) * ITEM_BYTES[dtype]
    raise ModelUnavailable(f"transformer: {file} is not a .gguf or .safetensors file.", "model")


def part_elements(folder: Path) -> dict[str, int]:
    """Part of a pipeline → its number of weights, from the headers of its safetensors files
    (https://huggingface.co/docs/safetensors). Raises ModelUnavailable if one is damaged."""
    counts: dict[str, int] = {}
    for file in sorted(folder.glob("*/*.safetensors")):
        counts[file.parent.name] = counts.get(file.parent.name, 0) + _elements(file)
    if not counts:
        raise ModelUnavailable(f"{folder} has no safetensors files in its parts.", "model")
    return counts


def _elements(file: Path) -> int:
    try:
        with file.open("rb") as stream:
            [size] = struct.unpack("<Q", stream.read(8))
            if size > MAX_HEADER_BYTES:
                raise ValueError("its header is too long")
            header = json.loads(stream.read(size))
        total = 0
        for name, tensor in header.items():
            if name != "__metadata__":
                count = 1
                for side in tensor["shape"]:
                    count *= int(side)
                total += count
        return total
    except (OSError, ValueError, struct.error, KeyError, TypeError, AttributeError) as error:
        raise ModelUnavailable(f"{file} is not a safetensors file: {error}", "model") from None


def free_memory(torch: Any, host_bytes: int | None) -> dict[str, int]:
    """Device that torch can use → free bytes (0: unknown), best device first."""
    found: dict[str, int] = {}
    if torch.cuda.is_available():
        found["cuda"] = torch.cuda.mem_get_info()[0]
    if torch.backends.mps.is_available():
        used = torch.mps.driver_allocated_memory()
        found["mps"] = torch.mps.recommended_max_memory() - used
    return {**found, "cpu": host_bytes or 0}


def torch_free(torch: Any) -> dict[str, int]:
    """Device → free bytes, of GPUs in use: asking one for the first time takes a second. A GPU that
    has failed answers no call any more, and has no room: models elsewhere must go on."""
    free: dict[str, int] = {}
    if torch.cuda.is_initialized():
        try:
            free["cuda:0"] = torch.cuda.mem_get_info(0)[0]
        except RuntimeError:
            free["cuda:0"] = 0
    if torch.backends.mps.is_available():
        used = torch.mps.driver_allocated_memory()
        free["mps"] = torch.mps.recommended_max_memory() - used
    return free


def torch_trim(torch: Any) -> None:
    """Gives what torch has freed back to the GPU, where others can have it."""
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def torch_allocated(torch: Any) -> dict[str, int]:
    """Device → bytes that torch has taken of it, in this process."""
    taken: dict[str, int] = {}
    if torch.cuda.is_initialized():
        taken["cuda:0"] = torch.cuda.memory_reserved(0)
    if torch.backends.mps.is_available():
        taken["mps"] = torch.mps.driver_allocated_memory()
    return taken


if __name__ == "__main__":  # for `localinfra doctor`
    import torch

    print(json.dumps(free_memory(torch, available_memory())))
